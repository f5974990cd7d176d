"""The endpoints of clients that only read bare pushes: `uni_sse`, `uni_http_stream` and `uni_websocket`."""

from http import HTTPStatus
from typing import ClassVar, Protocol

from msgspec import MsgspecError

from starling.auth.handshake import TokenSource
from starling.client.authority import Handshake, PendingToken
from starling.client.client_connection import ClientConnection, Executor
from starling.client.one_way import OneWayEvents, OneWayHttpStream, OneWayWebSocket, StreamedConnection
from starling.client.pending_transport import Answer
from starling.engine.direct_request import DirectResponse, Respond, StreamResponse
from starling.engine.upgrade import Denied, Header, Upgrade
from starling.protocol import codes
from starling.protocol.codec_json import read_connect_request
from starling.protocol.codes import Disconnect, Error
from starling.protocol.commands import ConnectRequest
from starling.protocol.event_stream import CONTENT_TYPE
from starling.web.api_errors import describe
from starling.web.client_endpoint import ClientEndpoint, choose_subprotocol, denied
from starling.web.dependencies import WebContext, keeps_requests
from starling.web.http_endpoint import HttpEndpoint, refusal
from starling.web.http_stream import CONNECT_PARAMETER, STREAM_HEADERS
from starling.web.refusals import error_body

EVENTS: Header = (b"content-type", CONTENT_TYPE.encode())
LINES: Header = (b"content-type", b"application/x-ndjson")
_AGAIN: Header = (b"retry-after", b"5")

_STATUS = {
    codes.ERROR_INTERNAL.code: HTTPStatus.SERVICE_UNAVAILABLE,
    codes.ERROR_UNAUTHORIZED.code: HTTPStatus.UNAUTHORIZED,
    codes.ERROR_UNKNOWN_CHANNEL.code: HTTPStatus.NOT_FOUND,
    codes.ERROR_PERMISSION_DENIED.code: HTTPStatus.FORBIDDEN,
    codes.ERROR_TOKEN_EXPIRED.code: HTTPStatus.UNAUTHORIZED,
    codes.ERROR_EXPIRED.code: HTTPStatus.UNAUTHORIZED,
    codes.ERROR_TOO_MANY_REQUESTS.code: HTTPStatus.TOO_MANY_REQUESTS,
    codes.DISCONNECT_INVALID_TOKEN.code: HTTPStatus.UNAUTHORIZED,
    codes.DISCONNECT_EXPIRED.code: HTTPStatus.UNAUTHORIZED,
    codes.DISCONNECT_CONNECTION_LIMIT.code: HTTPStatus.TOO_MANY_REQUESTS,
    codes.DISCONNECT_TOO_MANY_REQUESTS.code: HTTPStatus.TOO_MANY_REQUESTS,
}
# Codes of the application and of rights; the others under these bounds are the fault of the request.
_FIRST_FORBIDDEN = 400


def status_of(reason: Error | Disconnect) -> HTTPStatus:
    """The status of a request that is refused for `reason`."""
    known = _STATUS.get(reason.code)
    if known is not None:
        return known
    if isinstance(reason, Error):
        return HTTPStatus.FORBIDDEN if reason.code >= _FIRST_FORBIDDEN else HTTPStatus.BAD_REQUEST
    if reason.code in (codes.DISCONNECT_BAD_REQUEST.code, codes.DISCONNECT_CHANNEL_LIMIT.code):
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.SERVICE_UNAVAILABLE if reason.reconnect else HTTPStatus.FORBIDDEN


class StreamAnswer:
    """The two answers to the request of a client that only reads; see starling.client.pending_transport.Answer."""

    def __init__(self, context: WebContext, request: Upgrade, respond: Respond, content: Header) -> None:
        self._context = context
        self._request = request
        self._respond = respond
        self._content = content
        self.connection: StreamedConnection | None = None

    def accept(self) -> None:
        """Begin the response."""
        if self.connection is not None:
            headers, limit = [*STREAM_HEADERS, self._content], self._context.options.write_buffer_bytes
            self._respond(StreamResponse(headers, self.connection, limit, self._request.address))
            self.connection = None

    def refuse(self, reason: Error | Disconnect) -> None:
        """Answer with a status, and log it."""
        self.connection = None
        status, request = status_of(reason), self._request
        message = reason.message if isinstance(reason, Error) else reason.reason
        self._context.engine.metrics.refuse(
            "connect_refused",
            path=request.path,
            address=request.address,
            status=status.value,
            code=reason.code,
            detail=message,
        )
        headers: list[Header] = [(b"content-type", b"application/json")]
        if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
            headers.append(_AGAIN)
        if status == HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", b"Bearer"))
        self._respond(DirectResponse(status, headers, error_body(reason)))


class _Streamed(Protocol):
    """The class of a connection."""

    def __call__(
        self, executor: Executor, handshake: Handshake, request: ConnectRequest, answer: Answer
    ) -> StreamedConnection:
        """Make one."""


class OneWayEndpoint(HttpEndpoint):
    """Opens the stream of a client that only reads, by a ConnectRequest in the body or in the query."""

    content: ClassVar[Header]
    connection: ClassVar[_Streamed]

    def answer(self, request: Upgrade, method: str, body: bytes, respond: Respond) -> None:
        """Open a stream, unless the client is rejected or refused."""
        if (rejected := self.rejection(request)) is not None:
            respond(rejected)
            return
        if (refused := self.not_acceptable(request, self.content[1].decode())) is not None:
            respond(refused)
            return
        content = body
        if method == "GET":
            content = (request.parameter(CONNECT_PARAMETER) or "").encode()
        try:
            connect = read_connect_request(content)
        except (MsgspecError, UnicodeError, RecursionError) as problem:
            respond(bad_request(self._context, request, describe(problem)))
            return
        context = self._context
        answer = StreamAnswer(context, request, respond, self.content)
        connection = type(self).connection(context.dispatcher, handshake_of(context, request), connect, answer)
        begin(context, connection, answer, request)

    def head(self, request: Upgrade) -> DirectResponse:
        """The head of a stream."""
        return DirectResponse(HTTPStatus.OK, [*STREAM_HEADERS, self.content], b"")


class OneWayEventsEndpoint(OneWayEndpoint):
    """Bare pushes as server-sent events."""

    path = "/connection/uni_sse"
    methods = ("GET", "POST")
    content = EVENTS
    connection = OneWayEvents


class OneWayHttpStreamEndpoint(OneWayEndpoint):
    """Bare pushes as lines of JSON."""

    path = "/connection/uni_http_stream"
    methods = ("POST",)
    content = LINES
    connection = OneWayHttpStream


class OneWayWebSocketEndpoint(ClientEndpoint):
    """Bare pushes as WebSocket messages. The ConnectRequest is the first message, or in the query."""

    path = "/connection/uni_websocket"

    def open(self, upgrade: Upgrade) -> tuple[ClientConnection, str | None] | Denied:
        """The connection of a client, and the subprotocol that the upgrade answers."""
        content = upgrade.parameter(CONNECT_PARAMETER)
        try:
            request = None if content is None else read_connect_request(content.encode())
        except (MsgspecError, UnicodeError, RecursionError) as problem:
            self._context.engine.metrics.refuse("parameters", path=upgrade.path, address=upgrade.address)
            return denied(HTTPStatus.BAD_REQUEST, f"{CONNECT_PARAMETER.decode()}: {describe(problem)}")
        handshake = self._context.handshake(upgrade)
        return OneWayWebSocket(self._context.dispatcher, handshake, request), choose_subprotocol(upgrade)


def begin(context: WebContext, connection: StreamedConnection, answer: StreamAnswer, request: Upgrade) -> None:
    """Carry out the request of `connection`, which `answer` answers."""
    answer.connection = connection
    if keeps_requests(context.engine.hooks):
        connection.request = context.request_for_hooks(request, cookies=context.takes_cookie(request))
    connection.start(request.address)


def handshake_of(context: WebContext, request: Upgrade, right: str = "") -> Handshake:
    """What is known of a client by its request. `right` resumes the session of a ticket that is spent."""
    cookie = context.takes_cookie(request)
    if right:
        presented = context.presented_token(request, cookie=cookie)
        if presented is None:
            return PendingToken(right)
        if presented.source is TokenSource.TICKET:
            return PendingToken(presented.token, right)
    return context.handshake(request, cookie=cookie)


def bad_request(context: WebContext, request: Upgrade, detail: str) -> DirectResponse:
    """The answer to a request that cannot be understood; it is counted here."""
    context.engine.metrics.refuse("parameters", path=request.path, address=request.address, detail=detail)
    return refusal(HTTPStatus.BAD_REQUEST, codes.ERROR_BAD_REQUEST, detail)
