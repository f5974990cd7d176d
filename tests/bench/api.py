"""What the server API costs: CPU time of a publish, a broadcast and a batch, compared with a bare ASGI handler.

One worker, real Redis, one keep-alive connection, requests one after the other. `python -m tests.bench.api`.
"""

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from tests.server.serving import Server
from tests.support.running import Starling
from tests.support.services import RedisServer

ROUNDS = 3
REQUESTS = 1000
BROADCASTS = 100
CHANNELS = 100
KEY = "a key of the benchmark's own"
DATA = {
    "text": "A starling is never alone: thousands turn as one.",
    "author": {"id": 42, "name": "Ada"},
    "tags": [1, 2],
}
CHANNELS_FILE = """
namespaces:
  live: {}
  kept: {history_size: 100, history_ttl: 60s}
"""

PUBLISH_WANTED = {"live": 1.6, "kept": 1.8}
BROADCAST_WANTED = 4.0
BATCH_WANTED = 15.0


class BareServer(Server):
    """tests/bench/bare_route.py in a process group of its own."""

    def _launch(self, output: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.bench.bare_route", json.dumps(self.options)]
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )


def main() -> None:
    """Print what was measured, and what is wanted."""
    console = Console(highlight=False, soft_wrap=True)
    publish = {name: {"channel": f"{name}:news", "data": DATA} for name in ("live", "kept")}
    broadcast = {
        name: {"channels": [f"{name}:{number}" for number in range(CHANNELS)], "data": DATA}
        for name in ("live", "kept")
    }
    batch = {name: {"commands": [{"publish": publish[name]}] * CHANNELS} for name in publish}
    with _servers() as (starling, worker, bare, bare_worker):
        measures: dict[str, Callable[[], float]] = {
            "bare handler": lambda: _cost(bare, bare_worker, "/handler", publish["live"], REQUESTS),
            "bare FastAPI route": lambda: _cost(bare, bare_worker, "/bare", publish["live"], REQUESTS),
            **{
                f"publish, {name}": lambda name=name: _cost(starling, worker, "/api/publish", publish[name], REQUESTS)  # type: ignore[misc]
                for name in publish
            },
            **{
                f"broadcast to {CHANNELS}, {name}": lambda name=name: _cost(  # type: ignore[misc]
                    starling, worker, "/api/broadcast", broadcast[name], BROADCASTS
                )
                for name in broadcast
            },
            **{
                f"batch of {CHANNELS}, {name}": lambda name=name: _cost(  # type: ignore[misc]
                    starling, worker, "/api/batch", batch[name], BROADCASTS
                )
                for name in batch
            },
        }
        found: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(ROUNDS):
            for name, measure in measures.items():
                found[name].append(measure())
    costs = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        least, most = min(values) * 1e6, max(values) * 1e6
        console.print(f"{name}: {costs[name] * 1e6:.0f} µs of CPU ({least:.0f} to {most:.0f})")
    for name in publish:
        _compare(console, f"publish, {name}", costs, "bare handler", PUBLISH_WANTED[name])
        _compare(console, f"broadcast to {CHANNELS}, {name}", costs, f"publish, {name}", BROADCAST_WANTED)
        _compare(console, f"batch of {CHANNELS}, {name}", costs, f"publish, {name}", BATCH_WANTED)


def _compare(console: Console, name: str, costs: dict[str, float], base: str, wanted: float) -> None:
    ratio = costs[name] / costs[base]
    verdict = "reached" if ratio <= wanted else "NOT reached"
    console.print(f"{name}: {ratio:.2f} times {base}; target: at most {wanted:g}: {verdict}")


@contextmanager
def _servers() -> Iterator[tuple[int, psutil.Process, int, psutil.Process]]:
    """Starling and the bare route, each with one worker: port and worker of both."""
    with tempfile.TemporaryDirectory() as directory, RedisServer() as redis:
        channels = Path(directory) / "channels.yaml"
        channels.write_text(CHANNELS_FILE)
        environment = {
            "STARLING_TOKEN_HMAC_SECRET": "a secret of the benchmark's own, long enough",
            "STARLING_API_KEYS": KEY,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "1",
            "STARLING_CHANNELS_FILE": str(channels),
        }
        with Starling(environment) as starling, BareServer(Path(directory)) as bare:
            yield (
                starling.port,
                psutil.Process(starling.workers[0]),
                bare.port,
                psutil.Process(bare.workers(ready=True)[0]),
            )


def _cost(port: int, worker: psutil.Process, path: str, body: dict[str, Any], requests: int) -> float:
    """CPU seconds of the worker for one request."""
    content = json.dumps(body).encode()
    headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask() -> None:
        connection.request("POST", path, content, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200 or b'"error"' in text:
            raise RuntimeError(f"{path}: {answer.status} {text[:200]!r}")

    for _ in range(20):
        ask()
    before = sum(worker.cpu_times()[:2])
    for _ in range(requests):
        ask()
    # The kernel counts in hundredths of a second, and what the last request began is finished a moment later.
    time.sleep(0.05)
    cost: float = sum(worker.cpu_times()[:2]) - before
    connection.close()
    return cost / requests


if __name__ == "__main__":
    main()
