"""Streamed responses over plain ASGI, for Starling on any other server."""

import asyncio

from starlette.types import Receive, Send

from starling.engine.direct_request import StreamResponse
from starling.engine.transport import Handler
from starling.web.asgi_transport import AsgiTransport


class AsgiStreams:
    """The streams that are open over plain ASGI, which no server of ours ends."""

    def __init__(self) -> None:
        self._open: set[Handler] = set()

    async def serve(self, response: StreamResponse, receive: Receive, send: Send) -> None:
        """Send `response`, until its connection ends or the client leaves."""
        await send({"type": "http.response.start", "status": 200, "headers": list(response.headers)})
        await send({"type": "http.response.body", "body": response.beginning, "more_body": True})
        connection = response.connection
        transport = AsgiStreamTransport(connection, response.write_limit, receive, send)
        self._open.add(connection)
        try:
            connection.open(transport, response.address)
            connection.begin()
            await transport.run()
        finally:
            self._open.discard(connection)

    def shutdown(self) -> None:
        """Disconnect all clients, because this process stops."""
        for handler in tuple(self._open):
            handler.on_shutdown()


class AsgiStreamTransport(AsgiTransport):
    """A Transport that writes the body of one response."""

    def __init__(self, handler: Handler, write_limit: int, receive: Receive, send: Send) -> None:
        super().__init__(handler, write_limit)
        self._receive = receive
        self._asgi_send = send

    def ping(self) -> None:
        """Do nothing: what keeps a stream alive is a frame of its own."""

    def pause_reading(self) -> None:
        """Do nothing: the client's commands come by other requests."""

    def resume_reading(self) -> None:
        """Have the handler go on, after this tick, with the commands that wait there."""
        asyncio.get_running_loop().call_soon(self._handler.on_drained)

    def takes_replies(self) -> bool:
        """True: the server that sends notices a client that is gone."""
        return True

    async def _read(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _send(self) -> None:
        body = b"".join([self._take().payload for _ in range(len(self._frames))])
        await self._asgi_send({"type": "http.response.body", "body": body, "more_body": True})

    async def _end(self, code: int, reason: str) -> None:
        await self._asgi_send({"type": "http.response.body", "body": b""})
