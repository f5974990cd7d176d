"""One handler for each command of the client protocol."""
