"""From an accepted WebSocket to a Connection: by hand-off to our server's socket, or by a loop on any other server."""

import asyncio

from fastapi import WebSocket
from starlette.websockets import WebSocketState

from starling.auth.handshake import select_subprotocol
from starling.client.connection import Connection
from starling.engine.transport import NO_CLOSE_FRAME, Handler
from starling.engine.upgrade import EndpointConnection
from starling.protocol.codes import DISCONNECT_CONNECTION_CLOSED
from starling.web.asgi_transport import AsgiTransport
from starling.web.dependencies import WebContext, own_socket


async def hand_off(websocket: WebSocket, connection: Connection, context: WebContext) -> None:
    """Accept a client of a tutorial endpoint, with `starling.v1` where that is offered; then as `converse`.

    Others may have taken the last places since this client was admitted: then it is rejected here.
    """
    admission = context.engine.admission
    if admission.full:
        raise context.reject(admission.no_room())
    await converse(
        websocket, connection, select_subprotocol(websocket.scope["subprotocols"]), context.options.write_buffer_bytes
    )


async def converse(
    websocket: WebSocket, connection: EndpointConnection, subprotocol: str | None, write_limit: int
) -> None:
    """Accept, and give `connection` the socket.

    On our own server this returns at once, and nothing of the request stays alive; on any other ASGI server it returns
    when the connection has ended.
    """
    await websocket.accept(subprotocol)
    address = websocket.client.host if websocket.client else ""
    own = own_socket(websocket)
    if own is not None:
        connection.open(own, address)
        own.detach(connection, write_limit=write_limit)
        return
    transport = LoopTransport(websocket, connection, write_limit)
    connection.open(transport, address)
    await transport.run()


class LoopTransport(AsgiTransport):
    """A Transport over a WebSocket of plain ASGI."""

    def __init__(self, websocket: WebSocket, handler: Handler, write_limit: int) -> None:
        super().__init__(handler, write_limit)
        self._websocket = websocket
        self._reading = asyncio.Event()
        self._reading.set()

    def ping(self) -> None:
        """Plain ASGI has no pings: the server's own keepalive watches the peer, so this one counts as answered."""
        self._handler.on_pong()

    def pause_reading(self) -> None:
        """Let the reader wait."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Let the reader go on."""
        self._reading.set()

    def takes_replies(self) -> bool:
        """As `replies_wait`."""
        return False

    def close(self, code: int, reason: str = "") -> None:
        """Let the writer close; after an overflow nothing goes before the close frame."""
        if self._overflowed and self._closing is None:
            self._drop()
        super().close(code, reason)

    async def _read(self) -> None:
        while True:
            await self._reading.wait()
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._closing = self._closing or (message.get("code", 1005), message.get("reason") or "")
                return
            text = message.get("text")
            if self._closing is None:
                self._handler.on_message(message["bytes"] if text is None else text)

    async def _send(self) -> None:
        frame = self._take()
        if frame.text:
            await self._websocket.send_text(frame.payload.decode())
        else:
            await self._websocket.send_bytes(frame.payload)

    async def _end(self, code: int, reason: str) -> None:
        if self._websocket.application_state is WebSocketState.CONNECTED:
            # Plain ASGI cannot end a connection without a close frame.
            await self._websocket.close(DISCONNECT_CONNECTION_CLOSED.code if code == NO_CLOSE_FRAME else code, reason)
