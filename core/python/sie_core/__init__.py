"""What agent and hub share."""

__version__ = "0.1.0"
