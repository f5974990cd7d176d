"""Append-only streams as this worker changes them: opening, appending, closing, and producers that fall silent."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from starling.engine.append_refusals import StreamRefused, append_refused
from starling.engine.append_store import (
    Append,
    AppendOutcome,
    AppendResult,
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

# Runs work in a task of this worker.
StartTask = Callable[[Coroutine[object, None, None]], object]

# How often a worker looks for producers that are silent, in seconds, and at how many streams at once.
SWEEP_SECONDS = 1.0
SWEEP_AT_ONCE = 200
# How often open streams are counted, in seconds, and how many of them at most.
COUNT_SECONDS = 15.0
COUNTED_LIMIT = 10_000
# Seconds between two looks at a stream without a producer that could be silent.
UNWATCHED_SECONDS = 600.0


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

    def __init__(self, store: AppendStore | None, channels: Channels, start_task: StartTask) -> None:
        """`store` None: this broker keeps no streams."""
        self._store = store
        self._start_task = start_task
        self._channels = channels
        self._windows = AppendWindows(self._append_joined)
        self._open = 0
        self.stats: dict[str, AppendStats] = {}
        """By namespace."""

    def kind_of(self, options: ChannelOptions, wanted: StreamKind | None) -> StreamKind:
        """The kind of a stream to open. Raises CommandRefused for one that the namespace does not hold."""
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
        key: str = "",
    ) -> Opened:
        """Open a stream, or find it as it is. `ttl` None: the namespace's, which is also the longest.

        The same `key` again takes no further producer epoch.
        """
        store = self._keeping(options)
        life = options.stream_ttl if ttl is None else ttl
        opening = Opening(
            self.kind_of(options, kind), life, producer, producer_epoch, watched, media_type, expires_at, key
        )
        opened = await store.open(channel, opening)
        if opened.outcome is not AppendOutcome.DONE:
            raise append_refused(Change(opened.outcome, opened.info, opened.producer_epoch))
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
        return await self._go_on(channel, options, change, await store.append(channel, change))

    def begin(
        self,
        channel: str,
        options: ChannelOptions,
        chunk: Chunk | None,
        kind: StreamKind,
        producer: Producer | None,
        done: Callable[[Change | Exception], None],
    ) -> None:
        """As `append` without a window, and without a task; `done` gets the change or the exception, now or later."""
        store = self._keeping(options)
        change = Append(kind, chunk, None, producer, options.stream_max_bytes)

        def answered(result: AppendResult) -> None:
            if isinstance(result, BrokerUnavailable):
                done(result)
            elif result.outcome is AppendOutcome.GAP or result.resumed:
                self._start_task(self._end_begun(channel, options, change, result, done))
            else:
                try:
                    self._count(channel, change, result, chunks=1)
                except CommandRefused as refusal:
                    done(refusal)
                else:
                    done(result)

        result = store.begin_append(channel, change, answered)
        if result is not None:
            answered(result)

    async def _end_begun(
        self,
        channel: str,
        options: ChannelOptions,
        change: Append,
        result: Change,
        done: Callable[[Change | Exception], None],
    ) -> None:
        try:
            outcome: Change | Exception = await self._go_on(channel, options, change, result)
        except Exception as failure:  # noqa: BLE001 - the caller that began the append gets it
            outcome = failure
        done(outcome)

    async def _go_on(self, channel: str, options: ChannelOptions, change: Append, done: Change) -> Change:
        """Wait for appends that come before, where some are missing, and append again; then as `_finish`."""
        if done.outcome is AppendOutcome.GAP and options.append_window:
            await asyncio.sleep(options.append_window)
            done = await self._keeping(options).append(channel, change)
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

    async def delete(self, channel: str, options: ChannelOptions, epoch: str = "") -> bool:
        """Remove a stream, with `epoch` only that one; False where there was none. Its subscribers subscribe again."""
        store = self._keeping(options)
        deleted = await store.delete(channel, epoch)
        if deleted or not epoch:
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
        self._count(channel, change, done, chunks=chunks)
        if self._store is None or done.outcome is not AppendOutcome.DONE:
            return done
        if change.closing is not None:
            await self._store.plan(channel, None)
        elif done.resumed:
            await self._store.plan(channel, _first_look(self._channels.options(channel), watched=change.watched))
        return done

    def _count(self, channel: str, change: Append, done: Change, *, chunks: int) -> None:
        """Count a change. Raises CommandRefused for one that the stream did not take."""
        if done.outcome is AppendOutcome.REPEATED:
            return
        if done.outcome is not AppendOutcome.DONE or done.info is None:
            raise append_refused(done)
        stats = self._stats(channel)
        if change.chunk is not None:
            stats.appends += 1
            stats.chunks += chunks
            stats.bytes += change.chunk.size
        if change.closing is not None:
            stats.closed[change.closing.status] = stats.closed.get(change.closing.status, 0) + 1

    def _keeping(self, options: ChannelOptions) -> AppendStore:
        if options.stream is None:
            raise _not_available("the channel is no append-only stream: set stream in its namespace's options")
        if self._store is None:
            raise _not_available(_NO_STORE)
        return self._store


_NO_STORE = "this broker keeps no append-only streams: use redis://, or memory:// with one worker"


def _not_available(remedy: str) -> CommandRefused:
    return CommandRefused(Error(codes.ERROR_NOT_AVAILABLE.code, f"not available: {remedy}"))


def _first_look(options: ChannelOptions, *, watched: bool) -> float:
    return options.producer_timeout if watched and options.producer_timeout else UNWATCHED_SECONDS
