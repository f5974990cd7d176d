"""Append-only streams for who writes them: opening, appending, closing, and producers that fall silent."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog
from msgspec import Struct

from starling.engine.append_store import (
    Append,
    AppendOutcome,
    AppendStore,
    Change,
    Chunk,
    Closing,
    Opened,
    Opening,
    Producer,
    StreamInfo,
    StreamKind,
    StreamStatus,
)
from starling.engine.append_window import AppendWindows
from starling.engine.broker import BrokerUnavailable
from starling.engine.channels import ChannelOptions, Channels, namespace_of
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error
from starling.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.streams")

# How often a worker looks for producers that are silent, in seconds, and at how many streams at once.
SWEEP_SECONDS = 1.0
SWEEP_AT_ONCE = 200
# How often open streams are counted, in seconds, and how many of them at most.
COUNT_SECONDS = 15.0
COUNTED_LIMIT = 10_000
# A stream without a producer that could be silent is looked at so rarely.
UNWATCHED_SECONDS = 600.0


class StreamProblem(Struct, frozen=True, omit_defaults=True):
    """Why a stream did not take a change, for programs: `reason` is the outcome, `status` that of the stream.

    `expected` is the sequence that comes next, or the epoch of the producer that counts now.
    """

    reason: AppendOutcome
    status: StreamStatus = StreamStatus.OPEN
    expected: int = 0
    detail: str = ""


class StreamRefused(Error, frozen=True):
    """The error of a change that a stream did not take."""

    stream: StreamProblem | None = None


@dataclass(slots=True)
class AppendStats:
    """Counted over the streams of one namespace in this process."""

    opened: int = 0
    closed: dict[StreamStatus, int] = field(default_factory=dict)
    interrupted: int = 0
    appends: int = 0
    chunks: int = 0
    bytes: int = 0


class AppendStreams:
    """The append-only streams of the service, as this worker changes them.

    Every method but `kind_of` raises BrokerUnavailable, and CommandRefused: with 108 where the channel is no such
    stream, or the broker keeps none, and with a StreamRefused for what the stream does not take.
    """

    def __init__(self, store: AppendStore | None, channels: Channels) -> None:
        """`store` None: this broker keeps no streams."""
        self._store = store
        self._channels = channels
        self._windows = AppendWindows(self._append_joined)
        self._open = 0
        self.stats: dict[str, AppendStats] = {}
        """By namespace."""

    def kind_of(self, options: ChannelOptions, wanted: StreamKind | None) -> StreamKind:
        """The kind of a stream to open. Raises CommandRefused for one that the namespace has not."""
        given = options.stream
        if given is None:
            raise _not_available("the channel is no append-only stream: set stream in its namespace's options")
        if given == "any":
            return wanted or StreamKind.TEXT
        if wanted is not None and wanted.value != given:
            raise CommandRefused(
                Error(codes.ERROR_BAD_REQUEST.code, f"bad request: type: streams of this namespace hold {given}")
            )
        return StreamKind(given)

    async def open(
        self,
        channel: str,
        options: ChannelOptions,
        kind: StreamKind | None = None,
        *,
        ttl: float | None = None,
        producer: str = "",
        producer_epoch: int | None = None,
        watched: bool = True,
        media_type: str = "",
        expires_at: float = 0.0,
    ) -> Opened:
        """Open a stream, or find it as it is. `ttl` None: the namespace's, which is also the longest."""
        store = self._keeping(options)
        life = options.stream_ttl if ttl is None else ttl
        opening = Opening(self.kind_of(options, kind), life, producer, producer_epoch, watched, media_type, expires_at)
        opened = await store.open(channel, opening)
        if opened.outcome is not AppendOutcome.DONE:
            raise _refused(Change(opened.outcome, opened.info, opened.producer_epoch))
        if opened.info is not None and not opened.info.status.closed:
            await store.plan(channel, _first_look(options, watched=watched))
        if opened.created:
            self._stats(channel).opened += 1
        return opened

    async def append(
        self,
        channel: str,
        options: ChannelOptions,
        chunk: Chunk | None,
        kind: StreamKind,
        *,
        closing: Closing | None = None,
        producer: Producer | None = None,
        window: bool = False,
        watched: bool = True,
        mark: str = "",
    ) -> Change:
        """Add a chunk, close, or both; without either it only shows that the producer lives.

        `window`: join it with what the same producer sends within `append_window`. A sequence that is not the next one
        waits for those before it as long. The change's outcome is DONE or REPEATED.
        """
        store = self._keeping(options)
        change = Append(kind, chunk, closing, producer, options.stream_max_bytes, watched, mark)
        if window and chunk is not None and closing is None and options.append_window:
            return await self._windows.append(channel, change, options.append_window)
        done = await store.append(channel, change)
        if done.outcome is AppendOutcome.GAP and options.append_window:
            await asyncio.sleep(options.append_window)
            done = await store.append(channel, change)
        return await self._finish(channel, change, done, chunks=1)

    async def close(
        self,
        channel: str,
        options: ChannelOptions,
        closing: Closing,
        *,
        producer: Producer | None = None,
        chunk: Chunk | None = None,
        kind: StreamKind = StreamKind.TEXT,
    ) -> Change:
        """Close a stream; one that is closed already is left as it is, and the change says how."""
        try:
            return await self.append(channel, options, chunk, kind, closing=closing, producer=producer)
        except CommandRefused as refused:
            problem = refused.reason.stream if isinstance(refused.reason, StreamRefused) else None
            if problem is None or problem.reason is not AppendOutcome.CLOSED or chunk is not None:
                raise
            return Change(AppendOutcome.REPEATED, await self._keeping(options).info(channel))

    async def cancel(self, channel: str, options: ChannelOptions, reason: str = "") -> Change:
        """Close a stream as cancelled; its producer is notified by the end of the stream."""
        return await self.close(channel, options, Closing(StreamStatus.CANCELLED, reason))

    async def info(self, channel: str, options: ChannelOptions) -> StreamInfo | None:
        """The stream, None where there is none."""
        return await self._keeping(options).info(channel)

    async def delete(self, channel: str, options: ChannelOptions) -> bool:
        """Remove a stream; False where there was none. Its subscribers subscribe again."""
        store = self._keeping(options)
        deleted = await store.delete(channel)
        await store.plan(channel, None)
        return deleted

    async def open_channels(self, limit: int) -> Sequence[str]:
        """Channels of streams that are open, over all workers."""
        return [] if self._store is None else await self._store.open_channels(limit)

    # Producers that are silent

    async def sweep(self) -> None:
        """Leave streams interrupted whose producers are silent; every worker does this, and one of them is enough."""
        store = self._store
        if store is None or not self._channels.have_streams:
            return
        try:
            for channel in await store.due(SWEEP_AT_ONCE):
                await self._look_at(store, channel)
        except BrokerUnavailable as error:
            log.debug("streams_not_looked_at", reason=str(error))

    async def _look_at(self, store: AppendStore, channel: str) -> None:
        try:
            options = self._channels.options(channel)
        except CommandRefused:
            await store.plan(channel, None)
            return
        if not options.producer_timeout:
            gone = await store.info(channel) is None
            await store.plan(channel, None if gone else UNWATCHED_SECONDS)
            return
        change = await store.interrupt(channel, options.producer_timeout)
        if change.outcome is AppendOutcome.ALIVE:
            await store.plan(channel, change.expected / 1000)
            return
        info = change.info
        unwatched = info is not None and info.status is StreamStatus.OPEN
        await store.plan(channel, UNWATCHED_SECONDS if unwatched else None)
        if info is not None and info.status is StreamStatus.INTERRUPTED:
            self._stats(channel).interrupted += 1
            log.warning(
                "stream_interrupted",
                channel=channel,
                silent_seconds=options.producer_timeout,
                remedy="its producer ended without closing it: see the log of the process that wrote it",
            )

    # Metrics

    async def count_open(self) -> None:
        """Count the streams that are open, over all workers, for the metric."""
        if self._store is None or not self._channels.have_streams:
            return
        try:
            self._open = len(await self._store.open_channels(COUNTED_LIMIT))
        except BrokerUnavailable as error:
            log.debug("streams_not_counted", reason=str(error))

    def report(self, namespaces: Iterable[str], metrics: Metrics) -> None:
        """Set the metrics of the streams in `namespaces`."""
        metrics.set("starling_streams_open", self._open)
        for namespace in namespaces:
            stats = self.stats.get(namespace)
            if stats is None:
                continue
            metrics.count("starling_streams_opened_total", stats.opened, namespace)
            metrics.count("starling_stream_appends_total", stats.appends, namespace)
            metrics.count("starling_stream_appended_chunks_total", stats.chunks, namespace)
            metrics.count("starling_stream_appended_bytes_total", stats.bytes, namespace)
            ended = {**stats.closed, StreamStatus.INTERRUPTED: stats.interrupted}
            for status in StreamStatus:
                if status is not StreamStatus.OPEN:
                    metrics.count("starling_streams_ended_total", ended.get(status, 0), namespace, status.value)

    def _stats(self, channel: str) -> AppendStats:
        return self.stats.setdefault(namespace_of(channel), AppendStats())

    async def _append_joined(self, channel: str, change: Append, chunks: int) -> Change:
        if self._store is None:
            raise _not_available(_NO_STORE)
        done = await self._store.append(channel, change)
        return await self._finish(channel, change, done, chunks=chunks)

    async def _finish(self, channel: str, change: Append, done: Change, *, chunks: int) -> Change:
        """Count a change and keep the list of open streams; raises what the stream did not take."""
        if done.outcome is AppendOutcome.REPEATED:
            return done
        if done.outcome is not AppendOutcome.DONE or done.info is None:
            raise _refused(done)
        stats = self._stats(channel)
        if change.chunk is not None:
            stats.appends += 1
            stats.chunks += chunks
            stats.bytes += change.chunk.size
        if change.closing is not None:
            stats.closed[change.closing.status] = stats.closed.get(change.closing.status, 0) + 1
        if self._store is not None and change.closing is not None:
            await self._store.plan(channel, None)
        elif self._store is not None and done.resumed:
            await self._store.plan(channel, _first_look(self._channels.options(channel), watched=change.watched))
        return done

    def _keeping(self, options: ChannelOptions) -> AppendStore:
        if options.stream is None:
            raise _not_available("the channel is no append-only stream: set stream in its namespace's options")
        if self._store is None:
            raise _not_available(_NO_STORE)
        return self._store


def _status(change: Change) -> str:
    return "" if change.info is None else change.info.status.value


def _size(change: Change) -> int:
    return 0 if change.info is None else change.info.size


_NO_STORE = "this broker keeps no append-only streams: use redis://, or memory:// with one worker"

_WORDS: dict[AppendOutcome, Callable[[Change], tuple[int, str]]] = {
    AppendOutcome.NO_STREAM: lambda _: (
        codes.ERROR_NOT_AVAILABLE.code,
        "not available: channel: there is no stream: open it with stream_open",
    ),
    AppendOutcome.OTHER_KIND: lambda change: (
        codes.ERROR_BAD_REQUEST.code,
        f"bad request: type: the stream holds {'' if change.info is None else change.info.kind.value}",
    ),
    AppendOutcome.CLOSED: lambda change: (
        codes.ERROR_NOT_AVAILABLE.code,
        f"not available: the stream is closed ({_status(change)}) until it is deleted with stream_delete",
    ),
    AppendOutcome.FULL: lambda change: (
        codes.ERROR_LIMIT_EXCEEDED.code,
        f"limit exceeded: it holds {_size(change)} bytes, with this more than stream_max_bytes of its namespace",
    ),
    AppendOutcome.GAP: lambda change: (
        codes.ERROR_BAD_REQUEST.code,
        f"bad request: sequence: {change.expected} is expected next of this producer",
    ),
    AppendOutcome.NEW_EPOCH: lambda _: (
        codes.ERROR_BAD_REQUEST.code,
        "bad request: sequence: the first one of another epoch of this producer is 0",
    ),
    AppendOutcome.OVERLAP: lambda change: (
        codes.ERROR_BAD_REQUEST.code,
        f"bad request: sequence: {change.expected} is expected next of this producer",
    ),
    AppendOutcome.ZOMBIE: lambda change: (
        codes.ERROR_PERMISSION_DENIED.code,
        f"permission denied: producer_epoch: another process took over as epoch {change.expected} of this producer",
    ),
    AppendOutcome.MANY_PRODUCERS: lambda _: (
        codes.ERROR_LIMIT_EXCEEDED.code,
        "limit exceeded: producer: the stream knows 100 producers, and no more are taken",
    ),
    AppendOutcome.STALE_MARK: lambda _: (
        codes.ERROR_BAD_REQUEST.code,
        "bad request: the mark of order is not above the last one",
    ),
}


def _refused(change: Change) -> CommandRefused:
    code, message = _WORDS[change.outcome](change)
    status = StreamStatus.OPEN if change.info is None else change.info.status
    detail = "" if change.info is None else change.info.reason
    return CommandRefused(
        StreamRefused(code, message, stream=StreamProblem(change.outcome, status, change.expected, detail))
    )


def _not_available(remedy: str) -> CommandRefused:
    return CommandRefused(Error(codes.ERROR_NOT_AVAILABLE.code, f"not available: {remedy}"))


def _first_look(options: ChannelOptions, *, watched: bool) -> float:
    return options.producer_timeout if watched and options.producer_timeout else UNWATCHED_SECONDS
