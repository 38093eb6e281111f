"""The hub's programs."""
