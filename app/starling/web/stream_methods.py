"""The methods of the server API that write append-only streams."""

import base64
import binascii
from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec import UNSET, Raw

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
from starling.engine.append_streams import AppendStreams
from starling.engine.broker import StreamPosition
from starling.engine.channels import ChannelOptions
from starling.engine.stream_chunks import ChunkInvalid, bytes_chunk, json_chunk, text_chunk
from starling.engine.stream_reader import StreamReaders
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error
from starling.protocol.portable_json import is_json
from starling.web import api_stream_models as stream_models

_decode_items = msgspec.json.Decoder(list[Raw]).decode


class FindOptions(Protocol):
    """Finds the options of a channel."""

    def __call__(self, channel: str) -> ChannelOptions:
        """Raises CommandRefused for a channel that is not there."""


class StreamMethods:
    """Each method raises CommandRefused and BrokerUnavailable."""

    def __init__(self, streams: AppendStreams, find_options: FindOptions, readers: StreamReaders) -> None:
        self._streams = streams
        self._options = find_options
        self._readers = readers

    async def open(self, request: stream_models.StreamOpenBody) -> stream_models.AppendStreamResponse:
        """Open a stream, or find it."""
        options = self._options(request.channel)
        opened = await self._streams.open(
            request.channel,
            options,
            request.type,
            ttl=request.ttl,
            producer=request.producer,
            producer_epoch=request.producer_epoch,
            key=request.idempotency_key,
        )
        found = _response(opened.info)
        found.created = opened.created
        if request.producer:
            found.producer_epoch = opened.producer_epoch
            found.append_window, found.producer_timeout = options.append_window, options.producer_timeout
        return found

    async def append(self, request: stream_models.StreamAppendBody) -> stream_models.AppendStreamResponse:
        """Add a chunk, or only show that the producer lives."""
        kind, chunk = _chunk(request)
        change = await self._streams.append(
            request.channel,
            self._options(request.channel),
            chunk,
            kind,
            producer=_producer(request),
            window=request.window,
        )
        return _changed(change)

    def begin_append(
        self,
        request: stream_models.StreamAppendBody,
        done: Callable[[stream_models.AppendStreamResponse | Exception], None],
    ) -> None:
        """As `append` without a window, and without a task; `done` gets the answer or the exception, now or later."""
        options = self._options(request.channel)
        kind, chunk = _chunk(request)

        def finish(change: Change | Exception) -> None:
            try:
                answer = change if isinstance(change, Exception) else _changed(change)
            except CommandRefused as refusal:
                answer = refusal
            done(answer)

        self._streams.begin(request.channel, options, chunk, kind, _producer(request), finish)

    async def close(self, request: stream_models.StreamCloseBody) -> stream_models.AppendStreamResponse:
        """Close a stream."""
        kind, chunk = _chunk(request)
        final = bytes(request.final)
        if final and not is_json(final):
            raise _bad_request("final: it is not JSON that every client can read")
        change = await self._streams.close(
            request.channel,
            self._options(request.channel),
            Closing(StreamStatus(request.status), request.reason, final),
            producer=_producer(request),
            chunk=chunk,
            kind=kind,
        )
        return _changed(change)

    async def cancel(self, request: stream_models.StreamCancelBody) -> stream_models.AppendStreamResponse:
        """Cancel a stream."""
        options = self._options(request.channel)
        return _changed(await self._streams.cancel(request.channel, options, request.reason))

    async def info(self, request: stream_models.StreamInfoBody) -> stream_models.AppendStreamResponse:
        """Return how a stream is, now or at its end; a producer that asks lives."""
        channel, options = request.channel, self._options(request.channel)
        info = await self._info(request, options)
        if request.wait and not info.status.closed:
            since = StreamPosition(info.offset, info.epoch)
            await self._readers.until_status(channel, options, since, request.wait)
            info = await self._info(request, options)
        return _response(info)

    async def _info(self, request: stream_models.StreamInfoBody, options: ChannelOptions) -> StreamInfo:
        channel = request.channel
        found = await self._streams.info(channel, options)
        if found is None:
            remedy = "not available: channel: there is no stream: open it with stream_open"
            raise CommandRefused(Error(codes.ERROR_NOT_AVAILABLE.code, remedy))
        if request.producer and not found.status.closed:
            producer = Producer(request.producer, request.producer_epoch)
            found = (await self._streams.append(channel, options, None, found.kind, producer=producer)).info or found
        return found

    async def delete(self, request: stream_models.StreamDeleteBody) -> stream_models.StreamDeleteResponse:
        """Delete a stream."""
        return stream_models.StreamDeleteResponse(
            await self._streams.delete(request.channel, self._options(request.channel), request.epoch)
        )

    async def list(self, request: stream_models.StreamListBody) -> stream_models.StreamListResponse:
        """Return the streams that are open."""
        listed = []
        for channel in await self._streams.open_channels(request.limit):
            try:
                info = await self._streams.info(channel, self._options(channel))
            except CommandRefused:
                continue
            if info is not None and not info.status.closed:
                listed.append(stream_models.ListedStream(channel, info.kind, info.status, info.length, info.size))
        return stream_models.StreamListResponse(listed)


def _chunk(request: stream_models.StreamAppendBody | stream_models.StreamCloseBody) -> tuple[StreamKind, Chunk | None]:
    """What a request brings, None for nothing. Raises CommandRefused naming the field."""
    given = [name for name in ("text", "json", "b64data") if getattr(request, name)]
    if len(given) > 1:
        raise _bad_request(f"{given[1]}: give one of text, json and b64data")
    try:
        if request.text:
            return StreamKind.TEXT, text_chunk(request.text)
        if request.json:
            items = _decode_items(request.json)
            return StreamKind.JSON, json_chunk([bytes(item) for item in items]) if items else None
        if request.b64data:
            return StreamKind.BYTES, bytes_chunk(base64.b64decode(request.b64data, validate=True))
    except ChunkInvalid as invalid:
        raise _bad_request(f"{given[0]}: {invalid}") from invalid
    except msgspec.MsgspecError:
        raise _bad_request("json: it must be an array, whose items are added") from None
    except (binascii.Error, ValueError):
        raise _bad_request("b64data: it is no base64") from None
    return StreamKind.TEXT, None


def _producer(request: stream_models.StreamAppendBody | stream_models.StreamCloseBody) -> Producer | None:
    if not request.producer:
        return None
    return Producer(request.producer, request.producer_epoch, request.sequence)


def _changed(change: Change) -> stream_models.AppendStreamResponse:
    found = _response(change.info)
    found.repeated = change.outcome is AppendOutcome.REPEATED
    return found


def _response(info: StreamInfo | None) -> stream_models.AppendStreamResponse:
    if info is None:
        remedy = "not available: the stream is gone: open it again with stream_open"
        raise CommandRefused(Error(codes.ERROR_NOT_AVAILABLE.code, remedy))
    return stream_models.AppendStreamResponse(
        info.kind,
        info.status,
        info.offset,
        info.epoch,
        info.length,
        info.size,
        info.reason,
        Raw(info.final) if info.final else UNSET,
    )


def _bad_request(remedy: str) -> CommandRefused:
    return CommandRefused(Error(codes.ERROR_BAD_REQUEST.code, f"bad request: {remedy}"))
