"""The newest publications of one channel, kept in memory so that thousands of returning clients cost one read."""

from collections import deque

from starling.engine.broker import StreamEntry, StreamRead

# Estimate of the memory that an entry takes in addition to its data. Bytes.
ENTRY_OVERHEAD = 400


class MemoryBudget:
    """Bytes that all channels of a process may keep together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Recent:
    """An unbroken run of entries that ends at the position of the process: `limit` of them and `max_bytes` of data.

    It answers what a client missed as far as it reaches: call `knows` first, then `after`. It may hold entries that the
    store has dropped since; `keep` takes a read and drops what the read no longer finds.
    """

    __slots__ = ("_budget", "_bytes", "_entries", "_full", "_limit", "_max_bytes", "_start", "bottom")

    def __init__(self, limit: int, max_bytes: int, budget: MemoryBudget) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._budget = budget
        self._entries: deque[StreamEntry] = deque()
        self._bytes = 0
        self._start = 0
        # True once an entry was dropped for the limits: clients that need it cannot recover.
        self._full = False
        self.bottom = 0

    def restart(self, offset: int) -> None:
        """Forget everything; the next entry follows `offset`."""
        self._budget.used -= self._bytes + len(self._entries) * ENTRY_OVERHEAD
        self._entries.clear()
        self._bytes = 0
        self._start = offset
        self._full = False
        self.bottom = 0

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

    def keep(self, read: StreamRead) -> None:
        """Take from a read of the newest entries, of the same epoch, those that lead up to the oldest here.

        Entries that the store has dropped since are dropped here too.
        """
        self.bottom = max(self.bottom, read.bottom)
        while self._entries and self._entries[0].offset <= self.bottom:
            self._drop_oldest()
        if self._full:
            return
        for entry in reversed(read.entries):
            if entry.offset > self._start:
                continue
            if entry.offset < self._start:
                return
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

    def knows(self, offset: int) -> bool:
        """Whether `after` is complete for a client that has seen `offset`."""
        return offset >= self._start or self._full

    def newest(self) -> StreamEntry | None:
        """The entry at the position of the process, if it is here."""
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
