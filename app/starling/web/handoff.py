"""From an accepted WebSocket to a Connection: by hand-off to our server's socket, or by a loop on any other server."""

import asyncio
from collections import deque

from fastapi import WebSocket
from starlette.websockets import WebSocketState

from starling.auth.handshake import select_subprotocol
from starling.client.connection import Connection
from starling.engine.transport import NO_CLOSE_FRAME, Batch, Frame, Handler
from starling.engine.upgrade import EndpointConnection
from starling.protocol.codes import DISCONNECT_CONNECTION_CLOSED
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


class LoopTransport:
    """A Transport over plain ASGI, for Starling on any other server: a reader and a writer for each connection."""

    def __init__(self, websocket: WebSocket, handler: Handler, write_limit: int) -> None:
        self._websocket = websocket
        self._handler = handler
        self._write_limit = write_limit
        self._frames: deque[Frame] = deque()
        self._waiting = 0
        self._wake = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()
        self._closing: tuple[int, str] | None = None
        self._overflowed = False

    def send_frame(self, frame: Frame) -> None:
        """Queue a frame for the writer."""
        if self._closing is not None:
            return
        self._frames.append(frame)
        self._waiting += len(frame.payload)
        self._wake.set()
        if self._waiting > self._write_limit and not self._overflowed:
            self._overflowed = True
            self._handler.on_overflow()

    def send_batch(self, batch: Batch) -> None:
        """Queue frames for the writer."""
        self.queue_batch(batch)

    def queue_batch(self, batch: Batch) -> None:
        """Queue frames for the writer."""
        for frame in batch.frames:
            self.send_frame(frame)

    def ping(self) -> None:
        """Plain ASGI has no pings: the server's own keepalive watches the peer, so this one counts as answered."""
        self._handler.on_pong()

    def pause_reading(self) -> None:
        """Let the reader wait."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Let the reader go on."""
        self._reading.set()

    @property
    def replies_wait(self) -> bool:
        """False: the server that sends bounds what waits."""
        return False

    def takes_replies(self) -> bool:
        """As `replies_wait`."""
        return False

    def close(self, code: int, reason: str = "") -> None:
        """Let the writer close; after an overflow what was queued is dropped."""
        if self._closing is None:
            self._closing = (code, reason)
            if self._overflowed:
                self._frames.clear()
            self._wake.set()

    async def run(self) -> None:
        """Serve the conversation to its end."""
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._write())}
        for task in tasks:
            task.add_done_callback(_retrieve)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._closing = self._closing or (1006, "")
            self._handler.on_close(*self._closing)
        await asyncio.wait(tasks)

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

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._frames:
                frame = self._frames.popleft()
                self._waiting -= len(frame.payload)
                if frame.text:
                    await self._websocket.send_text(frame.payload.decode())
                else:
                    await self._websocket.send_bytes(frame.payload)
            if self._closing is not None:
                if self._websocket.application_state is WebSocketState.CONNECTED:
                    code, reason = self._closing
                    # Plain ASGI cannot end a connection without a close frame.
                    await self._websocket.close(
                        DISCONNECT_CONNECTION_CLOSED.code if code == NO_CLOSE_FRAME else code, reason
                    )
                return


def _retrieve(task: asyncio.Task[None]) -> None:
    """Retrieve the exception of a lost peer: `on_close` reports every end of the conversation."""
    if not task.cancelled():
        task.exception()
