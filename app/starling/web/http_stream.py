"""`POST /connection/http_stream`: the client protocol in the body of a response, for clients without WebSocket.

The request's body is the connect command, with any others after it. Later commands come to `/emulation`.
"""

from starling.client.stream_connection import HttpStreamConnection
from starling.engine.direct_request import Respond, StreamResponse
from starling.engine.upgrade import Header, Upgrade
from starling.web.http_endpoint import HttpEndpoint

PATH = "/connection/http_stream"
# What keeps proxies and browsers from holding a stream back, or storing it.
STREAM_HEADERS: tuple[Header, ...] = (
    (b"x-accel-buffering", b"no"),
    (b"cache-control", b"private, no-cache, no-store, must-revalidate, max-age=0"),
    (b"pragma", b"no-cache"),
    (b"expire", b"0"),
)


class HttpStreamEndpoint(HttpEndpoint):
    """Opens a connection whose replies and pushes are lines of JSON."""

    path = PATH
    methods = ("POST",)

    def answer(self, request: Upgrade, method: str, body: bytes, respond: Respond) -> None:
        """Open a stream, unless the client is rejected."""
        if (rejected := self.rejection(request)) is not None:
            respond(rejected)
            return
        context = self._context
        connection = HttpStreamConnection(context.dispatcher, context.handshake(request), body)
        headers = [*STREAM_HEADERS, (b"content-type", b"application/x-ndjson")]
        respond(StreamResponse(headers, connection, context.write_limit, request.address))
