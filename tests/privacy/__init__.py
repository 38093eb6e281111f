"""Traffic full of what must not be recorded, and a search that finds it wherever it went."""
