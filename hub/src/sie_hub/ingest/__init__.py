"""The unit that takes containers in from sensors and puts them into the RAW stream, each exactly once."""
