"""For programs that write append-only streams, wherever they run: nothing here needs the service's own packages."""
