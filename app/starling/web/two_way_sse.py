"""`GET /connection/sse`: the client protocol in an event stream, for browsers' EventSource; by POST for others.

The connect command, with any others after it, is in the query as `cf_connect`, or in the body of a POST. Later commands
come to `/emulation`.
"""

from collections.abc import Sequence
from http import HTTPStatus

from starling.client.stream_connection import SseConnection
from starling.engine.direct_request import DirectResponse, Respond
from starling.engine.upgrade import Upgrade
from starling.protocol.event_stream import CONTENT_TYPE
from starling.web.http_stream import CONNECT_PARAMETER, STREAM_HEADERS, EmulatedEndpoint


class SseEndpoint(EmulatedEndpoint):
    """Opens a connection whose replies and pushes are events."""

    path = "/connection/sse"
    methods: Sequence[str] = ("GET", "POST")

    def answer(self, request: Upgrade, method: str, body: bytes, respond: Respond) -> None:
        """Open an event stream."""
        if method == "GET":
            body = (request.parameter(CONNECT_PARAMETER) or "").encode()
            if not body:
                words = "put the connect command into the query as cf_connect"
                respond(self.refused(request, HTTPStatus.BAD_REQUEST, words))
                return
        # A line end by itself is no event: it gets the head of the response through proxies that wait for a body.
        respond(self.open(request, SseConnection, body, CONTENT_TYPE, b"\r\n"))

    def head(self, request: Upgrade) -> DirectResponse:
        """The head that a stream would have."""
        return DirectResponse(HTTPStatus.OK, [*STREAM_HEADERS, (b"content-type", CONTENT_TYPE.encode())], b"")
