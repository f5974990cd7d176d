"""The engine: connections, channels and the fan-out between them."""
