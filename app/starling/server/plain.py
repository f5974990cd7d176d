"""A conversation by plain ASGI over a socket that was handed off: for endpoints that know no hand-off."""

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected

from starling.engine.transport import Transport
from starling.protocol.messages import Frame

WRITE_LIMIT = 2**20
TOO_SLOW = 1013
RESTART = 1012


class PlainConversation:
    """A Handler that keeps what the client says until the endpoint asks for it, one message at a time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._events: deque[dict[str, Any]] = deque()
        self._filled = asyncio.Event()
        self._closed = False

    async def receive(self) -> dict[str, Any]:
        """Give the next event; after the end, the end again."""
        while not self._events:
            self._filled.clear()
            self._transport.resume_reading()
            await self._filled.wait()
        return self._events[0] if self._closed and len(self._events) == 1 else self._events.popleft()

    def send(self, message: Any) -> None:
        """Send a message or close. Raises ClientDisconnected once the client is gone."""
        if self._closed:
            raise ClientDisconnected
        if message["type"] == "websocket.close":
            self._transport.close(message.get("code", 1000), message.get("reason") or "")
            return
        if message["type"] != "websocket.send":
            raise RuntimeError(f"expected websocket.send or websocket.close, and got {message['type']!r}")
        text = message.get("text")
        payload = message["bytes"] if text is None else text.encode()
        self._transport.send_frame(Frame(payload, text=text is not None))

    # Events of the transport

    def on_message(self, message: str | bytes) -> None:
        """Keep a message, and read no more until it is taken."""
        kind = "text" if isinstance(message, str) else "bytes"
        self._events.append({"type": "websocket.receive", kind: message})
        self._filled.set()
        self._transport.pause_reading()

    def on_pong(self) -> None:
        """Do nothing."""

    def on_drained(self) -> None:
        """Do nothing."""

    def on_overflow(self) -> None:
        """Disconnect a client that does not read."""
        self._transport.close(TOO_SLOW, "slow")

    def on_shutdown(self) -> None:
        """Close because the process stops."""
        self._transport.close(RESTART, "shutdown")

    def on_close(self, code: int, reason: str) -> None:
        """Queue the disconnect for the endpoint."""
        self._closed = True
        self._events.append({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._filled.set()
