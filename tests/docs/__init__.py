"""The pages of the documentation as tests read them, and a machine on which their commands run."""
