"""The server: gunicorn and uvicorn, the processes, the sockets, and their shutdown."""

import os

# websockets reads this limit of one header line when it is first imported; starling.server.http bounds the whole head.
os.environ.setdefault("WEBSOCKETS_MAX_LINE_LENGTH", "16384")
