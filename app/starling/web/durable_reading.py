"""Reading append-only streams over HTTP: what is there, what comes within a long poll, and server-sent events."""

import asyncio
import base64
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.types import Message, Receive, Scope, Send

from starling.engine.append_store import StreamInfo, StreamKind, StreamStatus
from starling.engine.broker import StreamPosition
from starling.engine.channels import ChannelOptions
from starling.engine.engine import Engine
from starling.engine.stream_chunks import ChunkInvalid, content_of
from starling.engine.stream_reader import StreamLost, StreamReader
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.commands import HistoryRequest
from starling.protocol.messages import Publication
from starling.protocol.messages import StreamPosition as Since
from starling.web.durable_request import (
    NOW,
    START,
    Reader,
    RequestRefused,
    bad,
    default_type,
    next_cursor,
    offset_of,
    offset_text,
)
from starling.web.durable_response import NO_STORE, Response, head_message

LONG_POLL_SECONDS = 20.0
SSE_SECONDS = 60.0
READ_BYTES = 1024 * 1024
_CATCH_UP_CACHE = ("Cache-Control", "private, max-age=60, stale-while-revalidate=300")
_CLOSED = frozenset(status.value for status in StreamStatus if status.closed)
_encode = msgspec.json.Encoder().encode


class StreamRequest:
    """One request for one stream. `reader` has limits on what it may create and wait for; None: there are none."""

    def __init__(self, scope: Scope, channel: str, options: ChannelOptions) -> None:
        self.reader: Reader | None = None
        self.channel = channel
        self.options = options
        self.headers = Headers(scope=scope)
        self.query = QueryParams(scope["query_string"])
        self.url = f"{scope['scheme']}://{self.headers.get('host', 'localhost')}{scope['path']}"


class StreamReading:
    """Answers the requests that read."""

    def __init__(self, engine: Engine, long_poll_seconds: float) -> None:
        self._engine = engine
        self._long_poll_seconds = long_poll_seconds
        self._readers: set[StreamReader] = set()
        engine.readiness.observe(self._note_readiness)

    @property
    def waiting(self) -> int:
        """How many requests wait for what is appended next."""
        return len(self._readers)

    async def info(self, request: StreamRequest) -> StreamInfo:
        """The stream. Raises RequestRefused where there is none."""
        info = await self._engine.append_streams.info(request.channel, request.options)
        if info is None:
            raise RequestRefused(HTTPStatus.NOT_FOUND, "there is no stream: create it with PUT")
        return info

    # Reading

    async def read(self, request: StreamRequest) -> Response:
        """Answer a catch-up read, or a long poll."""
        live = request.query.get("live")
        wanted = offset_of(request.query)
        if live is not None and live != "long-poll":
            raise bad("live: long-poll or sse")
        if live is not None and wanted is None:
            raise bad("offset: it is needed to read live")
        info = await self.info(request)
        start = _start(wanted, info)
        publications, top = await self._page(request, start)
        if live is None:
            return self._catch_up(request, info, start, publications, top, fresh=wanted == NOW)
        cursor = ("Stream-Cursor", next_cursor(request.query.get("cursor", "")))
        if not publications and not info.status.closed:
            publications = await self._wait(request, start, info.kind)
            info = await self.info(request)
            top = max(top, info.offset)
        response = self._content(info, start, publications, top)
        response.headers += [cursor, NO_STORE]
        if not response.body or not publications:
            return Response(HTTPStatus.NO_CONTENT, response.headers)
        return response

    def _catch_up(
        self,
        request: StreamRequest,
        info: StreamInfo,
        start: StreamPosition,
        publications: Sequence[Publication],
        top: int,
        *,
        fresh: bool,
    ) -> Response:
        response = self._content(info, start, publications, top)
        if fresh:
            response.headers.append(NO_STORE)
            return response
        end = publications[-1].offset if publications else start.offset
        closed = any(name == "Stream-Closed" for name, _ in response.headers)
        tag = f'"{info.epoch}:{start.offset}:{end}{":c" if closed else ""}"'
        response.headers += [("ETag", tag), _CATCH_UP_CACHE]
        if tag in [each.strip() for each in request.headers.get("if-none-match", "").split(",")]:
            return Response(HTTPStatus.NOT_MODIFIED, response.headers)
        return response

    async def _page(self, request: StreamRequest, start: StreamPosition) -> tuple[list[Publication], int]:
        """What follows a position, as much as one response holds, and the offset of the stream's end."""
        # From the start a reader gets what is left, also where another program took entries out of the store.
        since = Since(start.offset, start.epoch) if start.offset else None
        found = await self._engine.history.read(
            request.channel, request.options, HistoryRequest(request.channel, -1, since), None, READ_BYTES
        )
        if found.epoch != start.epoch:
            raise CommandRefused(codes.ERROR_UNRECOVERABLE_POSITION)
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
        return Response(HTTPStatus.OK, headers, self._joined(info.kind, publications))

    async def _wait(self, request: StreamRequest, start: StreamPosition, kind: StreamKind) -> list[Publication]:
        """What comes within the time of a long poll, or the end of the stream."""
        end = time.monotonic() + self._long_poll_seconds
        async with self._reader(request, start) as reader:
            with suppress(StreamLost):
                while (left := end - time.monotonic()) > 0:
                    found = await reader.next(left)
                    if not self._permitted(request):
                        raise CommandRefused(codes.DISCONNECT_INVALID_TOKEN)
                    if any(_counts(each, kind) for each in found):
                        return found
        return []

    @asynccontextmanager
    async def _reader(self, request: StreamRequest, start: StreamPosition) -> AsyncIterator[StreamReader]:
        """A reader of what follows a position, which a drain ends."""
        async with self._engine.stream_readers.open(request.channel, request.options, start) as reader:
            self._readers.add(reader)
            try:
                yield reader
            finally:
                self._readers.discard(reader)

    # Server-sent events

    async def stream(self, request: StreamRequest, receive: Receive, send: Send) -> None:
        """Answer with server-sent events, until the stream is closed or the time of one response is over."""
        wanted = offset_of(request.query)
        if wanted is None:
            raise bad("offset: it is needed to read live")
        info = await self.info(request)
        start = _start(wanted, info)
        headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]
        if info.kind is StreamKind.BYTES:
            headers.append(("Stream-SSE-Data-Encoding", "base64"))
        await send(head_message(HTTPStatus.OK, headers, None))
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

    async def _write_events(self, request: StreamRequest, info: StreamInfo, start: StreamPosition, send: Send) -> None:
        """Write events until the stream is closed, or the time of one response is over."""
        end = time.monotonic() + SSE_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - spreads reconnects
        at, first, cursor = start.offset, True, request.query.get("cursor", "")
        async with self._reader(request, start) as reader:
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
                    if not self._permitted(request):
                        break
                    cursor = next_cursor(cursor)
                    control = _control(StreamPosition(at, info.epoch), cursor, closed=closed)
                    await send(_part(_event(info.kind, self._joined(info.kind, found)) + control))
                    found.clear()
                    # Returns once the client has taken it: what follows is not read before, and nothing kept for it.
                    await send(_part(b""))
                    first = False
                    if closed:
                        break

    def _joined(self, kind: StreamKind, publications: Sequence[Publication]) -> bytes:
        """The content of publications, without what another program wrote into the stream, which is counted."""
        contents = []
        for publication in publications:
            try:
                content = content_of(publication, kind)
            except ChunkInvalid:
                self._engine.hub.unreadable.note(kind=kind)
                continue
            if content:
                contents.append(content)
        return b"[%b]" % b",".join(contents) if kind is StreamKind.JSON else b"".join(contents)

    def _permitted(self, request: StreamRequest) -> bool:
        """Whether the token that permitted the request is still valid when something can be sent."""
        return request.reader is None or self._engine.revocations.still_valid(request.reader.token)

    def _note_readiness(self) -> None:
        if self._engine.readiness.draining:
            for reader in tuple(self._readers):
                reader.lose_state("")


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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


def _counts(publication: Publication, kind: StreamKind) -> bool:
    """Whether a reader has something of a publication: content, or the end."""
    try:
        return bool(content_of(publication, kind)) or _closes(publication)
    except ChunkInvalid:
        return _closes(publication)


def _closes(publication: Publication) -> bool:
    return (publication.tags or {}).get("status", "") in _CLOSED


def _event(kind: StreamKind, content: bytes) -> bytes:
    if not content or (kind is StreamKind.JSON and content == b"[]"):
        return b""
    if kind is StreamKind.BYTES:
        content = base64.b64encode(content)
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    # Readers take one space away.
    return b"event: data\n" + b"".join(b"data:%b%b\n" % (b" " * line.startswith(b" "), line) for line in lines) + b"\n"


def _control(position: StreamPosition, cursor: str, *, closed: bool) -> bytes:
    control: dict[str, str | bool] = {"streamNextOffset": offset_text(position)}
    if closed:
        control["streamClosed"] = True
    else:
        control |= {"streamCursor": cursor, "upToDate": True}
    return b"event: control\ndata:%b\n\n" % _encode(control)
