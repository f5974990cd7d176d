"""The events that wait for a webhook receiver: bounded, in order, and shared fairly between users."""

import time
from collections import deque
from collections.abc import Callable

from msgspec import UNSET, Struct, UnsetType

# Of the queue, what is kept for events that are not about a client's channels.
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

    __slots__ = ("event", "owner")

    def __init__(self, event: WebhookEvent, owner: str) -> None:
        self.event: WebhookEvent | None = event
        self.owner = owner


class WebhookQueue:
    """Holds at most `limit` events. Where it is full, the user with most events in it loses some, and not the others.

    Subscribe and unsubscribe events count for their user, or for the client where it has none; a part of the queue is
    kept for all others, such as connect and disconnect.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._shared_limit = max(1, round(limit * (1 - RESERVED_SHARE)))
        self._clock = clock
        self._events: deque[_Waiting] = deque()
        self._count = 0
        self._owned: dict[str, list[_Waiting]] = {}
        self._owned_count = 0
        self._counts: dict[str, int] = {}
        self._subscribes: dict[tuple[str, str], _Waiting] = {}
        self._heaviest = ""
        self._searched_at = -_SEARCH_SECONDS

    def __len__(self) -> int:
        return self._count

    def add(self, event: WebhookEvent) -> int:
        """Queue an event; returns how many were dropped, this one or others, for want of room."""
        if event.event not in {"subscribe", "unsubscribe"}:
            if self._count >= self._limit:
                return 1
            self._append(_Waiting(event, ""))
            return 0
        owner = f"user {event.user}" if event.user else f"client {event.client}"
        dropped = 0
        if self._owned_count >= self._shared_limit or self._count >= self._limit:
            if not self._make_room(owner):
                return 1
            dropped = 1
        waiting = _Waiting(event, owner)
        self._append(waiting)
        self._owned.setdefault(owner, []).append(waiting)
        self._counts[owner] = self._counts.get(owner, 0) + 1
        self._owned_count += 1
        if event.event == "subscribe":
            self._subscribes[_key(event)] = waiting
        return dropped

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

    def _make_room(self, owner: str) -> bool:
        """Drop the newest event of the user with most; False where that is `owner`, or has no more than others."""
        share = self._shared_limit // (len(self._counts) + (owner not in self._counts))
        if self._counts.get(owner, 0) >= max(1, share):
            return False
        if self._counts.get(self._heaviest, 0) <= share:
            now = self._clock()
            if now - self._searched_at < _SEARCH_SECONDS:
                return False
            self._searched_at = now
            self._heaviest = max(self._counts, key=self._counts.__getitem__, default="")
        owned = self._owned.get(self._heaviest, [])
        while owned and owned[-1].event is None:
            owned.pop()
        if self._heaviest == owner or len(owned) <= 1:
            return False
        self._remove(owned[-1])
        return True

    def _remove(self, waiting: _Waiting) -> None:
        """Take an event out of the middle of the queue."""
        self._forget(waiting)
        # What was taken out stays as an empty place until its turn; too many of them are swept.
        if len(self._events) > 2 * self._count + 100:
            self._events = deque(each for each in self._events if each.event is not None)

    def _forget(self, waiting: _Waiting) -> None:
        event, waiting.event = waiting.event, None
        self._count -= 1
        if event is None or not waiting.owner:
            return
        if self._subscribes.get(_key(event)) is waiting:
            del self._subscribes[_key(event)]
        self._owned_count -= 1
        self._counts[waiting.owner] -= 1
        owned = self._owned[waiting.owner]
        if not self._counts[waiting.owner]:
            del self._counts[waiting.owner], self._owned[waiting.owner]
        elif len(owned) > 2 * self._counts[waiting.owner] + 100:
            self._owned[waiting.owner] = [each for each in owned if each.event is not None]


def _key(event: WebhookEvent) -> tuple[str, str]:
    return str(event.client), str(event.channel)
