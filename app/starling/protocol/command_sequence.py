"""The order of one session's commands that come by requests of their own, which may overtake each other, or come twice.

A command with an id waits a moment for those with lower ids, and is carried out once. A request without ids stands
where it arrived. Times are seconds on one clock of the caller's choice that never goes back.
"""

from collections.abc import Iterable
from math import inf

from starling.protocol.commands import Command

# How long a command waits for those before it. Seconds.
WAIT_SECONDS = 0.1
# How far below the highest id one may still come that was left out; those below count as seen.
LATE_IDS = 8192
_WINDOW = (1 << LATE_IDS) - 1


class _WaitingCommands:
    """The commands of one request that wait, the lowest id among them, when they wait no longer, and their bytes."""

    __slots__ = ("commands", "first", "size", "until")

    def __init__(self, commands: list[Command], first: int, until: float, size: int) -> None:
        self.commands = commands
        self.first = first
        self.until = until
        self.size = size


class CommandSequence:
    """Brings the commands of one session into the order of their ids."""

    __slots__ = ("_missing", "_top", "_waiting")

    def __init__(self, opening: Iterable[int] = ()) -> None:
        """`opening`: the ids of the commands that opened the session. What has lower ids may still come."""
        self._top = 0
        # The bit 1 << k says that the id `_top` - k has not come.
        self._missing = 0
        self._waiting: list[_WaitingCommands] = []
        self._mark(opening)

    @property
    def deadline(self) -> float:
        """When `overdue` has something to give, at the latest; `inf` where nothing waits."""
        return min((waiting.until for waiting in self._waiting), default=inf)

    @property
    def waiting_bytes(self) -> int:
        """The size of what waits."""
        return sum([waiting.size for waiting in self._waiting])

    def take(self, commands: list[Command], now: float, size: int = 0) -> list[Command]:
        """Take the commands of one request of `size` bytes; returns what is to be carried out now, in its order."""
        fresh = self._fresh(commands)
        if not fresh:
            return []
        first = min((command.id for command in fresh if command.id), default=0)
        if not first and self._waiting:
            last = self._waiting[-1]
            last.commands += fresh
            last.size += size
            return []
        if first > self._top + 1:
            self._waiting.append(_WaitingCommands(fresh, first, now + WAIT_SECONDS, size))
            return []
        self._mark([command.id for command in fresh if command.id])
        return fresh + self._follow()

    def overdue(self, now: float) -> list[Command]:
        """What has waited long enough at `now`, with all that was to come before it."""
        late = [waiting.first for waiting in self._waiting if waiting.until <= now]
        ready: list[Command] = []
        if late:
            highest = max(late)
            due = [waiting for waiting in self._waiting if waiting.first <= highest]
            self._waiting = [waiting for waiting in self._waiting if waiting.first > highest]
            for waiting in sorted(due, key=lambda each: each.first):
                self._mark([command.id for command in waiting.commands if command.id])
                ready += waiting.commands
            ready += self._follow()
        return ready

    def _fresh(self, commands: list[Command]) -> list[Command]:
        """`commands` without those that came before."""
        waiting = {command.id for each in self._waiting for command in each.commands}
        fresh = []
        for command in commands:
            if command.id:
                if command.id in waiting or not self._may_come(command.id):
                    continue
                waiting.add(command.id)
            fresh.append(command)
        return fresh

    def _may_come(self, number: int) -> bool:
        return number > self._top or bool(self._missing >> (self._top - number) & 1)

    def _follow(self) -> list[Command]:
        """What waited for what has come just now."""
        ready: list[Command] = []
        while self._waiting:
            following = min(self._waiting, key=lambda each: each.first)
            if following.first > self._top + 1:
                break
            self._waiting.remove(following)
            self._mark([command.id for command in following.commands if command.id])
            ready += following.commands
        return ready

    def _mark(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if (ahead := number - self._top) > 0:
                skipped = (1 << min(ahead, LATE_IDS)) - 2
                self._missing = (self._missing << ahead if ahead < LATE_IDS else 0) & _WINDOW | skipped
                self._top = number
            else:
                self._missing &= ~(1 << -ahead)
