"""How many append-only streams one Redis and its workers take: streams that append once a window, all at once.

Each stream has a connection of its own, as a producer has, and appends again when its window is over and the append
before is answered. Nobody reads them. `python -m tests.bench.streams [STREAMS:MILLISECONDS …]`, such as 500:40.
Before, it measures what an answer takes in Redis, and how soon a cancellation at one pod interrupts a writer elsewhere.
"""

import asyncio
import heapq
import json
import os
import resource
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx2
from redis import Redis
from rich.console import Console

import starling
from tests.bench.api import MeasuredProcess
from tests.support.running import Starling
from tests.support.services import RedisServer

KEY = "a key of the benchmark's own"
WARM_UP = 2.0
SECONDS = 5.0
RUNS = ("200:40", "400:40", "800:40", "2000:40", "2000:100", "2000:200", "2000:400")
# What a model writes in 40 ms at 125 tokens a second, and an answer of 4,000 of them.
TOKENS_A_WINDOW = 5
TOKEN = " token"
ANSWER_TOKENS = 4_000
CANCELLATIONS = 100
CHANNELS_FILE = "namespaces: {answers: {stream: text, stream_ttl: 600s}}\n"


class Served(NamedTuple):
    """A pod with a worker for each CPU, and its Redis; `other` is the address of another pod, with one worker."""

    port: int
    other: str
    workers: list[MeasuredProcess]
    redis: MeasuredProcess


@dataclass
class Producer:
    """One stream as its producer sees it."""

    channel: str
    connection: socket.socket
    sequence: int = 0
    sent_at: float = 0.0


@dataclass
class Load:
    """What the producers did in the time that was measured; the answer times in seconds."""

    seconds: float = 0.0
    answer_times: list[float] = field(default_factory=list)
    repeated: int = 0
    """Appends that the service did not take in time, and got once more."""

    @property
    def rate(self) -> float:
        """Appends a second."""
        return len(self.answer_times) / self.seconds


def main() -> None:
    """Print a row for each run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard))
    console = Console(highlight=False, soft_wrap=True)
    with _served() as served:
        load_average = os.getloadavg()[0]
        console.print(f"{len(served.workers)} workers, one Redis, load average {load_average:.1f} before")
        console.print(f"answer of {ANSWER_TOKENS} tokens: {_answer_bytes(served)}")
        console.print(f"{CANCELLATIONS} cancellations at another pod: {asyncio.run(_cancellations(served))}")
        for number, run in enumerate(sys.argv[1:] or RUNS):
            streams, _, window = run.partition(":")
            console.print(_run(served, number, int(streams), int(window) / 1000))


def _run(served: Served, number: int, streams: int, window: float) -> str:
    producers = _opened(served.port, [f"answers:{number}-{each}" for each in range(streams)])
    try:
        _drive(producers, window, WARM_UP)
        groups = {"workers": served.workers, "Redis": [served.redis], "generator": [MeasuredProcess(0, os.getpid())]}
        before = {name: sum(process.cpu_seconds() for process in group) for name, group in groups.items()}
        load = _drive(producers, window, SECONDS)
        used = {
            name: (sum(process.cpu_seconds() for process in group) - before[name]) for name, group in groups.items()
        }
    finally:
        for producer in producers:
            producer.connection.close()
    wanted = streams / window
    times = sorted(load.answer_times)
    costs = ", ".join(
        f"{name} {seconds / load.seconds:.2f} CPU, {seconds / len(times) * 1e6:.0f} µs an append"
        for name, seconds in used.items()
    )
    return (
        f"{streams} streams, window {window * 1000:.0f} ms: {load.rate:,.0f} appends/s of {wanted:,.0f} "
        f"({load.rate / wanted:.0%}), a window each {streams / load.rate * 1000:.0f} ms; "
        f"answered in {statistics.median(times) * 1000:.0f} ms at the median, "
        f"{times[int(len(times) * 0.99)] * 1000:.0f} ms at p99, {load.repeated} repeated; {costs}"
    )


@contextmanager
def _served() -> Iterator[Served]:
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as directory, RedisServer() as redis:
        channels = Path(directory) / "channels.yaml"
        channels.write_text(CHANNELS_FILE)
        environment = {
            "STARLING_TOKEN_HMAC_SECRET": "a secret of the benchmark's own, long enough",
            "STARLING_API_KEYS": KEY,
            "STARLING_WORKERS": str(workers),
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKER_CONNECTIONS_PER_ADDRESS": "0",
        }
        with Starling(environment) as pod, Starling(environment | {"STARLING_WORKERS": "1"}) as other:
            workers_of_pod = [MeasuredProcess(pod.port, worker) for worker in pod.workers]
            yield Served(pod.port, other.http, workers_of_pod, MeasuredProcess(redis.port, _pid(redis.port)))


def _pid(port: int) -> int:
    with Redis(port=port) as redis:
        return int(redis.info("server")["process_id"])


def _opened(port: int, channels: Sequence[str]) -> list[Producer]:
    producers = [Producer(channel, socket.create_connection(("127.0.0.1", port))) for channel in channels]
    for producer in producers:
        producer.connection.sendall(_request("stream_open", {"channel": producer.channel, "producer": "writer"}))
    for producer in producers:
        _check(producer.connection.recv(65536))
    return producers


def _drive(producers: Sequence[Producer], window: float, seconds: float) -> Load:
    """Have each producer append once a window at most, for `seconds`, and wait for the last answers."""
    load, by_descriptor, poll = Load(), {each.connection.fileno(): each for each in producers}, select.epoll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    started = time.perf_counter()
    due = [(started + window * number / len(producers), id(each), each) for number, each in enumerate(producers)]
    under_way, end = 0, started + seconds
    while under_way or time.perf_counter() < end:
        now = time.perf_counter()
        while due and due[0][0] <= now < end:
            _, _, producer = heapq.heappop(due)
            producer.connection.sendall(_append(producer))
            producer.sent_at, under_way = now, under_way + 1
        rest = min(due[0][0] if due else end, end) - time.perf_counter()
        for descriptor, _ in poll.poll(max(rest, 0.0) if now < end else 1.0):
            producer = by_descriptor[descriptor]
            answer = producer.connection.recv(65536)
            now, under_way = time.perf_counter(), under_way - 1
            if answer.startswith(b"HTTP/1.1 503"):
                load.repeated += 1
            else:
                _check(answer)
                producer.sequence += 1
                load.answer_times.append(now - producer.sent_at)
            heapq.heappush(due, (max(producer.sent_at + window, now), id(producer), producer))
    load.seconds = time.perf_counter() - started
    return load


def _append(producer: Producer) -> bytes:
    body: dict[str, object] = {
        "channel": producer.channel,
        "producer": "writer",
        "producer_epoch": 0,
        "sequence": producer.sequence,
        "text": TOKEN * TOKENS_A_WINDOW,
    }
    return _request("stream_append", body)


def _request(method: str, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST /api/{method} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def _check(answer: bytes) -> None:
    if not answer.startswith(b"HTTP/1.1 200") or b'"error"' in answer:
        raise RuntimeError(f"the service answered {answer[:300]!r}")


async def _cancellations(served: Served) -> str:
    """The time from the request that cancels, to one pod, until a writer at another one is interrupted."""
    times: list[float] = []
    async with httpx2.AsyncClient(base_url=served.other, headers={"X-API-Key": KEY}) as backend:
        for number in range(CANCELLATIONS):
            channel = f"answers:cancel-{number}"
            cancelling, sent_at = None, 0.0
            try:
                async with starling.open_stream(channel, url=f"http://127.0.0.1:{served.port}", key=KEY) as answer:
                    await answer.write("so far")
                    await answer.flush()
                    sent_at = time.perf_counter()
                    cancelling = asyncio.create_task(backend.post("/api/stream_cancel", json={"channel": channel}))
                    await asyncio.Event().wait()
            except starling.Cancelled:
                times.append(time.perf_counter() - sent_at)
            if cancelling is not None:
                (await cancelling).raise_for_status()
    times.sort()
    return (
        f"{statistics.median(times) * 1000:.0f} ms at the median, {times[int(len(times) * 0.99)] * 1000:.0f} ms at p99"
    )


def _answer_bytes(served: Served) -> str:
    """What an answer takes in Redis that is written in windows of TOKENS_A_WINDOW tokens."""
    (producer,) = _opened(served.port, ["answers:whole"])
    with producer.connection as connection:
        for _ in range(ANSWER_TOKENS // TOKENS_A_WINDOW):
            connection.sendall(_append(producer))
            _check(connection.recv(65536))
            producer.sequence += 1
    with Redis(port=served.redis.port) as redis:
        keys = [key for key in redis.keys("*") if b"answers:whole" in key]
        size = sum(redis.memory_usage(key, samples=0) or 0 for key in keys)
    content = len(TOKEN) * ANSWER_TOKENS
    return f"{producer.sequence} entries, {size:,} bytes in Redis for {content:,} bytes of text"


if __name__ == "__main__":
    main()
