"""How late the event loop is while a broadcast goes to 100,000 subscribers of one process.

The engine is the real one, from the hub to the transport. The sockets are stand-ins that take as long as a write to a
real one, because the load generator of this machine has no room for as many. `python -m tests.bench.loop_lag`.
"""

import asyncio
import time

import uvloop
from msgspec import Raw
from rich.console import Console

from starling.client.client_connection import JsonConnection
from starling.engine.hub import Hub
from starling.protocol.messages import Batch, Publication
from starling.telemetry.metrics import TransportStats
from tests.support.fake_receivers import FakeReceiver

SUBSCRIBERS = 100_000
BROADCASTS = 10
WRITE_SECONDS = 6e-6
SAMPLE_SECONDS = 0.001
WANTED_MS = 50.0
PATIENCE_SECONDS = 120.0


class StandIn:
    """One for all subscribers: keeps the CPU busy for as long as a write, and counts what it was given."""

    def __init__(self) -> None:
        self.frames = 0

    def send_batch(self, batch: Batch) -> None:
        """Take a write."""
        end = time.perf_counter() + WRITE_SECONDS
        while time.perf_counter() < end:
            pass
        self.frames += len(batch.frames)

    queue_batch = send_batch


class Subscriber(FakeReceiver):
    """A client of the client endpoint, as far as a broadcast knows it."""

    encoder = JsonConnection.encoder

    def __init__(self, transport: StandIn, stats: TransportStats) -> None:
        super().__init__(transport=transport, stats=stats)


async def measure() -> tuple[list[float], list[float]]:
    """By how many ms the loop was late while broadcasts were on their way, and what of it this thread worked."""
    hub, sockets, stats = Hub(), StandIn(), TransportStats(slow_code=3008)
    for _ in range(SUBSCRIBERS):
        hub.subscribers.add("bench", Subscriber(sockets, stats))
    lags: list[float] = []
    works: list[float] = []
    publication = Publication(Raw(b'"' + b"x" * 126 + b'"'))
    for number in range(1, BROADCASTS + 1):
        hub.broadcast("bench", publication)
        given_up_at = time.monotonic() + PATIENCE_SECONDS
        while sockets.frames < number * SUBSCRIBERS:
            due, worked = time.monotonic() + SAMPLE_SECONDS, time.thread_time()
            await asyncio.sleep(SAMPLE_SECONDS)
            lags.append(1000 * (time.monotonic() - due))
            works.append(1000 * (time.thread_time() - worked))
            if time.monotonic() > given_up_at:
                raise SystemExit(f"{sockets.frames} of {number * SUBSCRIBERS} frames were written")
    return sorted(lags), sorted(works)


def main() -> None:
    """Print what was measured, and what is wanted."""
    console = Console(highlight=False, soft_wrap=True)
    lags, works = uvloop.run(measure())
    console.print(
        f"{BROADCASTS} broadcasts of 128 B to {SUBSCRIBERS:,} subscribers of one process, sockets stood in for "
        f"({1e6 * WRITE_SECONDS:g} µs a write), {len(lags)} samples"
    )
    console.print(f"event loop late by {_spread(lags)}")
    console.print(f"of it this process's own work, without what others on the machine took: {_spread(works)}")
    p99 = works[int(0.99 * len(works))]
    console.print(f"p99 of the work, target: under {WANTED_MS:g} ms: {'reached' if p99 < WANTED_MS else 'NOT reached'}")


def _spread(values: list[float]) -> str:
    p50, p99 = values[len(values) // 2], values[int(0.99 * len(values))]
    return f"{p50:.1f} ms (p50), {p99:.1f} ms (p99), {values[-1]:.1f} ms (worst)"


if __name__ == "__main__":
    main()
