"""How a process follows one history channel, without I/O: its position, and the newest publications in memory."""

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from starling.engine.broker import StreamEntry, StreamPosition, StreamRead
from starling.engine.history import continues, missed
from starling.protocol.messages import Publication

# Entries that may wait for a read under way; beyond it they are dropped and read again, which costs no memory.
HELD_LIMIT = 256
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


class Step(Enum):
    """What to do with an entry that the broker delivered."""

    DELIVER = auto()
    """It follows the position: hand it to the subscribers."""
    DROP = auto()
    """It was delivered before."""
    HOLD = auto()
    """It waits for the read under way."""
    HEAL = auto()
    """Something before it is missing, or the stream is another one: read, and then go on."""


@dataclass(frozen=True, slots=True)
class Healed:
    """The result of a read of the missing entries.

    `lost`: the stream could not fill the gap, so the subscribers must be unsubscribed; the entries of `deliver` come
    after it. `done`: the process follows again; otherwise it has to read once more.
    """

    deliver: list[StreamEntry]
    lost: bool
    done: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to a subscriber: its position and, if `recovered`, all it missed up to there, oldest first.

    In cache mode `publications` holds the latest publication at most, and `recovered` is true where there is one.
    """

    position: StreamPosition
    publications: list[Publication]
    recovered: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """The position of a process at one moment, to judge the result of a read that begins then."""

    epoch: str
    last: int
    resets: int


@dataclass(frozen=True, slots=True)
class Found:
    """A read for joining subscribers, begun at `mark`.

    It holds the newest entries after `after`, as many as may be recovered and one more. `after` None: the latest entry
    only, or without `latest` nothing but the position.
    """

    read: StreamRead
    mark: Mark
    after: int | None
    latest: bool


class Follower:
    """The position of a process in a channel's stream.

    It begins as `healing`, without a position; `reading` and `healed` with the first read give it one.
    """

    __slots__ = ("_held", "_outdated", "epoch", "healing", "last", "recent", "resets")

    def __init__(self, recent: Recent) -> None:
        self.recent = recent
        self.epoch = ""
        self.last = 0
        self.healing = True
        self.resets = 0
        self._held: list[StreamEntry] = []
        self._outdated = False

    @property
    def position(self) -> StreamPosition:
        """Where the process stands: all up to here was delivered."""
        return StreamPosition(self.last, self.epoch)

    def mark(self) -> Mark:
        """Note the position before a read begins."""
        return Mark(self.epoch, self.last, self.resets)

    # Following

    def on(self, entry: StreamEntry) -> Step:
        """Take an entry that the broker delivered."""
        if self.healing:
            if len(self._held) < HELD_LIMIT:
                self._held.append(entry)
            else:
                self._held.clear()
                self._outdated = True
            return Step.HOLD
        if entry.epoch == self.epoch:
            if entry.offset <= self.last:
                return Step.DROP
            if entry.previous == self.last:
                self._advance(entry)
                return Step.DELIVER
        # The entry is not held: the read begins after it came, and so finds it or proves it gone.
        self.healing = True
        return Step.HEAL

    def doubt(self) -> None:
        """Note that entries may be missing, which a read under way does not cover."""
        self.healing = True
        self._outdated = True

    def reading(self) -> None:
        """Note that a read after `last` begins now; it covers all entries that arrived until now."""
        self._held.clear()
        self._outdated = False

    def healed(self, read: StreamRead) -> Healed:
        """Take the read that `reading` announced."""
        deliver: list[StreamEntry] = []
        lost = read.top.epoch != self.epoch or not continues(read, self.last)
        if lost:
            self._reset(read.top)
        else:
            for entry in read.entries:
                self._advance(entry)
            deliver += read.entries
        if self._outdated or self.last != read.top.offset:
            return Healed(deliver, lost=lost, done=False)
        self.healing = False
        held, self._held = self._held, []
        deliver += [entry for entry in held if self.on(entry) is Step.DELIVER]
        return Healed(deliver, lost=lost, done=not self.healing)

    def caught_up(self, top: StreamPosition, mark: Mark) -> bool:
        """Whether the store's `top`, read after `mark`, is a position that this process has reached."""
        return top.epoch == self.epoch and mark.last <= top.offset <= self.last

    # Joining

    def contradicted(self, top: StreamPosition, mark: Mark) -> bool:
        """Whether a read begun at `mark` found another stream than the one this process has followed so far."""
        return top.epoch != self.epoch or top.offset < mark.last

    def recall(self, since: StreamPosition | None, read: StreamRead, *, latest: bool) -> Joined | None:
        """Answer a subscriber from memory, if that reaches as far as the top of `read`, which does not contradict."""
        if read.top.offset > self.last:
            return None
        if latest:
            newest = self.recent.newest()
            holds_none = read.bottom == self.last
            return self._latest(since, self.position, newest) if newest is not None or holds_none else None
        if since is None or since.epoch != self.epoch or since.offset < read.bottom:
            return self._answer(self.position, None)
        if not self.recent.knows(since.offset):
            return None
        return self._answer(self.position, self.recent.after(since.offset))

    def judge(self, since: StreamPosition | None, found: Found, *, latest: bool, limit: int) -> Joined | None:
        """Answer a subscriber from a read that does not contradict; None where it must be read again.

        The position of the answer is this process's own or, where the read is ahead of it, the top.
        """
        read, rest = found.read, list[StreamEntry]()
        position = read.top
        if read.top.offset < self.last:
            came = self.recent.after(read.top.offset)
            if came is None:
                return None
            rest, position = came, self.position
        if latest:
            newest = rest or read.entries
            return self._latest(since, position, newest[-1] if newest else None) if found.latest else None
        if since is None or since.epoch != read.top.epoch or since.offset < read.bottom:
            return self._answer(position, None)
        if found.after is None or found.after > since.offset:
            return None
        entries = missed(read, since.offset)
        if entries is None or len(entries) + len(rest) > limit:
            return self._answer(position, None)
        return self._answer(position, entries + rest)

    @staticmethod
    def _answer(position: StreamPosition, entries: list[StreamEntry] | None) -> Joined:
        if entries is None:
            return Joined(position, [], recovered=False)
        return Joined(position, [entry.publication for entry in entries], recovered=True)

    @staticmethod
    def _latest(since: StreamPosition | None, position: StreamPosition, newest: StreamEntry | None) -> Joined:
        if newest is None or newest.offset != position.offset:
            return Joined(position, [], recovered=False)
        return Joined(position, [] if since == position else [newest.publication], recovered=True)

    # Moving

    def _advance(self, entry: StreamEntry) -> None:
        self.last = entry.offset
        self.recent.append(entry)

    def _reset(self, top: StreamPosition) -> None:
        self.epoch, self.last = top.epoch, top.offset
        self.resets += 1
        self.recent.restart(top.offset)
