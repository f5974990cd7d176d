"""Append-only streams over HTTP, by the open protocol Durable Streams: PUT, POST, GET, HEAD and DELETE of one path."""

import asyncio
import base64
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus

import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from starling.engine.append_store import (
    AppendOutcome,
    Change,
    Chunk,
    Closing,
    Producer,
    StreamInfo,
    StreamKind,
    StreamStatus,
)
from starling.engine.append_streams import StreamRefused
from starling.engine.broker import BrokerUnavailable, StreamPosition
from starling.engine.channels import ChannelOptions
from starling.engine.stream_chunks import ChunkInvalid, content_chunk, content_of
from starling.engine.stream_reader import StreamLost, StreamReader
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error
from starling.protocol.commands import HistoryRequest
from starling.protocol.messages import Publication
from starling.protocol.messages import StreamPosition as Since
from starling.web.dependencies import WebContext
from starling.web.durable_access import StreamAccess
from starling.web.durable_request import (
    NOW,
    OCTETS,
    START,
    RequestRefused,
    bad,
    closes,
    default_type,
    kind_of,
    life_of,
    media_type_of,
    next_cursor,
    offset_of,
    offset_text,
    producer_of,
)
from starling.web.head_requests import IS_HEAD

# Where streams of the namespace without credentials are.
OPEN_PATH = "/v1/stream"
LONG_POLL_SECONDS = 20.0
SSE_SECONDS = 60.0
READ_BYTES = 1024 * 1024
_READ_ONLY = "this namespace is read-only over HTTP: see stream_over_http"
_COMMON = [(b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"cross-origin")]
_NO_STORE = ("Cache-Control", "no-store")
_CATCH_UP_CACHE = ("Cache-Control", "private, max-age=60, stale-while-revalidate=300")
_encode = msgspec.json.Encoder().encode

Head = tuple[str, str]


class Response(msgspec.Struct):
    """A response that is whole."""

    status: HTTPStatus
    headers: list[Head]
    body: bytes = b""


class _Request:
    """One request for one stream."""

    def __init__(self, scope: Scope, channel: str, options: ChannelOptions) -> None:
        self.channel = channel
        self.options = options
        self.headers = Headers(scope=scope)
        self.query = QueryParams(scope["query_string"])
        self.path: str = scope["path"]


class DurableStreams:
    """The endpoint of all streams, or of those of `namespace` alone, which then needs no credentials."""

    def __init__(self, context: WebContext, access: StreamAccess, path: str, *, namespace: str = "") -> None:
        self.path = path
        self._engine = context.engine
        self._access = access
        self._namespace = namespace
        self._readers: set[StreamReader] = set()
        self._engine.readiness.observe(self._note_readiness)

    @property
    def route(self) -> Route:
        """Where an ASGI application finds it."""
        return Route(f"{self.path}/{{channel:path}}", self, include_in_schema=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method = "HEAD" if scope.get(IS_HEAD) else scope["method"]
        try:
            request = self._request(scope)
            await self._check(scope, request, method)
            if method == "GET" and request.query.get("live") == "sse":
                await self._stream(request, receive, send)
                return
            response = await self._answer(method, request, receive)
        except RequestRefused as refused:
            response = _refusal(refused.status, str(refused))
        except CommandRefused as refused:
            response = _refused(refused)
        except BrokerUnavailable as away:
            response = _refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"the broker does not answer: {away}")
        await _send(send, response)

    async def _check(self, scope: Scope, request: _Request, method: str) -> None:
        """Raise RequestRefused or CommandRefused for what is not permitted."""
        if method not in ("GET", "HEAD") and request.options.stream_over_http == "read":
            raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, _READ_ONLY)
        if not self._namespace:
            await self._access.check(scope, request.channel, request.options, method)

    def _request(self, scope: Scope) -> _Request:
        name: str = scope["path_params"]["channel"]
        channel = f"{self._namespace}:{name}" if self._namespace else name
        options = self._engine.channels.options(channel)
        if options.stream is None or options.stream_over_http == "off":
            raise RequestRefused(HTTPStatus.NOT_FOUND, "the channel is no append-only stream over HTTP")
        return _Request(scope, channel, options)

    async def _answer(self, method: str, request: _Request, receive: Receive) -> Response:
        if method == "PUT":
            return await self._create(request, await _body(receive, request.options.stream_max_bytes))
        if method == "POST":
            return await self._append(request, await _body(receive, request.options.stream_max_bytes))
        if method == "DELETE":
            deleted = await self._engine.append_streams.delete(request.channel, request.options)
            return Response(HTTPStatus.NO_CONTENT if deleted else HTTPStatus.NOT_FOUND, [])
        if method == "HEAD":
            return Response(HTTPStatus.OK, [*_described(await self._info(request), request.options), _NO_STORE])
        if method == "GET":
            return await self._read(request)
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "use GET, HEAD, PUT, POST or DELETE")

    async def _info(self, request: _Request) -> StreamInfo:
        info = await self._engine.append_streams.info(request.channel, request.options)
        if info is None:
            raise RequestRefused(HTTPStatus.NOT_FOUND, "there is no stream: create it with PUT")
        return info

    # Writing

    async def _create(self, request: _Request, body: bytes) -> Response:
        headers, options, streams = request.headers, request.options, self._engine.append_streams
        if any(name.startswith("stream-fork") for name in headers):
            raise RequestRefused(HTTPStatus.NOT_IMPLEMENTED, "streams cannot be forked here")
        content_type = headers.get("content-type", "").strip() or OCTETS
        media_type, life, closing = media_type_of(content_type), life_of(headers), closes(headers)
        kind = kind_of(media_type)
        chunk = _chunk(kind, body, empty_array=True)
        ttl = options.stream_ttl if life.ttl is None else life.ttl
        known = await streams.info(request.channel, options)
        if known is None:
            opened = await streams.open(
                request.channel,
                options,
                kind,
                ttl=ttl,
                watched=False,
                media_type=content_type,
                expires_at=life.expires_at or 0.0,
            )
            if opened.created:
                info = opened.info
                if chunk is not None or closing:
                    info = (await self._add(request, kind, chunk, closing=closing)).info
                location = ("Location", request.path)
                described = [] if info is None else _described(info, options)
                return Response(HTTPStatus.CREATED, [*described, location])
            known = opened.info
        if known is None or not _same(known, media_type, ttl, life.expires_at or 0.0, closing=closing):
            raise RequestRefused(HTTPStatus.CONFLICT, "the stream is there already, with another type, life or end")
        return Response(HTTPStatus.OK, _described(known, options))

    async def _append(self, request: _Request, body: bytes) -> Response:
        headers, closing = request.headers, closes(request.headers)
        producer = producer_of(headers)
        info = await self._info(request)
        kind, chunk = info.kind, None
        if body:
            given = headers.get("content-type", "").strip()
            if not given:
                raise bad("Content-Type: it is missing")
            if info.status.closed and producer is None:
                return _closed(info)
            if media_type_of(given) != _media_type(info):
                raise RequestRefused(HTTPStatus.CONFLICT, "Content-Type: it is not that of the stream")
            chunk = _chunk(kind, body)
        elif not closing:
            raise bad("the body is empty: send a chunk, or close the stream with Stream-Closed: true")
        if closing and not body and info.status.closed and producer is None:
            return Response(HTTPStatus.NO_CONTENT, _closed(info).headers)
        mark = headers.get("stream-seq", "")
        try:
            change = await self._add(request, kind, chunk, closing=closing, producer=producer, mark=mark)
        except CommandRefused as refused:
            return _refused_append(refused, producer, await self._info(request))
        written = [] if change.info is None else _position(change.info)
        if change.info is not None and change.info.status.closed:
            written.append(("Stream-Closed", "true"))
        if producer is None:
            return Response(HTTPStatus.NO_CONTENT, written)
        written += [("Producer-Epoch", str(producer.epoch)), ("Producer-Seq", str(producer.sequence))]
        repeated = change.outcome is AppendOutcome.REPEATED
        return Response(HTTPStatus.NO_CONTENT if repeated or chunk is None else HTTPStatus.OK, written)

    async def _add(
        self,
        request: _Request,
        kind: StreamKind,
        chunk: Chunk | None,
        *,
        closing: bool = False,
        producer: Producer | None = None,
        mark: str = "",
    ) -> Change:
        return await self._engine.append_streams.append(
            request.channel,
            request.options,
            chunk,
            kind,
            closing=Closing(StreamStatus.COMPLETE) if closing else None,
            producer=producer,
            watched=producer is not None,
            mark=mark,
        )

    # Reading

    async def _read(self, request: _Request) -> Response:
        live = request.query.get("live")
        wanted = offset_of(request.query)
        if live is not None and live != "long-poll":
            raise bad("live: long-poll or sse")
        if live is not None and wanted is None:
            raise bad("offset: it is needed to read live")
        info = await self._info(request)
        start = _start(wanted, info)
        publications, top = await self._page(request, start)
        if live is None:
            return self._catch_up(request, info, start, publications, top, fresh=wanted == NOW)
        cursor = ("Stream-Cursor", next_cursor(request.query.get("cursor", "")))
        if not publications and not info.status.closed:
            publications = await self._wait(request, start)
            info = await self._info(request)
            top = max(top, info.offset)
        response = self._content(info, start, publications, top)
        response.headers += [cursor, _NO_STORE]
        if not response.body or not publications:
            return Response(HTTPStatus.NO_CONTENT, response.headers)
        return response

    def _catch_up(
        self,
        request: _Request,
        info: StreamInfo,
        start: StreamPosition,
        publications: Sequence[Publication],
        top: int,
        *,
        fresh: bool,
    ) -> Response:
        response = self._content(info, start, publications, top)
        if fresh:
            response.headers.append(_NO_STORE)
            return response
        end = publications[-1].offset if publications else start.offset
        closed = any(name == "Stream-Closed" for name, _ in response.headers)
        tag = f'"{info.epoch}:{start.offset}:{end}{":c" if closed else ""}"'
        response.headers += [("ETag", tag), _CATCH_UP_CACHE]
        if tag in [each.strip() for each in request.headers.get("if-none-match", "").split(",")]:
            return Response(HTTPStatus.NOT_MODIFIED, response.headers)
        return response

    async def _page(self, request: _Request, start: StreamPosition) -> tuple[list[Publication], int]:
        """What follows a position, as much as one response holds, and the offset of the stream's end."""
        since = Since(start.offset, start.epoch)
        found = await self._engine.history.read(
            request.channel, request.options, HistoryRequest(request.channel, -1, since), None, READ_BYTES
        )
        return list(found.publications), found.offset

    def _content(
        self, info: StreamInfo, start: StreamPosition, publications: Sequence[Publication], top: int
    ) -> Response:
        end = publications[-1].offset if publications else start.offset
        headers = [
            ("Content-Type", info.media_type or default_type(info.kind)),
            ("Stream-Next-Offset", offset_text(StreamPosition(end, info.epoch))),
        ]
        if end >= top:
            headers.append(("Stream-Up-To-Date", "true"))
            if info.status.closed and end >= info.offset:
                headers.append(("Stream-Closed", "true"))
        return Response(HTTPStatus.OK, headers, _joined(info.kind, publications))

    async def _wait(self, request: _Request, start: StreamPosition) -> list[Publication]:
        """What comes within the time of a long poll, or the end of the stream."""
        end = time.monotonic() + LONG_POLL_SECONDS
        async with self._engine.stream_readers.open(request.channel, request.options, start) as reader:
            self._readers.add(reader)
            try:
                while (left := end - time.monotonic()) > 0:
                    found = await reader.next(left)
                    if any(map(_counts, found)):
                        return found
            except StreamLost:
                return []
            finally:
                self._readers.discard(reader)
        return []

    # Server-sent events

    async def _stream(self, request: _Request, receive: Receive, send: Send) -> None:
        wanted = offset_of(request.query)
        if wanted is None:
            raise bad("offset: it is needed to read live")
        info = await self._info(request)
        start = _start(wanted, info)
        headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]
        if info.kind is StreamKind.BYTES:
            headers.append(("Stream-SSE-Data-Encoding", "base64"))
        await send(_head(HTTPStatus.OK, headers, None))
        writing = asyncio.ensure_future(self._write_events(request, info, start, send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((writing, gone), return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
                await send({"type": "http.response.body", "body": b""})
        finally:
            for task in (writing, gone):
                task.cancel()
            await asyncio.wait((writing, gone))

    async def _write_events(self, request: _Request, info: StreamInfo, start: StreamPosition, send: Send) -> None:
        """Write events until the stream is closed, or the time of one response is over."""
        end = time.monotonic() + SSE_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - spreads reconnects
        at, first, cursor = start.offset, True, request.query.get("cursor", "")
        async with self._engine.stream_readers.open(request.channel, request.options, start) as reader:
            self._readers.add(reader)
            with suppress(StreamLost):
                while (left := end - time.monotonic()) > 0:
                    behind = first and info.offset > at
                    found = [] if first and not behind else await reader.next(left)
                    closed = info.status.closed and at >= info.offset
                    if found:
                        at = found[-1].offset
                        closed = any(_closes(each) for each in found)
                    elif not first:
                        break
                    first = first and not found and behind
                    cursor = next_cursor(cursor)
                    body = _event(info.kind, found) + _control(StreamPosition(at, info.epoch), cursor, closed=closed)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    first = False
                    if closed:
                        break
            self._readers.discard(reader)

    def _note_readiness(self) -> None:
        if self._engine.readiness.draining:
            for reader in tuple(self._readers):
                reader.lose_state("")


async def _body(receive: Receive, limit: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise bad("the body breaks off")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            words = f"the body has over {limit} bytes, see stream_max_bytes"
            raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _chunk(kind: StreamKind, body: bytes, *, empty_array: bool = False) -> Chunk | None:
    if not body:
        return None
    try:
        chunk = content_chunk(kind, body)
    except ChunkInvalid as invalid:
        raise bad(f"the body: {invalid}") from invalid
    if not chunk.units:
        if kind is StreamKind.JSON and not empty_array:
            raise bad("the body: an empty array adds nothing")
        return None
    return chunk


def _start(wanted: str | StreamPosition | None, info: StreamInfo) -> StreamPosition:
    if wanted is None or wanted == START:
        return StreamPosition(0, info.epoch)
    if wanted == NOW:
        return StreamPosition(info.offset, info.epoch)
    if isinstance(wanted, str):
        raise bad("offset: it cannot be read")
    if wanted.epoch != info.epoch:
        raise RequestRefused(HTTPStatus.GONE, "offset: it is of a stream that was deleted")
    return StreamPosition(wanted.offset, info.epoch)


def _counts(publication: Publication) -> bool:
    """Whether a reader has something of a publication: content, or the end."""
    return bool(content_of(publication)) or _closes(publication)


def _closes(publication: Publication) -> bool:
    status = (publication.tags or {}).get("status")
    return status is not None and StreamStatus(status).closed


def _joined(kind: StreamKind, publications: Sequence[Publication]) -> bytes:
    contents = [content for each in publications if (content := content_of(each))]
    return b"[%b]" % b",".join(contents) if kind is StreamKind.JSON else b"".join(contents)


def _event(kind: StreamKind, publications: Sequence[Publication]) -> bytes:
    content = _joined(kind, publications)
    if not content or (kind is StreamKind.JSON and content == b"[]"):
        return b""
    if kind is StreamKind.BYTES:
        content = base64.b64encode(content)
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"event: data\n" + b"".join(b"data: %b\n" % line for line in lines) + b"\n"


def _control(position: StreamPosition, cursor: str, *, closed: bool) -> bytes:
    control: dict[str, str | bool] = {"streamNextOffset": offset_text(position)}
    if closed:
        control["streamClosed"] = True
    else:
        control |= {"streamCursor": cursor, "upToDate": True}
    return b"event: control\ndata: %b\n\n" % _encode(control)


def _media_type(info: StreamInfo) -> str:
    return media_type_of(info.media_type or default_type(info.kind))


def _same(info: StreamInfo, media_type: str, ttl: float, expires_at: float, *, closing: bool) -> bool:
    lives = info.expires_at == expires_at and (bool(expires_at) or info.ttl == ttl)
    return _media_type(info) == media_type and lives and info.status.closed == closing


def _position(info: StreamInfo) -> list[Head]:
    return [("Stream-Next-Offset", offset_text(StreamPosition(info.offset, info.epoch)))]


def _described(info: StreamInfo, options: ChannelOptions) -> list[Head]:
    headers = [("Content-Type", info.media_type or default_type(info.kind)), *_position(info)]
    if info.expires_at:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(info.expires_at))
        headers.append(("Stream-Expires-At", f"{moment}.{int(info.expires_at * 1000) % 1000:03d}Z"))
    elif info.ttl != options.stream_ttl:
        headers.append(("Stream-TTL", f"{info.ttl:.0f}"))
    if info.status.closed:
        headers.append(("Stream-Closed", "true"))
    return headers


def _closed(info: StreamInfo) -> Response:
    return Response(HTTPStatus.CONFLICT, [("Stream-Closed", "true"), *_position(info)])


def _refusal(status: HTTPStatus, message: str) -> Response:
    body = _encode({"error": {"code": codes.ERROR_BAD_REQUEST.code, "message": message}})
    headers: list[Head] = [("Content-Type", "application/json"), _NO_STORE]
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
    codes.ERROR_LIMIT_EXCEEDED.code: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    codes.ERROR_UNRECOVERABLE_POSITION.code: HTTPStatus.GONE,
    codes.ERROR_NOT_AVAILABLE.code: HTTPStatus.NOT_FOUND,
    codes.ERROR_INTERNAL.code: HTTPStatus.SERVICE_UNAVAILABLE,
}


def _refused(refused: CommandRefused) -> Response:
    reason = refused.reason
    words = reason.message if isinstance(reason, Error) else reason.reason
    return _refusal(_STATUSES.get(reason.code, HTTPStatus.BAD_REQUEST), words)


def _refused_append(refused: CommandRefused, producer: Producer | None, info: StreamInfo) -> Response:
    """The answer to an append that the stream did not take."""
    reason = refused.reason
    problem = reason.stream if isinstance(reason, StreamRefused) else None
    answer = _refused(refused)
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
            return _closed(info)
        case AppendOutcome.STALE_MARK | AppendOutcome.OTHER_KIND:
            return Response(HTTPStatus.CONFLICT, answer.headers, answer.body)
    return answer


def _head(status: HTTPStatus, headers: Sequence[Head], length: int | None) -> Message:
    sent = [(name.lower().encode(), value.encode()) for name, value in headers]
    if length is not None and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        sent.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": status, "headers": [*sent, *_COMMON]}


async def _send(send: Send, response: Response) -> None:
    await send(_head(response.status, response.headers, len(response.body)))
    await send({"type": "http.response.body", "body": response.body})
