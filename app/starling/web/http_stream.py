"""`POST /connection/http_stream`: the client protocol in the body of a response, for clients without WebSocket.

The request's body is the connect command, with any others after it. Later commands come to `/emulation`.
"""

from collections.abc import Sequence
from http import HTTPStatus

from starling.client.emulation import EmulatedSessions
from starling.client.stream_connection import EmulatedConnection, HttpStreamConnection, ProtobufStreamConnection
from starling.engine.direct_request import DirectResponse, Respond, StreamResponse
from starling.engine.upgrade import Header, Upgrade
from starling.protocol import codes
from starling.protocol.codes import Disconnect
from starling.web.dependencies import WebContext, keeps_requests
from starling.web.http_endpoint import HttpEndpoint, refusal

PROTOBUF = "application/octet-stream"
NDJSON = "application/x-ndjson"
# The parameter of a query that holds the connect command, where a request has no body.
CONNECT_PARAMETER = b"cf_connect"
# What keeps proxies and browsers from holding a stream back, or storing it.
STREAM_HEADERS: tuple[Header, ...] = (
    (b"x-accel-buffering", b"no"),
    (b"cache-control", b"private, no-cache, no-store, must-revalidate, max-age=0"),
    (b"pragma", b"no-cache"),
    (b"expire", b"0"),
)


class EmulatedEndpoint(HttpEndpoint):
    """An endpoint whose response is a stream of the client protocol; subclasses name the path and the formats."""

    def __init__(self, context: WebContext, sessions: EmulatedSessions, max_body_bytes: int) -> None:
        super().__init__(context, max_body_bytes)
        self._sessions = sessions

    def refused(self, request: Upgrade, status: HTTPStatus, words: str) -> DirectResponse:
        """The response to a request that opens no stream; it is counted and logged."""
        metrics = self._context.engine.metrics
        metrics.refuse("parameters", path=request.path, address=request.address, remedy=words)
        return refusal(status, codes.ERROR_BAD_REQUEST, words)

    def open(
        self,
        request: Upgrade,
        kind: type[EmulatedConnection],
        commands: bytes,
        content_type: str,
        beginning: bytes = b"",
    ) -> DirectResponse | StreamResponse:
        """The stream of a client that begins with `commands`, unless it is rejected."""
        if (refused := self.not_acceptable(request, content_type)) is not None:
            return refused
        first = kind.codec.decode(commands)
        if isinstance(first, Disconnect) or not first[0].id or first[0].connect is None:
            words = "begin with a connect command in the format of the stream"
            return self.refused(request, HTTPStatus.BAD_REQUEST, words)
        if (rejected := self.rejection(request)) is not None:
            return rejected
        context = self._context
        handshake = context.handshake(request, cookie=context.takes_cookie(request))
        connection = kind(context.dispatcher, handshake, self._sessions, commands)
        if keeps_requests(context.engine.hooks):
            connection.request = context.request_for_hooks(request)
        headers = [*STREAM_HEADERS, (b"content-type", content_type.encode())]
        return StreamResponse(headers, connection, context.options.write_buffer_bytes, request.address, beginning)


class HttpStreamEndpoint(EmulatedEndpoint):
    """Opens a connection whose replies and pushes are lines of JSON, or messages of Protobuf."""

    path = "/connection/http_stream"
    methods: Sequence[str] = ("POST",)

    def answer(self, request: Upgrade, method: str, body: bytes, respond: Respond) -> None:
        """Open a stream in the format of the request."""
        if (request.header(b"content-type") or "").partition(";")[0].strip().lower() == PROTOBUF:
            respond(self.open(request, ProtobufStreamConnection, body, PROTOBUF))
        else:
            respond(self.open(request, HttpStreamConnection, body, NDJSON))
