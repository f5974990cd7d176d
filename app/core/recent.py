"""The newest publications of one channel, kept in memory so that thousands of returning clients cost one read."""

from collections import deque

from app.core.broker import StreamEntry, StreamRead

# What an entry takes in memory beside its data, roughly.
ENTRY_OVERHEAD = 400


class MemoryBudget:
    """Bytes that all channels of a process may keep together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Recent:
    """An unbroken run of entries that ends at the position of the process: `limit` of them and `max_bytes` of data.

    It answers what a client missed only as far as it knows: `knows` first, then `after`. It holds no more than may be
    recovered and than the store holds: as many entries, and until `ttl` seconds after the newest (0: for ever).
    """

    __slots__ = ("_barren", "_budget", "_bytes", "_entries", "_full", "_limit", "_max_bytes", "_start", "_ttl")

    def __init__(self, limit: int, max_bytes: int, ttl: float, budget: MemoryBudget) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._budget = budget
        self._entries: deque[StreamEntry] = deque()
        self._bytes = 0
        self._start = 0
        # True once an entry was let go for the limits: whoever needs it cannot recover.
        self._full = False
        # From here up to the start, a read found that the store cannot make a run.
        self._barren: int | None = None

    def restart(self, offset: int) -> None:
        """Forget everything; the next entry follows `offset`."""
        self._budget.used -= self._bytes + len(self._entries) * ENTRY_OVERHEAD
        self._entries.clear()
        self._bytes = 0
        self._start = offset
        self._full = False
        self._barren = None

    def append(self, entry: StreamEntry) -> None:
        """Take the entry that follows the newest one."""
        size = len(entry.publication.data)
        self._entries.append(entry)
        self._bytes += size
        self._budget.used += size + ENTRY_OVERHEAD
        while len(self._entries) > self._limit or self._bytes > self._max_bytes:
            self._drop_oldest()
            self._full = True
        while self._entries and self._budget.used > self._budget.limit:
            self._drop_oldest()
            self._full = False

    def extend(self, read: StreamRead, after: int) -> None:
        """Take those that lead up to the oldest here, from a read of the same epoch's newest entries after `after`."""
        if self._full or self._start > read.top.offset:
            return
        for entry in reversed(read.entries):
            if entry.offset > self._start:
                continue
            if entry.offset < self._start:
                break
            size = len(entry.publication.data)
            if len(self._entries) == self._limit or self._bytes + size > self._max_bytes:
                self._full = True
                return
            if self._budget.used + size + ENTRY_OVERHEAD > self._budget.limit:
                return
            self._entries.appendleft(entry)
            self._bytes += size
            self._budget.used += size + ENTRY_OVERHEAD
            self._start = entry.previous
        if not read.more and after < self._start:
            self._barren = after if self._barren is None else min(after, self._barren)

    def expire(self, now: float) -> None:
        """Let go of what the store let go by time; `now` in seconds since 1970."""
        if self._ttl and self._entries and now - self._entries[-1].publication.time / 1000 > self._ttl:
            self.restart(self._entries[-1].offset)

    def knows(self, offset: int) -> bool:
        """Tell whether `after` can be trusted for a client that has seen `offset`."""
        return offset >= self._start or self._full or (self._barren is not None and offset >= self._barren)

    def knows_newest(self) -> bool:
        """Tell whether `newest` can be trusted."""
        return bool(self._entries) or self._start == 0 or self._barren is not None

    def newest(self) -> StreamEntry | None:
        """The entry at the position of the process, None where the stream no longer holds it."""
        return self._entries[-1] if self._entries else None

    def after(self, offset: int) -> list[StreamEntry] | None:
        """Return the entries after `offset`, None if they cannot all be had."""
        found: list[StreamEntry] = []
        expected = self._entries[-1].offset if self._entries else self._start
        for entry in reversed(self._entries):
            if expected <= offset:
                break
            found.append(entry)
            expected = entry.previous
        if expected != offset:
            return None
        found.reverse()
        return found

    def _drop_oldest(self) -> None:
        entry = self._entries.popleft()
        size = len(entry.publication.data)
        self._bytes -= size
        self._budget.used -= size + ENTRY_OVERHEAD
        self._start = entry.offset
        self._barren = None
