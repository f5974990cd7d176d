"""History in memory, for the broker of a single process: it ends with the process, and with it every epoch."""

import heapq
import math
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from starling.clocks import steady_clock
from starling.engine.broker import PublishOptions, StreamEntry, StreamPosition, StreamRead
from starling.engine.history import DEFAULT_READ_TTL
from starling.protocol.messages import Publication

IDEMPOTENCY_SECONDS = 300.0


@dataclass(slots=True)
class _Stream:
    """`until` and `entries_until` are when the position and the entries end, `due` when to look at them next.

    The newest of `entries` has the offset `top`. A publication that many channels share is kept as it is, without an
    offset, one above the entry before it, and becomes an entry when it is first read.
    """

    epoch: str
    top: int = 0
    entries: deque[StreamEntry | Publication] = field(default_factory=deque)
    entries_until: float = math.inf
    until: float = math.inf
    due: float = math.inf
    version: int = 0
    version_epoch: str = ""
    life: float | None = None
    """Seconds that an append-only stream lives after its last use; None where this is none, or its end is set."""
    appended: bool = False
    """Whether this is an append-only stream."""


class MemoryHistory:
    """Implements starling.engine.history.HistoryStore."""

    in_process = True

    def __init__(
        self,
        clock: Callable[[], float] = steady_clock,
        *,
        read_ttl: float = DEFAULT_READ_TTL,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`clock` is in seconds and never goes back; an unpublished channel's position lives `read_ttl` seconds.

        `check` raises BrokerUnavailable while nothing may be read.
        """
        self._check = check
        self._clock = clock
        self._read_ttl = read_ttl
        self._streams: dict[str, _Stream] = {}
        self._due: list[tuple[float, str]] = []
        self._repeated: dict[tuple[str, str], StreamPosition] = {}
        self._repeated_until: deque[tuple[float, tuple[str, str]]] = deque()

    def append_next(
        self,
        channel: str,
        publication: Publication,
        options: PublishOptions,
        now: float,
        send: Callable[[StreamEntry], None] | None = None,
    ) -> StreamEntry:
        """Keep the next entry of a channel, `publication` with its time; `now` is what `sweep` returned.

        What `send` raises, which gets it first, leaves the channel as it was.
        """
        stream = self._streams.get(channel)
        if stream is None:
            stream = self._stream(channel, options.history_meta_ttl, now)
        offset = stream.top + 1
        entry = _numbered(publication, offset, stream.epoch)
        if send is not None:
            send(entry)
        stream.top = offset
        if options.version:
            stream.version, stream.version_epoch = options.version, options.version_epoch
        self._append(channel, stream, entry, options, now)
        return entry

    def append_without_subscribers(
        self, channel: str, publication: Publication, options: PublishOptions, now: float
    ) -> StreamPosition:
        """As `append_next`, of a publication without a version in a channel without subscribers in this process.

        Channels may share `publication`, so it must not be changed any more. Returns its position.
        """
        stream = self._streams.get(channel)
        if stream is None:
            stream = self._stream(channel, options.history_meta_ttl, now)
        stream.top = offset = stream.top + 1
        self._append(channel, stream, publication, options, now)
        return StreamPosition(offset, stream.epoch)

    def _append(
        self, channel: str, stream: _Stream, kept: StreamEntry | Publication, options: PublishOptions, now: float
    ) -> None:
        """Keep what is at the top of a stream now, and plan its end."""
        entries = stream.entries
        entries.append(kept)
        while len(entries) > options.history_size:
            entries.popleft()
        stream.until = due = now + (options.history_meta_ttl or math.inf)
        stream.entries_until = now + (options.history_ttl or math.inf)
        if stream.entries_until < due:
            due = stream.entries_until
        if due < stream.due:
            stream.due = due
            heapq.heappush(self._due, (due, channel))

    def outdated(self, channel: str, options: PublishOptions) -> StreamPosition | None:
        """The top of a stream that keeps the version of `options`, or one above it; None where it is new."""
        if not options.version:
            return None
        stream = self._streams.get(channel)
        if stream is None or not stream.version:
            return None
        same = stream.version_epoch == options.version_epoch
        return StreamPosition(stream.top, stream.epoch) if same and options.version <= stream.version else None

    # Append-only streams

    def begin(self, channel: str, life: tuple[float, bool]) -> str:
        """Begin an append-only stream; returns its epoch. `life`: seconds, and whether its use renews them."""
        now = self.sweep()
        if (known := self._streams.get(channel)) is None or known.top:
            known = self._streams[channel] = _Stream(secrets.token_urlsafe(6))
        seconds, renewed = life
        known.appended, known.life = True, seconds if renewed else None
        known.until = now + seconds
        self._plan(channel, known)
        return known.epoch

    def next_of(self, channel: str, publication: Publication, time: int) -> StreamEntry:
        """The entry that `publication` of `time`, in ms since 1970, will be in an append-only stream."""
        stream = self._streams[channel]
        return StreamEntry(replace(publication, offset=stream.top + 1, time=time), stream.top, stream.epoch)

    def keep(self, channel: str, entry: StreamEntry) -> None:
        """Keep what `next_of` made."""
        stream = self._streams[channel]
        stream.top = entry.offset
        stream.entries.append(entry)

    def renew(self, channel: str) -> None:
        """An append-only stream is used."""
        if (stream := self._streams.get(channel)) is not None and stream.life is not None:
            stream.until = self._clock() + stream.life
            self._plan(channel, stream)

    def restart(self, channel: str) -> str:
        """Forget a channel's stream; returns the epoch of the one in its place."""
        self._streams.pop(channel, None)
        return self._stream(channel, 0, self.sweep()).epoch

    def epoch(self, channel: str) -> str:
        """The epoch of a channel's stream, empty where there is none."""
        self.sweep()
        stream = self._streams.get(channel)
        return "" if stream is None else stream.epoch

    def top(self, channel: str) -> int:
        """The offset of a stream's newest entry."""
        return self._streams[channel].top

    def repeated(self, channel: str, idempotency_key: str) -> StreamPosition | None:
        """The position of the publication that came with this key within 5 minutes."""
        self.sweep()
        return self._repeated.get((channel, idempotency_key))

    def remember(self, channel: str, idempotency_key: str, position: StreamPosition) -> None:
        """Note that a key was used, for `repeated`."""
        self._repeated[channel, idempotency_key] = position
        self._repeated_until.append((self._clock() + IDEMPOTENCY_SECONDS, (channel, idempotency_key)))

    async def read(
        self,
        channel: str,
        *,
        meta_ttl: float,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        max_bytes: int | None = None,
        newest: bool = False,
        followed: bool = False,
    ) -> StreamRead:
        """Read the position and the entries with `after` < offset < `before`."""
        self._check()
        now = self.sweep()
        created = channel not in self._streams
        stream = self._stream(channel, meta_ttl, now, followed=followed)
        top = StreamPosition(stream.top, stream.epoch)
        bottom = _bottom(stream)
        if limit == 0:
            return StreamRead(top, bottom, [], created=created)
        entries = _newest_first(stream, after, before)
        if not newest:
            entries.reverse()
        count = _fitting(entries, limit, max_bytes)
        more = count < len(entries) or count == limit
        del entries[count:]
        if newest:
            entries.reverse()
        return StreamRead(top, bottom, entries, more, created)

    async def positions(self, channels: Mapping[str, float]) -> dict[str, StreamPosition]:
        """Read the tops of many channels, each with its `meta_ttl`."""
        self._check()
        now = self.sweep()
        streams = {
            channel: self._stream(channel, meta_ttl, now, followed=True) for channel, meta_ttl in channels.items()
        }
        return {channel: StreamPosition(stream.top, stream.epoch) for channel, stream in streams.items()}

    async def remove(self, channel: str) -> None:
        """Delete a channel's entries; its position stays."""
        self._check()
        if stream := self._streams.get(channel):
            stream.entries.clear()

    def _stream(self, channel: str, meta_ttl: float, now: float, *, followed: bool = False) -> _Stream:
        """The stream, made if there is none, and its life renewed."""
        stream = self._streams.get(channel)
        created = stream is None
        if stream is None:
            # An epoch of its own each time, because the offsets begin anew.
            stream = self._streams[channel] = _Stream(secrets.token_urlsafe(6))
        if stream.appended:
            stream.until = stream.until if stream.life is None else now + stream.life
        elif stream.top:
            stream.until = now + (meta_ttl or math.inf)
        elif created or followed:
            stream.until = now + min(meta_ttl or math.inf, self._read_ttl)
        self._plan(channel, stream)
        return stream

    def _plan(self, channel: str, stream: _Stream) -> None:
        due = min(stream.until, stream.entries_until)
        if due < stream.due:
            stream.due = due
            heapq.heappush(self._due, (due, channel))

    def sweep(self) -> float:
        """Remove what has had its time; returns the time."""
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            due, channel = heapq.heappop(self._due)
            stream = self._streams.get(channel)
            if stream is None or stream.due != due:
                continue
            if stream.until <= now:
                del self._streams[channel]
                continue
            if stream.entries_until <= now:
                stream.entries.clear()
                stream.entries_until = math.inf
            stream.due = math.inf
            self._plan(channel, stream)
        while self._repeated_until and self._repeated_until[0][0] <= now:
            del self._repeated[self._repeated_until.popleft()[1]]
        return now


def _bottom(stream: _Stream) -> int:
    """The offset before the oldest entry, or the top where there is none."""
    oldest = stream.entries[0] if stream.entries else None
    return oldest.previous if isinstance(oldest, StreamEntry) else stream.top - len(stream.entries)


def _newest_first(stream: _Stream, after: int, before: int | None) -> list[StreamEntry]:
    """The entries with `after` < offset < `before`; publications among them become entries of the stream."""
    entries: list[StreamEntry] = []
    made: dict[int, StreamEntry] = {}
    offset = stream.top
    for number, kept in enumerate(reversed(stream.entries), 1):
        if offset <= after:
            break
        wanted = before is None or offset < before
        if isinstance(kept, StreamEntry):
            if wanted:
                entries.append(kept)
            offset = kept.previous
            continue
        if wanted:
            made[-number] = entry = _numbered(kept, offset, stream.epoch)
            entries.append(entry)
        offset -= 1
    for index, entry in made.items():
        stream.entries[index] = entry
    return entries


def _numbered(publication: Publication, offset: int, epoch: str) -> StreamEntry:
    """The entry of a stream with `publication` at `offset`."""
    numbered = Publication(publication.data, publication.info, offset, publication.tags, publication.time)
    return StreamEntry(numbered, offset - 1, epoch)


def _fitting(entries: list[StreamEntry], limit: int | None, max_bytes: int | None) -> int:
    """How many of `entries`, from the first, stay within the limits."""
    count = len(entries) if limit is None else min(limit, len(entries))
    if max_bytes is None:
        return count
    size = 0
    for index in range(count):
        size += len(entries[index].publication.data)
        if size > max_bytes and index:
            return index
    return count
