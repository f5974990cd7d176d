"""Append-only streams over HTTP, by the open protocol Durable Streams: PUT, POST, GET, HEAD and DELETE of one path."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from starling.engine.allowances import payer_of
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
from starling.engine.broker import BrokerRefused, BrokerUnavailable
from starling.engine.stream_chunks import ChunkInvalid, content_chunk
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.web.dependencies import WebContext
from starling.web.durable_access import StreamAccess
from starling.web.durable_reading import LONG_POLL_SECONDS, StreamReading, StreamRequest
from starling.web.durable_request import (
    OCTETS,
    Reader,
    RequestRefused,
    bad,
    closes,
    kind_of,
    life_of,
    media_type_of,
    producer_of,
)
from starling.web.durable_response import (
    NO_STORE,
    Response,
    closed_response,
    description_headers,
    open_to_all,
    position_headers,
    preflight,
    refusal,
    refused_append,
    refused_response,
    send_response,
    stored_media_type,
)
from starling.web.head_requests import IS_HEAD

# Where streams of the namespace without credentials are.
OPEN_PATH = "/v1/stream"
# The public conformance suite gives a test 5 s in all.
OPEN_POLL_SECONDS = 3.0
_READ_ONLY = "this namespace is read-only over HTTP: see stream_over_http"


class DurableStreams:
    """The endpoint of all streams, or of those of `namespace` alone, which then needs no credentials."""

    def __init__(self, context: WebContext, access: StreamAccess, path: str, *, namespace: str = "") -> None:
        self.path = path
        self._engine = context.engine
        self._access = access
        self._namespace = namespace
        self._reading = StreamReading(context.engine, OPEN_POLL_SECONDS if namespace else LONG_POLL_SECONDS)

    @property
    def route(self) -> Route:
        """Where an ASGI application finds it."""
        return Route(f"{self.path}/{{channel:path}}", self, include_in_schema=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method = "HEAD" if scope.get(IS_HEAD) else scope["method"]
        if self._namespace:
            send = open_to_all(send)
            if method == "OPTIONS":
                await send_response(send, preflight(Headers(scope=scope)))
                return
        try:
            request = self._request(scope)
            await self._check(scope, request, method)
            with self._counted(request):
                if method == "GET" and request.query.get("live") == "sse":
                    await self._reading.stream(request, receive, send)
                    return
                response = await self._answer(method, request, receive)
        except RequestRefused as refused:
            response = refusal(refused.status, str(refused))
        except CommandRefused as refused:
            response = refused_response(refused)
        except BrokerUnavailable as away:
            self._engine.refusals.report_call(f"stream {method}", away, request.channel)
            words = "the broker did nothing" if isinstance(away, BrokerRefused) else "the broker does not answer"
            response = refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{words}: {away}")
        await send_response(send, response)

    async def _check(self, scope: Scope, request: StreamRequest, method: str) -> None:
        """Raise RequestRefused or CommandRefused for what is not permitted."""
        if method not in ("GET", "HEAD") and request.options.stream_over_http == "read":
            raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, _READ_ONLY)
        if not self._namespace:
            request.reader = await self._access.check(scope, request.channel, request.options, method)

    def _request(self, scope: Scope) -> StreamRequest:
        name: str = scope["path_params"]["channel"]
        channel = f"{self._namespace}:{name}" if self._namespace else name
        options = self._engine.channels.options(channel)
        if options.stream is None or options.stream_over_http == "off":
            raise RequestRefused(HTTPStatus.NOT_FOUND, "the channel is no append-only stream over HTTP")
        return StreamRequest(scope, channel, options)

    async def _answer(self, method: str, request: StreamRequest, receive: Receive) -> Response:
        if method == "PUT":
            return await self._create(request, await _body(receive, request.options.stream_max_bytes))
        if method == "POST":
            return await self._append(request, await _body(receive, request.options.stream_max_bytes))
        if method == "DELETE":
            deleted = await self._engine.append_streams.delete(request.channel, request.options)
            return Response(HTTPStatus.NO_CONTENT if deleted else HTTPStatus.NOT_FOUND, [])
        if method == "HEAD":
            return Response(
                HTTPStatus.OK, [*description_headers(await self._reading.info(request), request.options), NO_STORE]
            )
        if method == "GET":
            return await self._reading.read(request)
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "use GET, HEAD, PUT, POST or DELETE")

    # Writing

    async def _create(self, request: StreamRequest, body: bytes) -> Response:
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
            chunk = await self._access.appended(request, kind, chunk)
            self._pay(request.reader)
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
                location = ("Location", request.url)
                described = [] if info is None else description_headers(info, options)
                return Response(HTTPStatus.CREATED, [*described, location])
            known = opened.info
        if known is None or not _same(known, media_type, ttl, life.expires_at or 0.0, closing=closing):
            raise RequestRefused(HTTPStatus.CONFLICT, "the stream is there already, with another type, life or end")
        return Response(HTTPStatus.OK, description_headers(known, options))

    def _pay(self, reader: Reader | None) -> None:
        """Spend for a new stream, as for the first use of a channel. Raises CommandRefused where nothing is left."""
        if reader is None:
            return
        first_uses, payer = self._engine.admission.clients.first_uses, payer_of(reader.user, reader.address)
        if first_uses.exhausted(payer):
            raise CommandRefused(codes.ERROR_TOO_MANY_REQUESTS)
        first_uses.spend(payer)

    @contextmanager
    def _counted(self, request: StreamRequest) -> Iterator[None]:
        """Count a request that waits as a connection. Raises RequestRefused where its user has as many as may be."""
        limit, reader = self._engine.admission.clients.connections, request.reader
        if reader is None or "live" not in request.query:
            yield
            return
        if limit.full(reader.user, reader.address):
            self._engine.metrics.refuse("user_connections")
            raise RequestRefused(HTTPStatus.TOO_MANY_REQUESTS, "this user has too many connections")
        holder = limit.add(reader.user, reader.address)
        try:
            yield
        finally:
            limit.remove(holder)

    async def _append(self, request: StreamRequest, body: bytes) -> Response:
        headers, closing = request.headers, closes(request.headers)
        producer = producer_of(headers)
        info = await self._reading.info(request)
        kind, chunk = info.kind, None
        if body:
            given = headers.get("content-type", "").strip()
            if not given:
                raise bad("Content-Type: it is missing")
            if info.status.closed and producer is None:
                return closed_response(info)
            if media_type_of(given) != stored_media_type(info):
                raise RequestRefused(HTTPStatus.CONFLICT, "Content-Type: it is not that of the stream")
            chunk = await self._access.appended(request, kind, _chunk(kind, body))
        elif not closing:
            raise bad("the body is empty: send a chunk, or close the stream with Stream-Closed: true")
        if closing and not body and info.status.closed and producer is None:
            return Response(HTTPStatus.NO_CONTENT, closed_response(info).headers)
        mark = headers.get("stream-seq", "")
        try:
            change = await self._add(request, kind, chunk, closing=closing, producer=producer, mark=mark)
        except CommandRefused as refused:
            return refused_append(refused, producer, await self._reading.info(request))
        written = [] if change.info is None else position_headers(change.info)
        if change.info is not None and change.info.status.closed:
            written.append(("Stream-Closed", "true"))
        if producer is None:
            return Response(HTTPStatus.NO_CONTENT, written)
        repeated = change.outcome is AppendOutcome.REPEATED
        written += [
            ("Producer-Epoch", str(producer.epoch)),
            ("Producer-Seq", str(change.expected if repeated else producer.sequence)),
        ]
        return Response(HTTPStatus.NO_CONTENT if repeated or chunk is None else HTTPStatus.OK, written)

    async def _add(
        self,
        request: StreamRequest,
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


def _same(info: StreamInfo, media_type: str, ttl: float, expires_at: float, *, closing: bool) -> bool:
    lives = info.expires_at == expires_at and (bool(expires_at) or info.ttl == ttl)
    return stored_media_type(info) == media_type and lives and info.status.closed == closing
