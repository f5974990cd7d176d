"""The history contract: how a channel's stream is read, the rule for a complete read, and reads for requests."""

from collections.abc import Callable, Mapping
from typing import Protocol

from starling.engine.broker import StreamEntry, StreamPosition, StreamRead
from starling.engine.channels import ChannelOptions
from starling.protocol.codes import ERROR_BAD_REQUEST, ERROR_NOT_AVAILABLE, ERROR_UNRECOVERABLE_POSITION, CommandRefused
from starling.protocol.messages import HistoryRequest, HistoryResult

# How long a position without a publication is kept after it was read. Seconds.
DEFAULT_READ_TTL = 3600.0


class History(Protocol):
    """Reads the streams that `Broker.publish` writes. Every method raises BrokerUnavailable.

    A channel that was never published to has a position all the same: the first read gives it an epoch. `meta_ttl` is
    how long, in seconds, a position outlives its last publication or read (0: for ever). A position without a
    publication lives for the store's own read ttl, or `meta_ttl` where that is shorter, and only a read that says
    `followed` renews it: so asking for names does not fill the store.
    """

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

    All means: from the top each entry names the one before it, down to the one that names `since`. Offsets need not
    follow each other, so nothing else tells a whole read from one that trimming, expiry or a rollback cut.
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
    """Tell whether the entries follow `since` without a hole, as far as the read's limits let it go."""
    expected = since
    for entry in read.entries:
        if entry.previous != expected:
            return False
        expected = entry.offset
    return read.more or expected == read.top.offset


class HistoryReader:
    """Answers requests for history, of clients and of the server API."""

    def __init__(self, history: History | None) -> None:
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
        on_created: Callable[[], None] | None = None,
    ) -> HistoryResult:
        """Read a part of a channel's stream, at most `most` publications (None: no bound).

        Beyond the first there are no more than `max_bytes` of data; a shorter answer is read on from its last offset.
        `on_created` is called where the channel had no position before.

        In reverse these are the publications before `since`, the newest first; there is none before a position beyond
        the top. Raises BrokerUnavailable, and CommandRefused: 107 for what precedes offset 0, 108 where there is no
        history, 112 when what follows `since` is not complete any more.
        """
        history = self._store(options)
        limit = most if request.limit < 0 else request.limit if most is None else min(request.limit, most)
        since = request.since
        if since is not None and request.reverse and not since.offset:
            raise CommandRefused(ERROR_BAD_REQUEST)
        after = since.offset if since is not None and not request.reverse else 0
        before = since.offset if since is not None and request.reverse else None
        read = await history.read(
            channel,
            meta_ttl=options.history_meta_ttl,
            after=after,
            before=before,
            limit=limit,
            max_bytes=max_bytes,
            newest=request.reverse,
        )
        if read.created and on_created is not None:
            on_created()
        if since is not None and since.epoch and since.epoch != read.top.epoch:
            raise CommandRefused(ERROR_UNRECOVERABLE_POSITION)
        if since is not None and not request.reverse and limit != 0 and not continues(read, after):
            raise CommandRefused(ERROR_UNRECOVERABLE_POSITION)
        publications = [entry.publication for entry in read.entries]
        if before is not None and before > read.top.offset + 1:
            publications = []
        if request.reverse:
            publications.reverse()
        return HistoryResult(publications, read.top.epoch, read.top.offset)

    async def remove(self, channel: str, options: ChannelOptions) -> None:
        """Delete a channel's publications. Raises BrokerUnavailable, and CommandRefused 108 without history."""
        await self._store(options).remove(channel)

    def _store(self, options: ChannelOptions) -> History:
        if self._history is None or not options.keeps_history:
            raise CommandRefused(ERROR_NOT_AVAILABLE)
        return self._history
