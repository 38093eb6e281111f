"""The unit that issues certificates to sensors, the only one that reads the CA's key, and its tools."""
