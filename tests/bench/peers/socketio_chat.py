"""A chat on python-socketio: what one client publishes is emitted to all."""

from typing import Any

import socketio  # type: ignore[import-not-found]  # only the peers' environment has it

server = socketio.AsyncServer(async_mode="asgi")
app = socketio.ASGIApp(server)


@server.event  # type: ignore[untyped-decorator]
async def publish(_sid: str, data: Any) -> None:
    """Say to all what one says."""
    await server.emit("message", data)
