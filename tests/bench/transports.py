"""Measure the transports over HTTP next to WebSocket, in one run: deliveries and connects a CPU second, and memory.

One worker on a core of its own; in a window each publication follows when all readers have the one before.
python -m tests.bench.transports
"""

import base64
import http.client
import json
import os
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tests.bench.process import Cores, anonymous_bytes, cpu_seconds, on_core, raise_file_limit
from tests.support.running import Starling
from tests.support.streams import encoded, post

READERS = 1_000
MESSAGES = 100
ROUNDS = 3
SETTLE_SECONDS = 2.0
MARK = b"delivered-to-a-reader"
CHANNEL = "demo:bench"
CONNECT, SUBSCRIBE = {"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": CHANNEL}}
JOINED = b'"id":2,"subscribe"'
CHANNELS = "default: {}\nnamespaces: {demo: {history_size: 100, history_ttl: 60s, allow_subscribe_for_client: true}}\n"
# Of WebSocket's.
DELIVERIES_WANTED, CONNECTS_WANTED, MEMORY_WANTED = 0.85, 0.7, 1.6


def websocket() -> bytes:
    """The handshake, and both commands in one frame that is masked by zeros."""
    head = post("/connection/websocket", b"", "Upgrade: websocket", "Connection: Upgrade", method="GET")
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = head[:-2] + f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    payload = encoded(CONNECT, SUBSCRIBE)
    return handshake.replace(b"Content-Length: 0\r\n", b"") + bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload


def one_way(channels: int) -> bytes:
    """The request of a reader of `/sse`."""
    names = "&".join(f"channel={quote(CHANNEL if not number else f'{CHANNEL}{number}')}" for number in range(channels))
    return post(f"/sse/{quote(CHANNEL)}" if channels == 1 else f"/sse?{names}", b"", method="GET")


# The request of each kind, and what its response holds once the reader is in the channel.
KINDS: dict[str, tuple[Callable[[], bytes], bytes]] = {
    "WebSocket": (websocket, JOINED),
    "HTTP streaming": (lambda: post("/connection/http_stream", encoded(CONNECT, SUBSCRIBE)), JOINED),
    "SSE, two-way": (
        lambda: post(f"/connection/sse?cf_connect={quote(encoded(CONNECT, SUBSCRIBE))}", b"", method="GET"),
        JOINED,
    ),
    "SSE, one channel": (lambda: one_way(1), b"retry:"),
    "SSE, 16 channels": (lambda: one_way(16), b"retry:"),
}


class Readers:
    """Sockets of one kind that count what is delivered to them."""

    def __init__(self, port: int, kind: str) -> None:
        request, joined = KINDS[kind]
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        for number in range(READERS):
            reader = socket.create_connection(("127.0.0.1", port))
            self._sockets.append(reader)
            reader.sendall(request())
            if number % 50 == 49:
                self._await(joined, 50, fresh=self._sockets[-50:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for reader in self._sockets:
            reader.close()
        self._selector.close()

    def _await(self, mark: bytes, count: int, *, fresh: list[socket.socket]) -> None:
        for reader in fresh:
            self._selector.register(reader, selectors.EVENT_READ)
        self.read(mark, count)

    def read(self, mark: bytes, count: int) -> None:
        """Read until `mark` has come this many times."""
        deadline = time.monotonic() + 60
        while count > 0:
            assert time.monotonic() < deadline, f"{count} readers have no {mark!r}"
            for key, _ in self._selector.select(1):
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(65536)
                assert data, "the service ended a stream"
                count -= data.count(mark)


class Publisher:
    """Publishes by the server API."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._body = json.dumps({"channel": CHANNEL, "data": {"text": MARK.decode(), "padding": "x" * 80}})

    def publish(self) -> None:
        """Publish once."""
        self._connection.request("POST", "/api/publish", self._body, {"X-API-Key": "dev"})
        response = self._connection.getresponse()
        assert b"result" in response.read()


def measure(starling: Starling, kind: str) -> tuple[float, float, float]:
    """Deliveries a CPU second, connects a CPU second, and KiB for each reader."""
    (worker,) = starling.workers
    publisher = Publisher(starling.port)
    publisher.publish()
    memory, before = anonymous_bytes(worker), cpu_seconds(worker)
    with Readers(starling.port, kind) as readers:
        connects = READERS / (cpu_seconds(worker) - before)
        time.sleep(SETTLE_SECONDS)
        kib = (anonymous_bytes(worker) - memory) / READERS / 1024
        before = cpu_seconds(worker)
        for _ in range(MESSAGES):
            publisher.publish()
            readers.read(MARK, READERS)
        deliveries = READERS * MESSAGES / (cpu_seconds(worker) - before)
    time.sleep(SETTLE_SECONDS)
    return deliveries, connects, kib


def main() -> None:
    """Print a row for each kind."""
    raise_file_limit()
    cores = Cores.of_this_machine()
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as directory:
        channels = Path(directory) / "channels.yaml"
        channels.write_text(CHANNELS)
        settings = {
            "STARLING_DEV": "true",
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_CONNECTS_PER_SECOND": "0",
            "STARLING_WORKER_CONNECTIONS_PER_ADDRESS": "0",
            "STARLING_LOG_LEVEL": "warning",
            # The readers answer none.
            "STARLING_PING_SECONDS": "3600",
        }
        for number in range(ROUNDS):
            # A worker of its own for each kind: memory that one kind has freed would be used again by the next.
            for kind in list(KINDS) if number % 2 == 0 else reversed(KINDS):
                with on_core(cores.server):
                    starling = Starling(settings).start()
                try:
                    os.sched_setaffinity(0, {cores.load})
                    found[kind].append(measure(starling, kind))
                finally:
                    starling.kill()
    middle = {
        kind: [statistics.median(values) for values in zip(*rounds, strict=True)] for kind, rounds in found.items()
    }
    own = middle["WebSocket"]
    print(f"{READERS:,} readers of one channel, {MESSAGES} publications of 140 B, medians of {ROUNDS} rounds.\n")
    ratio = "of WebSocket"
    print(f"| transport | deliveries per CPU-second | {ratio} | connects per CPU-second | {ratio} | KiB | {ratio} |")
    print("|---|---|---|---|---|---|---|")
    for kind, (deliveries, connects, kib) in middle.items():
        ratios = deliveries / own[0], connects / own[1], kib / own[2]
        print(
            f"| {kind} | {deliveries:,.0f} | {ratios[0]:.2f} | {connects:,.0f} | {ratios[1]:.2f} | {kib:.1f} "
            f"| {ratios[2]:.2f} |"
        )
    print(
        f"\nWanted of HTTP streaming and SSE with one channel: {DELIVERIES_WANTED} of the deliveries, "
        f"{CONNECTS_WANTED} of the connects, {MEMORY_WANTED} of the memory at most."
    )


if __name__ == "__main__":
    main()
