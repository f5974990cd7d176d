"""One soak: two pods over one Redis, publishers, subscribers, faults, and the judgement at the end."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.soak.chaos import Chaos, Pod, Scene
from tests.soak.ledger import Verdict, epochs, judge
from tests.soak.publisher import Publisher
from tests.soak.subscriber import Subscriber
from tests.support.running import Starling, serving
from tests.support.services import RedisServer
from tests.support.tcp_proxy import TcpProxy

PODS = 2
WORKERS = 2
SETTLING = 30.0
"""Seconds that all have, after the last fault, to be live again and to have everything."""
GROWTH_BYTES = 48 * 2**20
"""More than a worker may grow over the soak; its own ring of recent publications and caches fill first."""

CHANNELS_FILE = """
namespaces:
  soak: {history_size: 20000, history_ttl: 1h, force_recovery: true, allow_subscribe_for_client: true}
"""


@dataclass(frozen=True)
class Scale:
    """How much goes on: clients in all, channels, and publications a second in all channels."""

    clients: int = 120
    channels: int = 12
    rate: float = 60.0


@dataclass
class Report:
    """What was done, and what came of it."""

    seed: int
    seconds: float
    faults: Counter[str]
    publications: int = 0
    deliveries: int = 0
    epochs: int = 0
    returns: Counter[str] = field(default_factory=Counter)
    reported: Counter[int] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    settled_after: float = 0.0
    largest_worker_bytes: int = 0
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the service."""
        return not self.verdict.counts

    def values(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds),
            "faults": dict(self.faults),
            "publications": self.publications,
            "deliveries": self.deliveries,
            "streams": self.epochs,
            "returns": dict(self.returns),
            "disconnect codes": {str(code): count for code, count in sorted(self.reported.items())},
            "publish_attempts_refused": dict(self.refusals),
            "settled_after_seconds": round(self.settled_after, 1),
            "largest_worker_mib": round(self.largest_worker_bytes / 2**20, 1),
            "wrong": dict(self.verdict.counts),
            "examples": self.verdict.examples,
        }

    def text(self) -> str:
        """A line for each value, and the verdict."""
        lines = [f"{name.replace('_', ' ')}: {value}" for name, value in self.values().items() if value not in ({}, [])]
        return "\n".join([*lines, "PASSED: nothing lost, doubled or out of order" if self.passed else "FAILED"])


async def soak(
    seed: int, seconds: float, scale: Scale, directory: Path, *, report_fault: Callable[[str], None]
) -> Report:
    """Run one soak; every process it starts has ended when it returns.

    The faults and their order follow from the seed alone; when each strikes depends on the machine, too.
    """
    dice = random.Random(seed)
    channels_file = directory / "channels.yaml"
    channels_file.write_text(CHANNELS_FILE)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(RedisServer(appendonly="yes", appendfsync="everysec"))
        pods = [await _pod(stack, server, channels_file) for _ in range(PODS)]
        channels = [f"soak:{number}" for number in range(scale.channels)]
        subscribers = [
            Subscriber(f"client {n}", channels[n % len(channels)], pods[n % PODS].starling.url, random.Random(seed + n))
            for n in range(scale.clients)
        ]
        addresses = [pod.starling.http for pod in pods]
        publishers = [
            Publisher(channel, addresses, len(channels) / scale.rate, random.Random(f"{seed} {channel}"))
            for channel in channels
        ]
        chaos = Chaos(Scene(pods, server, subscribers, dice), pause=3.0)
        report = Report(seed, seconds, chaos.done)
        async with _running(subscribers):
            await _until(lambda: all(subscriber.live for subscriber in subscribers), report, "all are live at first")
            stopping = asyncio.Event()
            publishing = [asyncio.create_task(publisher.run(stopping)) for publisher in publishers]
            await asyncio.sleep(min(5, seconds / 10))
            before = _worker_bytes(pods)
            began = time.monotonic()
            await chaos.run(seconds, lambda fault: report_fault(f"{time.monotonic() - began:7.1f} s  {fault}"))
            stopping.set()
            await asyncio.gather(*publishing)
            await _settle(publishers, subscribers, report)
            report.largest_worker_bytes = max(_worker_bytes(pods))
            grown = report.largest_worker_bytes - max(before)
            report.verdict.add("grown", int(grown > GROWTH_BYTES), f"a worker by {grown} bytes")
        _judge(publishers, subscribers, report)
        tracebacks = sum(pod.starling.output.count("Traceback (most recent call last)") for pod in pods)
        report.verdict.add("traceback in a log", tracebacks, str([pod.starling.log_path for pod in pods]))
    return report


async def _pod(stack: AsyncExitStack, server: RedisServer, channels_file: Path) -> Pod:
    link = await stack.enter_async_context(TcpProxy(server.port))
    settings = {
        "STARLING_DEV": "true",
        "STARLING_BROKER_URL": link.url,
        "STARLING_WORKERS": str(WORKERS),
        "STARLING_CHANNELS_FILE": str(channels_file),
        "STARLING_RECOVERY_LIMIT": "20000",
    }
    starling: Starling = await stack.enter_async_context(serving(settings))
    return Pod(starling, link)


class _running:  # noqa: N801 - reads as a context
    """Subscribers at work; cancelled at the end, whatever happened."""

    def __init__(self, subscribers: list[Subscriber]) -> None:
        self._subscribers = subscribers
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.create_task(subscriber.run()) for subscriber in self._subscribers]

    async def __aexit__(self, *_error: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error


async def _settle(publishers: list[Publisher], subscribers: list[Subscriber], report: Report) -> None:
    last = {publisher.channel: publisher.acknowledged[-1] for publisher in publishers if publisher.acknowledged}

    def whole(subscriber: Subscriber) -> bool:
        if not subscriber.live or not subscriber.segments:
            return False
        end, segment = last[subscriber.channel], subscriber.segments[-1]
        # A stream that was emptied after its last publication is another, and empty.
        return segment.epoch != end.epoch or segment.position >= end.offset

    began = time.monotonic()
    await _until(lambda: all(map(whole, subscribers)), report, "all are live again and have everything")
    report.settled_after = time.monotonic() - began
    # Whatever came twice would come now.
    await asyncio.sleep(1)


async def _until(holds: Callable[[], bool], report: Report, what: str) -> None:
    end = time.monotonic() + SETTLING
    while not holds():
        if time.monotonic() > end:
            report.verdict.add("not in time", 1, f"{what} within {SETTLING:g} s")
            return
        await asyncio.sleep(0.05)


def _judge(publishers: list[Publisher], subscribers: list[Subscriber], report: Report) -> None:
    acknowledged = {publisher.channel: publisher.acknowledged for publisher in publishers}
    for subscriber in subscribers:
        who = f"{subscriber.name} in {subscriber.channel}"
        judge(subscriber.segments, acknowledged[subscriber.channel], who, report.verdict)
        report.deliveries += sum(len(segment.received) for segment in subscriber.segments)
        report.returns += subscriber.returns
        report.reported += subscriber.reported
    for publisher in publishers:
        report.publications += len(publisher.acknowledged)
        report.epochs += epochs(publisher.acknowledged)
        report.refusals += publisher.refusals


def _worker_bytes(pods: list[Pod]) -> list[int]:
    """Memory of each worker that is its own, in bytes."""
    return [psutil.Process(pid).memory_full_info().uss for pod in pods for pid in pod.starling.workers]
