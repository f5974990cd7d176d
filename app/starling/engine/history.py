"""The history contract: how a channel's stream is read, the rule for a complete read, and reads for requests."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from starling.engine.broker import StreamEntry, StreamPosition, StreamRead
from starling.engine.channels import ChannelOptions
from starling.engine.options import HistoryStoreOptions
from starling.protocol.codes import (
    ERROR_BAD_REQUEST,
    ERROR_LIMIT_EXCEEDED,
    ERROR_NOT_AVAILABLE,
    ERROR_UNRECOVERABLE_POSITION,
    CommandRefused,
)
from starling.protocol.commands import HistoryRequest
from starling.protocol.messages import HistoryResult, Publication
from starling.protocol.shared_values import SharedPublications
from starling.protocol.tags_filter import Matches

# How long a position without a publication is kept after it was read. Seconds.
DEFAULT_READ_TTL = HistoryStoreOptions().position_read_ttl_seconds
# A filtered read takes this many publications at once, and looks at no more than these for one request.
SCAN_PAGE = 500
SCAN_LIMIT = 10_000


class HistoryStore(Protocol):
    """Reads the streams that `Broker.publish` writes. Every method raises BrokerUnavailable.

    A channel that was never published to has a position all the same: the first read gives it an epoch. `meta_ttl` is
    how long, in seconds, a position outlives its last publication or read (0: for ever). A position without a
    publication lives for the store's own read ttl, or `meta_ttl` where that is shorter, and only a read that says
    `followed` renews it: so asking for names does not fill the store.
    """

    @property
    def in_process(self) -> bool:
        """Whether the streams are in this process, so that no read waits and none is worth sharing."""

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
        """Read the top position and, in the same atomic step, the entries with `after` < offset < `before`.

        At most `limit` entries (0: the position only, None: all) and, beyond the first, no more than `max_bytes` of
        data. Where these cut, the oldest are kept, or with `newest` the newest; entries come oldest first either way.
        `followed`: this process follows the channel.
        """

    async def positions(self, channels: Mapping[str, float]) -> dict[str, StreamPosition]:
        """Read many channels' tops at once and keep the positions alive; `channels` maps each to its `meta_ttl`."""

    async def remove(self, channel: str) -> None:
        """Delete a channel's entries. Its position stays: who has seen the last publication has missed nothing."""


def missed(read: StreamRead, since: int) -> list[StreamEntry] | None:
    """Return the entries after `since` if `read` holds them all, else None.

    All means: from the top each entry names the one before it, down to the one that names `since`. Offsets may have
    gaps, so nothing else distinguishes a complete read from one that trimming, expiry or a rollback cut.
    """
    expected = read.top.offset
    for index in range(len(read.entries), 0, -1):
        if expected == since:
            return read.entries[index:]
        entry = read.entries[index - 1]
        if entry.offset != expected:
            return None
        expected = entry.previous
    return read.entries if expected == since else None


def continues(read: StreamRead, since: int) -> bool:
    """Whether the entries follow `since` without a gap, as far as the limits of the read allow."""
    expected = since
    for entry in read.entries:
        if entry.previous != expected:
            return False
        expected = entry.offset
    return read.more or expected == read.top.offset


class _Scan:
    """What one request for history has found so far, page by page, and where its next page begins."""

    def __init__(self, request: HistoryRequest, limit: int | None, max_bytes: int, matches: Matches | None) -> None:
        since = request.since
        self.found: list[Publication] = []
        self._pieces: list[dict[str, Any]] | None = None
        self.after = since.offset if since is not None and not request.reverse else 0
        self.before = since.offset if since is not None and request.reverse else None
        self._reverse = request.reverse
        self._limit = limit
        self._max_bytes = max_bytes
        self._matches = matches
        self._epoch = since.epoch if since is not None else ""
        self._complete = since is not None and not request.reverse and limit != 0
        self._scanned = 0
        self._size = 0

    def take(self, read: StreamRead) -> bool:
        """Take a page; True where it is the last. Raises CommandRefused, see `HistoryReader.read`."""
        if self._epoch and self._epoch != read.top.epoch:
            raise CommandRefused(ERROR_UNRECOVERABLE_POSITION)
        if self._complete and not continues(read, self.after):
            raise CommandRefused(ERROR_UNRECOVERABLE_POSITION)
        if self.before is not None and self.before > read.top.offset + 1:
            return True
        if self._matches is None:
            self.found = read.publications(reverse=self._reverse)
            return True
        entries = read.entries
        if self._collect(read, self._matches) or not read.more or not entries:
            return True
        self._scanned += len(entries)
        if self._scanned >= SCAN_LIMIT:
            if not self.found:
                raise CommandRefused(ERROR_LIMIT_EXCEEDED)
            return True
        # The pages are of one stream.
        self._epoch = read.top.epoch
        if self._reverse:
            self.before = entries[0].offset
        else:
            self.after = entries[-1].offset
        return False

    @property
    def publications(self) -> list[Publication]:
        """What was found, with what codecs made of it before where the store remembers that."""
        return self.found if self._pieces is None else SharedPublications(self.found, self._pieces)

    def _collect(self, read: StreamRead, matches: Matches) -> bool:
        """Add the publications that match; True once the answer is full."""
        if self._pieces is None and read.pieces is not None:
            self._pieces = []
        for index in read.matching(matches, reverse=self._reverse):
            publication = read.entries[index].publication
            self._size += len(publication.data)
            if self.found and self._size > self._max_bytes:
                return True
            self.found.append(publication)
            if self._pieces is not None and read.pieces is not None:
                self._pieces.append(read.pieces[index])
            if len(self.found) == self._limit:
                return True
        return False


class HistoryReader:
    """Answers requests for history, of clients and of the server API."""

    def __init__(self, history: HistoryStore | None) -> None:
        """`history` None: this broker keeps none."""
        self._history = history

    def keeps(self, options: ChannelOptions) -> bool:
        """Whether there is history in channels with `options`."""
        return self._history is not None and options.keeps_history

    async def read(
        self,
        channel: str,
        options: ChannelOptions,
        request: HistoryRequest,
        most: int | None,
        max_bytes: int,
        on_read: Callable[[StreamRead], None] | None = None,
        *,
        matches: Matches | None = None,
    ) -> HistoryResult:
        """Read a part of a channel's stream, at most `most` publications (None: no bound).

        Beyond the first there are no more than `max_bytes` of data; a shorter answer is read on from its last offset.
        `on_read` is called with each page that was read, also where the request is refused then. `matches`: only
        publications whose tags match are returned and count towards the limit.

        In reverse these are the publications before `since`, the newest first; there is none before a position beyond
        the top. Raises BrokerUnavailable, and CommandRefused: 106 where none of SCAN_LIMIT publications matches and
        more follow, 107 for what precedes offset 0, 108 where there is no history, 112 when what follows `since` is not
        complete any more.
        """
        history = self._store(options)
        limit = most if request.limit < 0 else request.limit if most is None else min(request.limit, most)
        since = request.since
        if since is not None and request.reverse and not since.offset:
            raise CommandRefused(ERROR_BAD_REQUEST)
        scan = _Scan(request, limit, max_bytes, matches)
        while True:
            read = await history.read(
                channel,
                meta_ttl=options.position_ttl,
                after=scan.after,
                before=scan.before,
                limit=limit if matches is None or limit == 0 else SCAN_PAGE,
                max_bytes=max_bytes,
                newest=request.reverse,
            )
            if on_read is not None:
                on_read(read)
            if scan.take(read):
                return HistoryResult(scan.publications, read.top.epoch, read.top.offset)

    async def remove(self, channel: str, options: ChannelOptions) -> None:
        """Delete a channel's publications. Raises BrokerUnavailable, and CommandRefused 108 without history."""
        await self._store(options).remove(channel)

    def _store(self, options: ChannelOptions) -> HistoryStore:
        if self._history is None or not options.keeps_history:
            raise CommandRefused(ERROR_NOT_AVAILABLE)
        return self._history
