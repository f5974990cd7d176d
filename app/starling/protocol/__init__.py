"""The language clients speak, without I/O and without an event loop."""
