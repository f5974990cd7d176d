"""A rolling update behind nginx under load: every client reconnects and gets everything once and in order."""

import asyncio
import json
import random
import shutil
import socket
import subprocess
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.support.running import Starling
from tests.support.services import RedisServer, free_port
from tests.support.waiting import DEADLINE

EXAMPLE = Path(__file__).parents[2] / "deploy" / "nginx" / "starling.conf"
CHANNELS = """
default:
  history_size: 1000
  history_ttl: 120s
  allow_subscribe_for_client: true
"""
CLIENTS = 200
CHANNEL_COUNT = 20
PUBLICATIONS = 8_000
BATCH = 10
CONNECTIONS = 16
DELAY = 1.0
DRAIN = 10.0
DRAIN_RATE = 60.0
# Those of the JavaScript SDK, in seconds.
SHORTEST_BACKOFF, LONGEST_BACKOFF = 0.5, 20.0


class Host:
    """Two workers of a process group of their own, on the same ports after every restart."""

    def __init__(self, redis: RedisServer, channels: Path, drain_seconds: float) -> None:
        self.port, self.internal_port = free_port(), free_port()
        self._environment = {
            "STARLING_DEV": "true",
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "2",
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_LOG_LEVEL": "debug",
            "STARLING_DRAIN_DELAY_SECONDS": str(DELAY),
            "STARLING_DRAIN_SECONDS": str(drain_seconds),
            "STARLING_DRAIN_RATE": str(DRAIN_RATE),
        }
        self._running: Starling | None = None

    def start(self) -> None:
        """Start anew, and wait until both workers are ready."""
        running = self._running = Starling(self._environment)
        running.port, running.internal_port = self.port, self.internal_port
        ports = {"STARLING_PORT": str(self.port), "STARLING_INTERNAL_PORT": str(self.internal_port)}
        running.environment |= ports
        running.start()

    def stop(self) -> list[dict[str, Any]]:
        """SIGTERM; returns what it logged, once it has ended in order."""
        running = self._running
        assert running is not None
        try:
            code = running.stop()
            lines = running.lines
        finally:
            self._running = None
            running.log_path.unlink(missing_ok=True)
        assert code == 0
        assert not [line for line in lines if line["level"] in {"error", "critical"}]
        return lines

    def metrics(self) -> dict[str, float]:
        """Every sample of it; none where nobody answers."""
        if self._running is None:
            return {}
        try:
            return self._running.metrics()
        except OSError:
            return {}

    def kill(self) -> None:
        """End it if it runs, as a test does that failed."""
        if self._running is not None:
            self._running.kill()
            self._running.log_path.unlink(missing_ok=True)


@pytest.fixture
def hosts(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> Iterator[list[Host]]:
    """Two hosts over one Redis, started; a test may ask for other seconds of drain."""
    (tmp_path / "channels.yaml").write_text(CHANNELS)
    made = [Host(redis_server, tmp_path / "channels.yaml", getattr(request, "param", DRAIN)) for _ in range(2)]
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(Host.start, made))
        yield made
    finally:
        for host in made:
            host.kill()


@pytest.fixture
def proxy(hosts: list[Host], tmp_path: Path) -> Iterator[str]:
    """`host:port` of nginx with the project's example, without TLS, before both hosts."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    lines = EXAMPLE.read_text().splitlines()
    server = "\n".join(line for line in lines if "ssl_certificate" not in line)
    changes = {
        "listen 443 ssl http2 so_keepalive=10s:2s:3;": f"listen 127.0.0.1:{port};",
        "server starling-1:8000 ": f"server 127.0.0.1:{hosts[0].port} ",
        "server starling-2:8000 ": f"server 127.0.0.1:{hosts[1].port} ",
    }
    for old, new in changes.items():
        assert old in server, f"{old!r} is not in the example"
        server = server.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{ worker_connections 4096; }}\nhttp {{ access_log off; {temporary} {server} }}\n"
    )
    command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + DEADLINE
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)):
                assert process.poll() is None, (tmp_path / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(DEADLINE)


@dataclass
class Client:
    """A client as an SDK is one: it returns by itself after a random time, and recovers from where it stood."""

    url: str
    channel: str
    offsets: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    ended: list[tuple[float, int]] = field(default_factory=list)
    """When, and with which code."""
    back: list[float] = field(default_factory=list)
    """When it was subscribed; the first one is no return."""
    faults: list[str] = field(default_factory=list)
    _position: dict[str, Any] = field(default_factory=dict)
    _failures: int = 0

    @property
    def here(self) -> bool:
        return len(self.back) > len(self.ended)

    async def live(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                async with connect(self.url, compression=None, ping_interval=None, max_queue=None) as connection:
                    await self._listen(connection)
            except (OSError, WebSocketException, TimeoutError):
                pass
            backoff = min(LONGEST_BACKOFF, SHORTEST_BACKOFF * 2**self._failures)
            self._failures += 1
            await asyncio.sleep(SHORTEST_BACKOFF + random.uniform(0, backoff))

    async def _listen(self, connection: ClientConnection) -> None:
        subscribe = {"channel": self.channel, "recoverable": True, **self._position}
        commands = [{"id": 1, "connect": {}}, {"id": 2, "subscribe": subscribe}]
        try:
            await connection.send("\n".join(json.dumps(command) for command in commands))
            async for frame in connection:
                for line in str(frame).splitlines():
                    await self._take(json.loads(line), connection)
        finally:
            if self.here:
                self.ended.append((time.time(), connection.close_code or 1006))

    async def _take(self, message: dict[str, Any], connection: ClientConnection) -> None:
        if not message:
            await connection.send("{}")
        elif (result := message.get("subscribe")) is not None:
            if self._position and not result.get("recovered"):
                self.faults.append("not recovered")
            self._position = {"recover": True, "epoch": result.get("epoch", ""), "offset": result.get("offset", 0)}
            for publication in result.get("publications", ()):
                self._keep(publication)
            self._failures = 0
            self.back.append(time.time())
        elif publication := message.get("push", {}).get("pub"):
            self._keep(publication)
            self._position["offset"] = publication["offset"]
        elif "error" in message or "push" in message:
            self.faults.append(json.dumps(message))

    def _keep(self, publication: dict[str, Any]) -> None:
        self.offsets.append(publication["offset"])
        self.numbers.append(publication["data"])


@dataclass
class Publisher:
    """Publishes numbers in one channel over HTTP; what was refused is sent again with its idempotency keys."""

    channel: str
    count: int
    acknowledged: dict[int, int] = field(default_factory=dict)
    """The number at each offset."""
    refused: int = 0

    async def publish(self, http: httpx2.AsyncClient, over: asyncio.Event) -> None:
        """In steps while the update runs, at last in single ones so that it never runs dry; the rest after it."""
        first = 0
        while first < self.count:
            size = 1 if first >= 0.8 * self.count and not over.is_set() else BATCH
            numbers = range(first, min(first + size, self.count))
            while not await self._acknowledged(http, numbers):
                self.refused += 1
                await asyncio.sleep(random.uniform(0.05, 0.3))
            first = numbers.stop
            if not over.is_set():
                await asyncio.sleep(random.uniform(0.6, 1.2))

    async def _acknowledged(self, http: httpx2.AsyncClient, numbers: range) -> bool:
        commands = [
            {"publish": {"channel": self.channel, "data": number, "idempotency_key": f"{self.channel}/{number}"}}
            for number in numbers
        ]
        try:
            answer = await http.post("/api/batch", json={"commands": commands})
        except httpx2.TransportError:
            return False
        if answer.status_code != httpx2.codes.OK:
            return False
        results = [reply.get("publish") for reply in answer.json()["replies"]]
        for number, result in zip(numbers, results, strict=True):
            if result:
                self.acknowledged[result["offset"]] = number
        return all(results)


async def until_all(clients: list[Client], what: str, condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE
    while left := [client for client in clients if not condition(client)]:
        assert time.monotonic() < deadline, f"{len(left)} of {len(clients)} clients are not {what}: {left[0]}"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def alive(clients: list[Client]) -> AsyncIterator[None]:
    """All clients live within, and are subscribed at its beginning."""
    tasks = []
    for client in clients:
        tasks.append(asyncio.create_task(client.live()))
        await asyncio.sleep(0.004)
    try:
        await until_all(clients, "subscribed", lambda client: client.here)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def removed(lines: list[dict[str, Any]]) -> list[tuple[float, str]]:
    """When each client was disconnected, and why then, as the workers of a host report."""
    return [
        (datetime.fromisoformat(line["timestamp"]).timestamp(), line["reason"])
        for line in lines
        if line["event"] == "clients_disconnected"
        for _ in range(line["clients"])
    ]


def assert_shared(gone: list[tuple[float, str]]) -> None:
    """Nobody went for the deadline, and hardly anybody because Redis did not answer in time on a busy machine."""
    reasons = Counter(reason for _, reason in gone)
    assert set(reasons) <= {"shared", "local"}
    assert reasons["shared"] >= 0.9 * len(gone), reasons


def most_in_a_second(moments: list[float]) -> int:
    """The largest number within any one second."""
    times = sorted(moments)
    return max(place + 1 - bisect_left(times, moment - 1.0) for place, moment in enumerate(times))


async def test_a_rolling_update_loses_and_doubles_nothing_and_keeps_the_rate(hosts: list[Host], proxy: str) -> None:
    names = [f"news-{number}" for number in range(CHANNEL_COUNT)]
    url = f"ws://{proxy}/connection/websocket"
    clients = [Client(url, names[number % CHANNEL_COUNT]) for number in range(CLIENTS)]
    publishers = {name: Publisher(name, PUBLICATIONS // CHANNEL_COUNT) for name in names}
    over = asyncio.Event()
    connections = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    headers = {"X-API-Key": "dev"}
    async with (
        httpx2.AsyncClient(base_url=f"http://{proxy}", headers=headers, limits=connections, timeout=20) as http,
        alive(clients),
    ):
        publishing = [asyncio.create_task(publisher.publish(http, over)) for publisher in publishers.values()]
        for host in hosts:
            asked_at = time.time()
            ended_before = [len(client.ended) for client in clients]
            lines = await asyncio.to_thread(host.stop)
            await asyncio.to_thread(host.start)
            await until_all(clients, "back", lambda client: client.here)

            gone = removed(lines)
            moved = [client for client, before in zip(clients, ended_before, strict=True) if len(client.ended) > before]
            assert len(gone) == len(moved) >= CLIENTS // 4
            assert {code for client in moved for _, code in client.ended} == {3001}
            assert_shared(gone)
            assert most_in_a_second([moment for moment, _ in gone]) <= 1.2 * DRAIN_RATE
            assert max(client.back[-1] - asked_at for client in moved) <= DELAY + DRAIN + 10
        over.set()
        assert not all(task.done() for task in publishing), "it was published all the while"
        await asyncio.gather(*publishing)
        last = {name: max(publisher.acknowledged) for name, publisher in publishers.items()}
        await until_all(
            clients, "up to date", lambda client: client.offsets and client.offsets[-1] >= last[client.channel]
        )

    # nginx finds the other host before anything is sent; only what a host has under way as it ends may fail.
    assert sum(publisher.refused for publisher in publishers.values()) <= len(hosts) * CONNECTIONS
    assert sum(len(publisher.acknowledged) for publisher in publishers.values()) == PUBLICATIONS
    for client in clients:
        expected = [number for _, number in sorted(publishers[client.channel].acknowledged.items())]
        assert client.faults == []
        assert client.offsets == sorted(set(client.offsets)), "doubled, or out of order"
        assert client.numbers == expected, "lost, or out of order"
    assert all(len(client.ended) >= 1 for client in clients), "nobody stayed where it was"


async def connected(hosts: list[Host], clients: int) -> list[ClientConnection]:
    """As many clients of each host, connected past nginx; they do not return."""
    urls = [f"ws://127.0.0.1:{host.port}/ws" for host in hosts for _ in range(clients)]
    return [await connect(url, compression=None, ping_interval=None) for url in urls]


async def test_hosts_that_drain_at_once_share_one_rate(hosts: list[Host]) -> None:
    clients = await connected(hosts, 120)

    stopping = asyncio.gather(*(asyncio.to_thread(host.stop) for host in hosts))
    reported: list[dict[str, float]] = []
    while not stopping.done():
        reported.append(await asyncio.to_thread(hosts[0].metrics))
        await asyncio.sleep(0.2)
    logs = await stopping

    gone = [moment for lines in logs for moment in removed(lines)]
    moments = sorted(moment for moment, _ in gone)
    assert len(gone) == len(clients) == 240
    assert_shared(gone)
    assert most_in_a_second(moments) <= 1.2 * DRAIN_RATE
    assert moments[-1] - moments[0] > 0.9 * 240 / DRAIN_RATE
    assert moments[-1] - moments[0] < 1.5 * 240 / DRAIN_RATE
    left = [stats["starling_drain_left"] for stats in reported if "starling_drain_left" in stats]
    assert 60 < max(left) <= 120, "reported once a second"
    assert left[left.index(max(left)) :] == sorted(left[left.index(max(left)) :], reverse=True), "it counts down"
    shared = [stats.get('starling_drain_closes_total{reason="shared"}', 0) for stats in reported]
    assert 60 < max(shared) <= 120
    for host_log in logs:
        ended = [line for line in host_log if line["event"] == "drain_ended"]
        assert len(ended) == 2
        assert sum(line["shared"] + line["local"] for line in ended) == 120
    for client in clients:
        await client.wait_closed()
        assert client.close_code == 1012


@pytest.mark.parametrize("hosts", [4.0], indirect=True, ids=["4 s"])
async def test_a_redis_that_is_away_holds_no_drain_up(hosts: list[Host], redis_server: RedisServer) -> None:
    clients = await connected(hosts[:1], 240)
    redis_server.freeze()

    lines = await asyncio.to_thread(hosts[0].stop)

    gone = removed(lines)
    started = min(
        datetime.fromisoformat(one["timestamp"]).timestamp() for one in lines if one["event"] == "drain_started"
    )
    assert len(gone) == len(clients)
    assert {reason for _, reason in gone} == {"local"}
    assert gone[0][0] - started < DELAY + 2
    assert max(moment for moment, _ in gone) - started < DELAY + 4 + 1
    assert most_in_a_second([moment for moment, _ in gone]) <= 1.5 * 240 / 4, "evenly all the same"
    assert len([line for line in lines if line["event"] == "drain_rate_local"]) == 2, "each worker says so once"
    for client in clients:
        await client.wait_closed()
        assert client.close_code == 1012
