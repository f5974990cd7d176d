"""How long the service takes to get ready, and what it holds of memory while nobody is connected."""

import asyncio
import logging
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import structlog
from rich.console import Console

from starling import __version__
from starling.testing import service
from tests.support.containers import Container, ContainersUnavailableError, Podman
from tests.support.running import Starling
from tests.support.services import RedisServer

STARTS = 5
SETTLE_SECONDS = 5.0


def main() -> None:
    """Print a line for each measurement."""
    console = Console(highlight=False, soft_wrap=True)
    # Its lines about clients would stand between the measurements.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    first, *more = asyncio.run(_seconds_of_test_services())
    console.print(f"test kit: a service with a client is ready after {first:.2f} s, the next ones {_spread(more)}")
    with RedisServer() as redis:
        environment = {"STARLING_DEV": "true", "STARLING_BROKER_URL": redis.url, "STARLING_WORKERS": "2"}
        seconds = [_seconds_to_ready(environment) for _ in range(STARTS)]
        console.print(f"process, 2 workers over Redis: ready after {_spread(seconds)}")
        with Starling(environment) as starling:
            time.sleep(SETTLE_SECONDS)
            proportional = _proportional_set_size(starling.process.pid)
            console.print(f"process, 2 workers over Redis, idle: {proportional / 1e6:.0f} MB proportional set size")
    try:
        _bench_container(console)
    except ContainersUnavailableError as unavailable:
        console.print(f"container: not measured, because {unavailable}")


def _bench_container(console: Console) -> None:
    with tempfile.TemporaryDirectory() as directory:
        podman = Podman(Path(directory))
        image = podman.build(version=__version__, revision="bench")
        seconds = []
        for _ in range(STARTS):
            with Container(podman, image, {"STARLING_DEV": "true", "STARLING_DRAIN_DELAY_SECONDS": "0"}) as container:
                seconds.append(container.seconds_to_ready)
        console.print(f"container, 1 CPU, from `podman run`: ready after {_spread(seconds)}")
        size = podman.inspect(image)["Size"]
        added = size - podman.inspect(podman.ensure_base())["Size"]
        console.print(f"image: {size / 1e6:.0f} MB, {added / 1e6:.0f} MB of it above its base")
        podman.remove_image()


def _seconds_to_ready(environment: dict[str, str]) -> float:
    begun = time.monotonic()
    with Starling(environment):
        return time.monotonic() - begun


async def _seconds_of_test_services() -> list[float]:
    """Seconds from beginning a service of the test kit to its first client, one after the other."""
    seconds = []
    for _ in range(1 + STARTS):
        begun = time.perf_counter()
        async with service() as running:
            await running.connect("ann")
            seconds.append(time.perf_counter() - begun)
    return seconds


def _proportional_set_size(pid: int) -> int:
    """Bytes that a process and its descendants hold, each shared page divided among those that share it."""
    master = psutil.Process(pid)
    return sum(process.memory_full_info().pss for process in (master, *master.children(recursive=True)))


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s (median of {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
