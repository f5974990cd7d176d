"""What the server API costs: CPU time of a publish, a broadcast and a batch, compared with a bare uvicorn handler.

One worker each, keep-alive connections, in memory and over a real Redis. `python -m tests.bench.api`.
"""

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from tests.bench.process import cpu_seconds
from tests.support.running import Starling
from tests.support.services import RedisServer, free_port

ROUNDS = 5
REQUESTS = 800
MANY_REQUESTS = 160
CONNECTIONS = 16
CHANNELS = 100
ALONE = ", one connection"
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


class MeasuredProcess(NamedTuple):
    """A server that is measured: its port and its process."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """CPU time of the process so far."""
        return cpu_seconds(self.pid)


class Work(NamedTuple):
    """What is asked of a server: `requests` times, over `connections` at once."""

    server: MeasuredProcess
    path: str
    body: Mapping[str, Any]
    requests: int
    connections: int = CONNECTIONS


def main() -> None:
    """Print what was measured, and what is wanted."""
    console = Console(highlight=False, soft_wrap=True)
    found: dict[str, list[float]] = {}
    with _servers() as servers:
        works = _works(servers)
        for _ in range(ROUNDS):
            for name, work in works.items():
                found.setdefault(name, []).append(_cost(work))
    costs = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        least, most = min(values) * 1e6, max(values) * 1e6
        console.print(f"{name}: {costs[name] * 1e6:.0f} µs of CPU ({least:.0f} to {most:.0f})")
    for broker in ("memory", "Redis"):
        for kind, wanted in PUBLISH_WANTED.items():
            for suffix in ("", ALONE):
                publish = f"{broker}, publish, {kind}{suffix}"
                broadcast = f"{broker}, broadcast to {CHANNELS}, {kind}{suffix}"
                batch = f"{broker}, batch of {CHANNELS}, {kind}{suffix}"
                _compare(console, publish, costs, f"bare handler{suffix}", wanted)
                _compare(console, broadcast, costs, publish, BROADCAST_WANTED)
                _compare(console, batch, costs, publish, BATCH_WANTED)


def _works(servers: Mapping[str, MeasuredProcess]) -> dict[str, Work]:
    bare = servers["bare"]
    publish = {kind: {"channel": f"{kind}:news", "data": DATA} for kind in PUBLISH_WANTED}
    works = {
        "bare handler": Work(bare, "/handler", publish["live"], REQUESTS),
        f"bare handler{ALONE}": Work(bare, "/handler", publish["live"], REQUESTS, 1),
        "bare FastAPI route": Work(bare, "/bare", publish["live"], REQUESTS),
    }
    for broker in ("memory", "Redis"):
        server = servers[broker]
        for kind, body in publish.items():
            broadcast = {"channels": [f"{kind}:{number}" for number in range(CHANNELS)], "data": DATA}
            batch = {"commands": [{"publish": body}] * CHANNELS}
            for suffix, connections in (("", CONNECTIONS), (ALONE, 1)):
                works[f"{broker}, publish, {kind}{suffix}"] = Work(server, "/api/publish", body, REQUESTS, connections)
                works[f"{broker}, broadcast to {CHANNELS}, {kind}{suffix}"] = Work(
                    server, "/api/broadcast", broadcast, MANY_REQUESTS, connections
                )
                works[f"{broker}, batch of {CHANNELS}, {kind}{suffix}"] = Work(
                    server, "/api/batch", batch, MANY_REQUESTS, connections
                )
    return works


def _compare(console: Console, name: str, costs: Mapping[str, float], base: str, wanted: float) -> None:
    ratio = costs[name] / costs[base]
    verdict = "reached" if ratio <= wanted else "NOT reached"
    console.print(f"{name}: {ratio:.2f} times {base}; target: at most {wanted:g}: {verdict}")


@contextmanager
def _servers() -> Iterator[dict[str, MeasuredProcess]]:
    """Starling in memory and over Redis, and the bare handler, each with one worker."""
    with tempfile.TemporaryDirectory() as directory, RedisServer() as redis:
        channels = Path(directory) / "channels.yaml"
        channels.write_text(CHANNELS_FILE)
        environment = {
            "STARLING_TOKEN_HMAC_SECRET": "a secret of the benchmark's own, long enough",
            "STARLING_API_KEYS": KEY,
            "STARLING_WORKERS": "1",
            "STARLING_CHANNELS_FILE": str(channels),
        }
        with (
            Starling(environment | {"STARLING_BROKER_URL": "memory://"}) as memory,
            Starling(environment | {"STARLING_BROKER_URL": redis.url}) as over_redis,
            _bare() as bare,
        ):
            yield {
                "memory": MeasuredProcess(memory.port, memory.workers[0]),
                "Redis": MeasuredProcess(over_redis.port, over_redis.workers[0]),
                "bare": bare,
            }


@contextmanager
def _bare() -> Iterator[MeasuredProcess]:
    """tests/bench/bare_route.py as uvicorn serves it at its best: uvloop, httptools, no access log."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.bench.bare_route:application", "--port", str(port)]
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    with subprocess.Popen(command + options, stdin=subprocess.DEVNULL) as process:
        try:
            _until_open(port)
            yield MeasuredProcess(port, process.pid)
        finally:
            process.terminate()


def _until_open(port: int) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def _cost(work: Work) -> float:
    """CPU seconds of the worker for one request."""
    request = _request(work)
    sockets = [socket.create_connection(("127.0.0.1", work.server.port)) for _ in range(work.connections)]
    try:
        for _ in range(3):
            _ask_all(sockets, request, work.path)
        before = work.server.cpu_seconds()
        for _ in range(work.requests // work.connections):
            _ask_all(sockets, request, work.path)
        # What the last request began is finished a moment later.
        time.sleep(0.01)
        return (work.server.cpu_seconds() - before) / (work.requests // work.connections * work.connections)
    finally:
        for each in sockets:
            each.close()


def _request(work: Work) -> bytes:
    content = json.dumps(work.body).encode()
    lines = [
        f"POST {work.path} HTTP/1.1",
        f"Host: 127.0.0.1:{work.server.port}",
        f"X-API-Key: {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def _ask_all(sockets: list[socket.socket], request: bytes, path: str) -> None:
    """Have one request under way on each connection, and read all answers."""
    for each in sockets:
        each.sendall(request)
    for each in sockets:
        answer = b""
        while not _is_whole(answer):
            piece = each.recv(1_000_000)
            answer += piece
            if not piece:
                break
        if not answer.startswith(b"HTTP/1.1 200") or b'"error"' in answer:
            raise RuntimeError(f"{path}: {answer[:200]!r}")


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    return len(body) >= int(fields[b"content-length"])


if __name__ == "__main__":
    main()
