"""The contract of a link to the server, and the stats of the link."""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starling.telemetry.metrics import Metrics

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
        """Close the connection without waiting for a server that may be away; never raises."""


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
