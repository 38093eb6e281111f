"""The agent: the program on a sensor."""
