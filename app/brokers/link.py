"""What passes from a link to the node: the events in their order, and the figures about the link itself."""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field

from broadcaster import BroadcastBackend, Event

from app.core.broker import LinkState

# What may wait to be told in one process; beyond it messages are dropped, counted and told as a gap.
MAX_EVENTS = 65_536
MAX_BYTES = 64 * 1024 * 1024
# Roughly what an event costs beside its payload.
_EVENT_OVERHEAD = 200


@dataclass(slots=True)
class LinkFigures:
    """How this process's link does, for telemetry to read. Times are in seconds.

    `canary_heard_at` is on the clock of `time.monotonic`, None before the first canary and where none is needed, as in
    memory. `reconnects` counts links found again after a loss. `dropped` counts messages that came and were not told,
    by reason: `queue_full`, `malformed`, `no_receiver`.
    """

    up: bool = False
    canary_round_trip_seconds: float = 0.0
    canary_heard_at: float | None = None
    reconnects: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class MessageEvent(Event):
    """Bytes that came for a subscribed channel."""

    message: bytes  # type: ignore[assignment]  # broadcaster's own backends carry text, and nothing in it looks inside

    def __init__(self, channel: str, message: bytes) -> None:
        self.channel = channel
        self.message = message


class LinkEvent(Event):
    """The link's state changed; it travels between the messages, so that their order tells what was missed."""

    def __init__(self, state: LinkState) -> None:
        super().__init__("", state.value)
        self.state = state


class LinkBackend(BroadcastBackend):
    """A broadcaster backend that carries bytes, tells its link's state among the events and keeps figures."""

    figures: LinkFigures


class EventQueue:
    """Events on their way to the one task that takes them, bounded in number and bytes.

    Once full it refuses messages until half of it is taken, so that one long gap comes of an overflow and not many.
    """

    def __init__(self, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._refusing = False
        self._filled = asyncio.Event()

    def offer(self, event: MessageEvent) -> bool:
        """Queue a message; False when there is no room for it."""
        size = len(event.message) + _EVENT_OVERHEAD
        share = 2 if self._refusing else 1
        if len(self._events) * share >= self._max_events or (self._bytes + size) * share > self._max_bytes:
            self._refusing = True
            return False
        self._refusing = False
        self._events.append((event, size))
        self._bytes += size
        self._filled.set()
        return True

    def put(self, event: LinkEvent) -> None:
        """Queue a change of the link, which always has room: it is rare and must not be missed."""
        self._events.append((event, 0))
        self._filled.set()

    async def take(self) -> Event:
        """The oldest event; waits for one."""
        while not self._events:
            self._filled.clear()
            await self._filled.wait()
        event, size = self._events.popleft()
        self._bytes -= size
        return event
