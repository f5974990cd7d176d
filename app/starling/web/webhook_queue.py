"""The events that wait for a webhook receiver: bounded, in order, and shared fairly between users."""

import time
from collections import deque
from collections.abc import Callable

from msgspec import UNSET, Struct, UnsetType

_OF_SUBSCRIPTIONS = frozenset({"subscribe", "unsubscribe"})
_OF_CONNECTIONS = frozenset({"connect", "disconnect"})
# Of the queue, what is kept for events of connections.
RESERVED_SHARE = 0.1
# Looking for the user with most events takes time, so it is done this often at most. Seconds.
_SEARCH_SECONDS = 0.05


class WebhookEvent(Struct):
    """One event as its receiver reads it. `time` in milliseconds since 1970; fields that do not apply are left out."""

    id: str
    event: str
    time: int
    channel: str | UnsetType = UNSET
    user: str | UnsetType = UNSET
    client: str | UnsetType = UNSET
    code: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    revision: int | UnsetType = UNSET


class _Waiting:
    """An event in the queue; `event` is None once it has been taken out of its middle."""

    __slots__ = ("event", "owner", "shares")

    def __init__(self, event: WebhookEvent, owner: str, shares: "_Shares") -> None:
        self.event: WebhookEvent | None = event
        self.owner = owner
        self.shares = shares


class _Shares:
    """Events of one kind by the user that they count for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.count = 0
        self._clock = clock
        self._owned: dict[str, list[_Waiting]] = {}
        self._counts: dict[str, int] = {}
        self._heaviest = ""
        self._searched_at = -_SEARCH_SECONDS

    def add(self, waiting: _Waiting) -> None:
        """Count an event for its owner."""
        self._owned.setdefault(waiting.owner, []).append(waiting)
        self._counts[waiting.owner] = self._counts.get(waiting.owner, 0) + 1
        self.count += 1

    def remove(self, owner: str) -> None:
        """Count an event of `owner` no more, whose place is empty."""
        self.count -= 1
        self._counts[owner] -= 1
        owned = self._owned[owner]
        if not self._counts[owner]:
            del self._counts[owner], self._owned[owner]
        elif len(owned) > 2 * self._counts[owner] + 100:
            self._owned[owner] = [each for each in owned if each.event is not None]

    def newest_of_heaviest(self, owner: str, room: int) -> _Waiting | None:
        """The newest event of who has most; None where that is `owner`, or has no more than its share of `room`."""
        share = room // (len(self._counts) + (owner not in self._counts))
        if self._counts.get(owner, 0) >= max(1, share):
            return None
        if self._counts.get(self._heaviest, 0) <= share:
            now = self._clock()
            if now - self._searched_at < _SEARCH_SECONDS:
                return None
            self._searched_at = now
            self._heaviest = max(self._counts, key=self._counts.__getitem__, default="")
        owned = self._owned.get(self._heaviest, [])
        while owned and owned[-1].event is None:
            owned.pop()
        return None if self._heaviest == owner or len(owned) <= 1 else owned[-1]


class WebhookQueue:
    """Holds at most `limit` events. Where it is full, the user with most events in it loses some, and not the others.

    Events count for the user that caused them: those of subscriptions and channels among themselves, and those of
    connections, for which a part of the queue is kept.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._shared_limit = max(1, round(limit * (1 - RESERVED_SHARE)))
        self._events: deque[_Waiting] = deque()
        self._count = 0
        self._channels = _Shares(clock)
        self._connections = _Shares(clock)
        self._subscribes: dict[tuple[str, str], _Waiting] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, event: WebhookEvent, owner: str) -> int:
        """Queue an event that counts for `owner`; returns how many were dropped, this one or others, for want of room.

        Events that nobody known caused have the owner "".
        """
        if event.event in _OF_SUBSCRIPTIONS:
            # An earlier subscription of the client cannot be taken back any more.
            self._subscribes.pop(_key(event), None)
        full = self._count >= self._limit
        shares, room = self._channels, self._shared_limit
        if event.event in _OF_CONNECTIONS:
            shares, room = self._connections, self._limit - self._channels.count
        else:
            full = full or shares.count >= room
        if full:
            newest = shares.newest_of_heaviest(owner, room)
            if newest is None:
                return 1
            self._remove(newest)
        waiting = _Waiting(event, owner, shares)
        self._append(waiting)
        shares.add(waiting)
        if event.event == "subscribe":
            self._subscribes[_key(event)] = waiting
        return int(full)

    def cancel_subscribe(self, client: str, channel: str) -> bool:
        """Take out the subscribe event of a client that left again; False where it is not in the queue any more."""
        waiting = self._subscribes.get((client, channel))
        if waiting is None:
            return False
        self._remove(waiting)
        return True

    def take(self, most: int) -> list[WebhookEvent]:
        """Take out the oldest events, at most `most`."""
        taken: list[WebhookEvent] = []
        while self._events and len(taken) < most:
            waiting = self._events.popleft()
            event = waiting.event
            if event is not None:
                self._forget(waiting)
                taken.append(event)
        return taken

    def _append(self, waiting: _Waiting) -> None:
        self._events.append(waiting)
        self._count += 1

    def _remove(self, waiting: _Waiting) -> None:
        """Take an event out of the middle of the queue."""
        self._forget(waiting)
        # What was taken out stays as an empty place until its turn; too many of them are swept.
        if len(self._events) > 2 * self._count + 100:
            self._events = deque(each for each in self._events if each.event is not None)

    def _forget(self, waiting: _Waiting) -> None:
        event, waiting.event = waiting.event, None
        self._count -= 1
        if event is None:
            return
        if self._subscribes.get(_key(event)) is waiting:
            del self._subscribes[_key(event)]
        waiting.shares.remove(waiting.owner)


def _key(event: WebhookEvent) -> tuple[str, str]:
    return str(event.client), str(event.channel)
