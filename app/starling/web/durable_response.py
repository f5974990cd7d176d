"""Responses of the Durable Streams protocol: their headers, and the statuses of what was refused."""

import time
from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from starlette.datastructures import Headers
from starlette.types import Message, Send

from starling.engine.append_refusals import StreamRefused
from starling.engine.append_store import AppendOutcome, Producer, StreamInfo
from starling.engine.broker import StreamPosition
from starling.engine.channels import ChannelOptions
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error
from starling.web.durable_request import default_type, media_type_of, offset_text

_EXPOSED = (
    b"ETag, Location, Producer-Epoch, Producer-Expected-Seq, Producer-Received-Seq, Producer-Seq, Stream-Closed, "
    b"Stream-Cursor, Stream-Expires-At, Stream-Next-Offset, Stream-SSE-Data-Encoding, Stream-TTL, Stream-Up-To-Date"
)
_COMMON = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"access-control-expose-headers", _EXPOSED),
]
_METHODS = "GET, HEAD, PUT, POST, DELETE, OPTIONS"
NO_STORE = ("Cache-Control", "no-store")
_encode = msgspec.json.Encoder().encode

Head = tuple[str, str]


class Response(msgspec.Struct):
    """A response that is whole."""

    status: HTTPStatus
    headers: list[Head]
    body: bytes = b""


def open_to_all(send: Send) -> Send:
    """Let pages of every origin read what is sent."""

    async def send_open(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"access-control-allow-origin", b"*")]}
        await send(message)

    return send_open


def preflight(headers: Headers) -> Response:
    """The answer to a preflight of any page."""
    wanted = headers.get("access-control-request-headers", "*")
    allowed = [("Access-Control-Allow-Methods", _METHODS), ("Access-Control-Allow-Headers", wanted)]
    return Response(HTTPStatus.NO_CONTENT, [*allowed, ("Access-Control-Max-Age", "300")])


def stored_media_type(info: StreamInfo) -> str:
    """The media type of a stream, without parameters."""
    return media_type_of(info.media_type or default_type(info.kind))


def position_headers(info: StreamInfo) -> list[Head]:
    """Where the stream ends."""
    return [("Stream-Next-Offset", offset_text(StreamPosition(info.offset, info.epoch)))]


def description_headers(info: StreamInfo, options: ChannelOptions) -> list[Head]:
    """What a stream is: its type, its end, its life, and whether it is closed."""
    headers = [("Content-Type", info.media_type or default_type(info.kind)), *position_headers(info)]
    if info.expires_at:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(info.expires_at))
        headers.append(("Stream-Expires-At", f"{moment}.{int(info.expires_at * 1000) % 1000:03d}Z"))
    elif info.ttl != options.stream_ttl:
        headers.append(("Stream-TTL", f"{info.ttl:.0f}"))
    if info.status.closed:
        headers.append(("Stream-Closed", "true"))
    return headers


def closed_response(info: StreamInfo) -> Response:
    """The answer to an append to a stream that is closed."""
    return Response(HTTPStatus.CONFLICT, [("Stream-Closed", "true"), *position_headers(info)])


def refusal(status: HTTPStatus, message: str, code: int = codes.ERROR_BAD_REQUEST.code) -> Response:
    """An answer with an error in words, and its code of the client protocol."""
    body = _encode({"error": {"code": code, "message": message}})
    headers: list[Head] = [("Content-Type", "application/json"), NO_STORE]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    if status is HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", "Bearer"))
    return Response(status, headers, body)


_STATUSES = {
    codes.ERROR_UNKNOWN_CHANNEL.code: HTTPStatus.NOT_FOUND,
    codes.ERROR_PERMISSION_DENIED.code: HTTPStatus.FORBIDDEN,
    codes.ERROR_UNAUTHORIZED.code: HTTPStatus.UNAUTHORIZED,
    codes.ERROR_TOKEN_EXPIRED.code: HTTPStatus.UNAUTHORIZED,
    codes.DISCONNECT_INVALID_TOKEN.code: HTTPStatus.UNAUTHORIZED,
    codes.ERROR_TOO_MANY_REQUESTS.code: HTTPStatus.TOO_MANY_REQUESTS,
    codes.ERROR_LIMIT_EXCEEDED.code: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    codes.ERROR_UNRECOVERABLE_POSITION.code: HTTPStatus.GONE,
    codes.ERROR_NOT_AVAILABLE.code: HTTPStatus.NOT_FOUND,
    codes.ERROR_INTERNAL.code: HTTPStatus.SERVICE_UNAVAILABLE,
}


def refused_response(refused: CommandRefused) -> Response:
    """The answer to a command that was refused."""
    reason = refused.reason
    words = reason.message if isinstance(reason, Error) else reason.reason
    return refusal(_STATUSES.get(reason.code, HTTPStatus.BAD_REQUEST), words, reason.code)


def refused_append(refused: CommandRefused, producer: Producer | None, info: StreamInfo) -> Response:
    """The answer to an append that the stream did not take."""
    reason = refused.reason
    problem = reason.stream if isinstance(reason, StreamRefused) else None
    answer = refused_response(refused)
    match problem.reason if problem is not None else None:
        case AppendOutcome.ZOMBIE if problem is not None:
            return Response(
                HTTPStatus.FORBIDDEN, [*answer.headers, ("Producer-Epoch", str(problem.expected))], answer.body
            )
        case AppendOutcome.GAP | AppendOutcome.OVERLAP if problem is not None and producer is not None:
            numbers = [
                ("Producer-Expected-Seq", str(problem.expected)),
                ("Producer-Received-Seq", str(producer.sequence)),
            ]
            return Response(HTTPStatus.CONFLICT, [*answer.headers, *numbers], answer.body)
        case AppendOutcome.CLOSED:
            return closed_response(info)
        case AppendOutcome.STALE_MARK | AppendOutcome.OTHER_KIND:
            return Response(HTTPStatus.CONFLICT, answer.headers, answer.body)
    return answer


def head_message(status: HTTPStatus, headers: Sequence[Head], length: int | None) -> Message:
    """The beginning of a response over ASGI; `length` None: it is not known."""
    sent = [(name.lower().encode(), value.encode()) for name, value in headers]
    if length is not None and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        sent.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": status, "headers": [*sent, *_COMMON]}


async def send_response(send: Send, response: Response) -> None:
    """Send a whole response over ASGI."""
    await send(head_message(response.status, response.headers, len(response.body)))
    await send({"type": "http.response.body", "body": response.body})
