"""What `starling` does as a client of a running service."""
