"""The history contract: how a channel's stream is read, and the one rule that tells whether a read is whole."""

from collections.abc import Mapping
from typing import Protocol

from starling.engine.broker import StreamEntry, StreamPosition, StreamRead

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
