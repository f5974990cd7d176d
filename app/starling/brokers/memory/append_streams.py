"""Append-only streams in memory, for the broker of a single process, in the histories that it keeps."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec import Raw

from starling.brokers import envelope
from starling.brokers.append_tags import status_tags
from starling.brokers.memory.history import MemoryHistory
from starling.clocks import steady_clock, wall_milliseconds
from starling.engine.append_store import (
    PRODUCERS_LIMIT,
    Append,
    AppendOutcome,
    AppendResult,
    Change,
    Closing,
    Opened,
    Opening,
    Producer,
    StreamInfo,
    StreamKind,
    StreamStatus,
)
from starling.engine.broker import BrokerUnavailable
from starling.protocol.messages import Publication

_EMPTY = {StreamKind.TEXT: b'{"text":""}', StreamKind.JSON: b'{"json":[]}', StreamKind.BYTES: b'{"bytes":""}'}


@dataclass(slots=True)
class _State:
    """What is known of a stream apart from its entries; `epoch` is that of the history which it belongs to.

    `producers` has the epoch and the last sequence of each, `opening_keys` the key of the opening that gave each its
    epoch, `seen` is when one of them wrote last.
    """

    kind: StreamKind
    epoch: str
    ttl: float
    media_type: str = ""
    expires_at: float = 0.0
    status: StreamStatus = StreamStatus.OPEN
    reason: str = ""
    final: bytes = b""
    length: int = 0
    size: int = 0
    mark: str = ""
    seen: float | None = None
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)
    opening_keys: dict[str, str] = field(default_factory=dict)


class MemoryAppendStreams:
    """Implements starling.engine.append_store.AppendStore."""

    def __init__(
        self,
        history: MemoryHistory,
        offer: Callable[[str, bytes], None],
        clock: Callable[[], float] = steady_clock,
    ) -> None:
        """`offer` publishes a message in a channel; it raises BrokerUnavailable, and then nothing is kept."""
        self._history = history
        self._offer = offer
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._plans: dict[str, float] = {}

    async def open(self, channel: str, opening: Opening) -> Opened:
        """Open a stream."""
        state, created = self._state(channel), False
        if state is None:
            created = True
            epoch = self._history.begin(channel, _life(opening.ttl, opening.expires_at))
            state = _State(opening.kind, epoch, opening.ttl, opening.media_type, opening.expires_at)
            self._states[channel] = state
        elif state.kind is not opening.kind:
            return Opened(AppendOutcome.OTHER_KIND, self._info(channel, state))
        producer_epoch = 0
        if opening.producer:
            known = state.producers.get(opening.producer)
            given = opening.producer_epoch
            again = known is not None and opening.key != "" and state.opening_keys.get(opening.producer) == opening.key
            following = 0 if known is None else known[0] + (not again)
            producer_epoch = following if given is None else given
            if known is not None and producer_epoch < known[0]:
                return Opened(AppendOutcome.ZOMBIE, self._info(channel, state), producer_epoch=known[0])
            if not state.status.closed and (known is None or producer_epoch > known[0]):
                if known is None and len(state.producers) >= PRODUCERS_LIMIT:
                    return Opened(AppendOutcome.MANY_PRODUCERS, self._info(channel, state))
                state.producers[opening.producer] = (producer_epoch, -1)
                state.opening_keys[opening.producer] = opening.key
        if opening.watched:
            state.seen = self._clock()
        self._history.renew(channel)
        return Opened(AppendOutcome.DONE, self._info(channel, state), created, producer_epoch)

    async def append(self, channel: str, change: Append) -> Change:
        """Add a chunk, close, or both."""
        return self._change(channel, change)

    def begin_append(self, channel: str, change: Append, done: Callable[[AppendResult], None]) -> AppendResult | None:
        """As `append`, at once."""
        try:
            return self._change(channel, change)
        except BrokerUnavailable as unavailable:
            return unavailable

    def _change(self, channel: str, change: Append) -> Change:
        state = self._state(channel)
        if state is None:
            return Change(AppendOutcome.NO_STREAM)
        written = change.chunk is not None or change.closing is not None
        problem, expected = _judge(state, change.producer, written=written)
        if problem in (AppendOutcome.ZOMBIE, AppendOutcome.REPEATED):
            return Change(problem, self._info(channel, state), expected)
        if state.status.closed:
            return Change(AppendOutcome.CLOSED, self._info(channel, state))
        if change.chunk is not None and change.kind is not state.kind:
            return Change(AppendOutcome.OTHER_KIND, self._info(channel, state))
        if problem is AppendOutcome.DONE:
            if change.mark and state.mark and change.mark.encode() <= state.mark.encode():
                problem = AppendOutcome.STALE_MARK
            elif change.chunk and change.chunk.size and state.size + change.chunk.size > change.max_bytes:
                problem = AppendOutcome.FULL
        if problem is not AppendOutcome.DONE:
            return Change(problem, self._info(channel, state), expected)
        return self._do(channel, state, change)

    async def interrupt(self, channel: str, silent: float) -> Change:
        """Leave the stream interrupted where its producer was silent."""
        state = self._state(channel)
        if state is None:
            return Change(AppendOutcome.NO_STREAM)
        if state.status is not StreamStatus.OPEN or state.seen is None:
            return Change(
                AppendOutcome.CLOSED if state.status.closed else AppendOutcome.DONE, self._info(channel, state)
            )
        rest = state.seen + silent - self._clock()
        if rest > 0:
            return Change(AppendOutcome.ALIVE, self._info(channel, state), math.ceil(rest * 1000))
        closing = Closing(StreamStatus.INTERRUPTED)
        return self._do(channel, state, Append(state.kind, closing=closing, watched=False))

    async def info(self, channel: str) -> StreamInfo | None:
        """The stream, None where there is none."""
        state = self._state(channel)
        return None if state is None else self._info(channel, state)

    async def delete(self, channel: str, epoch: str = "") -> bool:
        """Remove a stream."""
        state = self._state(channel)
        if state is None or epoch not in ("", state.epoch):
            return False
        del self._states[channel]
        epoch = self._history.restart(channel)
        body = envelope.encode_body(Publication(Raw(b"null")), wall_milliseconds())
        self._offer(channel, envelope.encode_publication(body, epoch=epoch))
        return True

    async def due(self, limit: int) -> Sequence[str]:
        """Channels whose time is over."""
        now = self._clock()
        return [channel for channel, due in self._plans.items() if due <= now][:limit]

    async def plan(self, channel: str, seconds: float | None) -> None:
        """List a stream as open, or no more."""
        if seconds is None:
            self._plans.pop(channel, None)
        else:
            self._plans[channel] = self._clock() + seconds

    async def open_channels(self, limit: int) -> Sequence[str]:
        """Channels of open streams."""
        return list(self._plans)[:limit]

    def _do(self, channel: str, state: _State, change: Append) -> Change:
        chunk, closing, producer = change.chunk, change.closing, change.producer
        resumed = state.status is StreamStatus.INTERRUPTED
        if chunk is not None or closing is not None:
            tags = {"at": str(state.length)}
            if closing is not None:
                tags |= status_tags(closing.status, closing.reason)
            data = chunk.data if chunk is not None and chunk.data else _EMPTY[state.kind]
            self._publish(channel, Publication(Raw(data), tags=tags))
            if chunk is not None:
                state.length += chunk.units
                state.size += chunk.size
        if closing is not None:
            state.status, state.reason, state.final = closing.status, closing.reason, closing.final
        else:
            state.status, state.reason = StreamStatus.OPEN, ""
        if producer is not None:
            _note(state, producer, written=chunk is not None or closing is not None)
        state.mark = change.mark or state.mark
        if change.watched:
            state.seen = self._clock()
        self._history.renew(channel)
        resumed = resumed and state.status is not StreamStatus.INTERRUPTED
        return Change(AppendOutcome.DONE, self._info(channel, state), resumed=resumed)

    def _publish(self, channel: str, publication: Publication) -> None:
        now = wall_milliseconds()
        entry = self._history.next_of(channel, publication, now)
        body = envelope.encode_body(publication, now)
        self._offer(
            channel,
            envelope.encode_publication(body, epoch=entry.epoch, offset=entry.offset, previous=entry.previous),
        )
        self._history.keep(channel, entry)

    def _state(self, channel: str) -> _State | None:
        state = self._states.get(channel)
        if state is not None and self._history.epoch(channel) != state.epoch:
            del self._states[channel]
            return None
        return state

    def _info(self, channel: str, state: _State) -> StreamInfo:
        return StreamInfo(
            state.kind,
            state.status,
            self._history.top(channel),
            state.epoch,
            state.length,
            state.size,
            state.reason,
            state.final,
            state.ttl,
            state.media_type,
            state.expires_at,
        )


def _judge(state: _State, producer: Producer | None, *, written: bool) -> tuple[AppendOutcome, int]:
    """Whether a producer may go on: DONE, or what is against it, and what was expected of it."""
    if producer is None:
        return AppendOutcome.DONE, 0
    known = state.producers.get(producer.id)
    if known is not None and producer.epoch < known[0]:
        return AppendOutcome.ZOMBIE, known[0]
    if known is None and len(state.producers) >= PRODUCERS_LIMIT:
        return AppendOutcome.MANY_PRODUCERS, 0
    if not written:
        return AppendOutcome.DONE, 0
    if known is None or producer.epoch > known[0]:
        wrong = AppendOutcome.GAP if known is None else AppendOutcome.NEW_EPOCH
        return (wrong if producer.sequence else AppendOutcome.DONE), 0
    last = producer.sequence if producer.last is None else producer.last
    following = known[1] + 1
    if last < following:
        return AppendOutcome.REPEATED, known[1]
    if producer.sequence > following:
        return AppendOutcome.GAP, following
    return (AppendOutcome.OVERLAP, following) if producer.sequence < following else (AppendOutcome.DONE, 0)


def _note(state: _State, producer: Producer, *, written: bool) -> None:
    known = state.producers.get(producer.id)
    if written:
        last = producer.sequence if producer.last is None else producer.last
    else:
        last = known[1] if known is not None and known[0] == producer.epoch else -1
    state.producers[producer.id] = (producer.epoch, last)


def _life(ttl: float, expires_at: float) -> tuple[float, bool]:
    """How long a stream lives in seconds, and whether using it renews that."""
    if expires_at:
        return max(0.001, expires_at - time.time()), False
    return ttl or math.inf, True
