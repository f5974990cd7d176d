"""One connected client: its connection, its session and what its commands do."""
