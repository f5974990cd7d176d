"""The client layer: one connected client, its connection, its session and the handlers of its commands."""
