"""The contract of a link to the server, the ordered queue of its events, and the stats of the link."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from broadcaster import BroadcastBackend, Event

from starling.engine.broker import LinkState
from starling.telemetry.metrics import Metrics

# Events that may wait in one process; beyond it messages are dropped, counted and reported as a gap.
MAX_EVENTS = 65_536
MAX_BYTES = 64 * 1024 * 1024
# Roughly what an event costs besides its payload.
_EVENT_OVERHEAD = 200


Receive = Callable[[str, bytes], None]


class LinkLost(Exception):
    """The link has ended, and why; the words go to the log, so they hold no credentials."""


class Link(ABC):
    """One connection that listens, from opening to loss. One request at a time; every method may raise LinkLost.

    `batch` is how many channels one request may name.
    """

    batch: int

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def read(self, receive: Receive) -> None:
        """Call `receive(channel, bytes)` for what comes, until the link is lost."""

    @abstractmethod
    async def subscribe(self, channels: Sequence[str]) -> None:
        """Return when the server has acknowledged all of them; needs `read` to be running."""

    @abstractmethod
    async def unsubscribe(self, channels: Sequence[str]) -> None:
        """Return when the server has acknowledged all of them; needs `read` to be running."""

    @abstractmethod
    async def check_count(self) -> None:
        """Return when the server counts as many subscriptions as were asked of it; needs `read` to be running."""

    @abstractmethod
    async def close(self) -> None:
        """Give the connection back without waiting for a server that may be away; never raises."""


@dataclass(slots=True)
class LinkStats:
    """The state and the counters of this process's link, which telemetry reads. Times are in seconds.

    `canary_received_at` is on the clock of `time.monotonic`, None before the first canary and where none is needed, as
    in memory. `reconnects` counts links that came up after a loss. `dropped` counts messages that were not delivered,
    by reason: `queue_full`, `malformed`. `failed_swaps` counts consecutive links that failed, 0 while one is up.
    `probes` counts the results of the probes that ran while those links failed: `received`, `silent`. `overflowed`
    counts what `queue_full` dropped by channel, since it was last taken.
    """

    up: bool = False
    canary_round_trip_seconds: float = 0.0
    canary_received_at: float | None = None
    reconnects: int = 0
    failed_swaps: int = 0
    probes: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    overflowed: Counter[str] = field(default_factory=Counter)

    def report(self, metrics: Metrics) -> None:
        """Set the metrics of the link."""
        metrics.set("starling_broker_up", int(self.up))
        metrics.set("starling_broker_canary_seconds", self.canary_round_trip_seconds)
        age = 0.0 if self.canary_received_at is None else time.monotonic() - self.canary_received_at
        metrics.set("starling_broker_canary_age_seconds", age)
        metrics.count("starling_broker_reconnects_total", self.reconnects)
        metrics.set("starling_broker_failed_swaps", self.failed_swaps)
        for result, total in {"received": 0, "silent": 0, **self.probes}.items():
            metrics.count("starling_broker_probes_total", total, result)
        # The usual reasons are exported as 0 from the start: `rate()` misses the first increase of a new series.
        for reason, total in {"queue_full": 0, "malformed": 0, **self.dropped}.items():
            metrics.count("starling_broker_dropped_total", total, reason)

    def take_overflowed(self) -> Counter[str]:
        """What was dropped by channel, and begin anew."""
        taken, self.overflowed = self.overflowed, Counter()
        return taken


class MessageEvent(Event):
    """Bytes that came for a subscribed channel; `received_at` is on the clock of `time.monotonic`."""

    message: bytes  # type: ignore[assignment]  # broadcaster's own backends carry text, and nothing in it looks inside

    def __init__(self, channel: str, message: bytes) -> None:
        self.channel = channel
        self.message = message
        self.received_at = time.monotonic()


class LinkEvent(Event):
    """The link's state changed; it travels between the messages, so that their order shows what was missed."""

    def __init__(self, state: LinkState) -> None:
        super().__init__("", state.value)
        self.state = state


class LinkBackend(BroadcastBackend):
    """A broadcaster backend that carries bytes, reports its link's state among the events and keeps stats."""

    stats: LinkStats


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
