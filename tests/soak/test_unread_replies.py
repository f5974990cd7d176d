"""Hundreds of clients ask for much and never read, in a pod with little memory: no worker dies, others lose nothing."""

import asyncio
import json
import os
import secrets
import socket
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.support.cgroup import MemoryGroup
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.system.test_hostile_clients import frame, handshake

LIMIT = 330 * 2**20
UNREAD = 300
CALLS = 8
MESSAGES = 100
CHANNELS = """
default:
  allow_subscribe_for_client: true
  allow_history_for_client: true
  allow_publish_for_client: true
  history_size: 100
  history_ttl: 600s
  allow_subscribe_for_anonymous: true
  allow_history_for_anonymous: true
  allow_publish_for_anonymous: true
namespaces:
  answers:
    stream: bytes
    stream_max_bytes: 2000000
    allow_subscribe_for_client: true
    allow_subscribe_for_anonymous: true
"""
KEY = "key-of-this-test-0123456789"


class Pod(Starling):
    """A Starling that is in a memory group from its first moment on, as in a container."""

    def __init__(self, group: MemoryGroup, environment: dict[str, str]) -> None:
        super().__init__(environment)
        self._group = group

    def start(self) -> "Pod":
        own = Path("/proc/self/cgroup").read_text()
        self._group.take(os.getpid())
        try:
            super().start()
        finally:
            lines = [line.split(":", 2) for line in own.splitlines()]
            back = next((path for _, kind, path in lines if kind in {"", "memory"}), "/")
            mount = self._group.path.parent
            (mount / back.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
        return self


@pytest.mark.parametrize("way", ["history", "stream", "live stream"])
async def test_clients_that_never_read_cost_others_nothing(redis_server: RedisServer, tmp_path: Path, way: str) -> None:
    (tmp_path / "channels.yaml").write_text(CHANNELS)
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": "x" * 32,
        "STARLING_ALLOW_ANONYMOUS": "true",
        "STARLING_BROKER_URL": redis_server.url,
        "STARLING_WORKERS": "2",
        "STARLING_CHANNELS_FILE": str(tmp_path / "channels.yaml"),
        "STARLING_WORKER_CONNECTIONS_PER_USER": "0",
        "STARLING_API_KEYS": KEY,
    }
    with MemoryGroup(f"starling-test-{os.getpid()}-{secrets.token_hex(4)}") as group:
        group.limit(LIMIT)
        with Pod(group, environment) as starling:
            workers = starling.workers
            async with connect(f"{starling.url}/connection/websocket", max_size=None) as reader:
                await reader.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"live"}}')
                replies = ""
                while '"subscribe"' not in replies:
                    replies += str(await reader.recv())
                async with connect(f"{starling.url}/connection/websocket", max_size=None) as writer:
                    await writer.send('{"id":1,"connect":{}}')
                    await writer.recv()
                    for _ in range(MESSAGES):
                        await publish(writer, "kept", "x" * 1000)
                    greedy = await asyncio.to_thread(ask_for_much if way == "history" else read_streams, starling, way)
                    most = 0
                    got: list[Any] = []
                    for number in range(MESSAGES):
                        await publish(writer, "live", number)
                        while len(got) <= number:
                            for line in str(await asyncio.wait_for(reader.recv(), 10)).splitlines():
                                push = json.loads(line).get("push")
                                if push:
                                    got.append(push["pub"]["data"])
                        most = max(most, group.used)
                        await asyncio.sleep(0.05)
                    for client in greedy:
                        client.close()
            assert got == list(range(MESSAGES))
            assert starling.workers == workers
            assert most < LIMIT
            print(f"{way}: most used: {most / 2**20:.0f} MiB of {LIMIT / 2**20:.0f}", file=sys.stderr)


async def publish(writer: Any, channel: str, data: object) -> None:
    await writer.send(json.dumps({"id": 5, "publish": {"channel": channel, "data": data}}))
    while '"publish"' not in str(await asyncio.wait_for(writer.recv(), 10)):
        pass


def read_streams(starling: Starling, way: str) -> list[socket.socket]:
    """Clients that read a stream over HTTP and take nothing of the response."""
    port = starling.port
    key = {"X-API-Key": KEY, "Content-Type": "application/octet-stream"}
    with closing(HTTPConnection("127.0.0.1", port)) as http:
        for method, body in [("PUT", b""), *[("POST", bytes(60_000))] * 30]:
            http.request(method, "/streams/answers:1", body, key)
            with http.getresponse() as answer:
                assert answer.status in (201, 204), answer.read()
                answer.read()
    query = "offset=-1" + ("&live=sse" if way == "live stream" else "")
    clients = []
    for _ in range(UNREAD):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET /streams/answers:1?{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        clients.append(client)
    return clients


def ask_for_much(starling: Starling, _way: str) -> list[socket.socket]:
    commands = "\n".join(json.dumps({"id": 10 + n, "history": {"channel": "kept", "limit": 100}}) for n in range(CALLS))
    clients = []
    for _ in range(UNREAD):
        client = handshake(starling, "/connection/websocket", receive_buffer=4096)
        client.sendall(frame(1, b'{"id":1,"connect":{}}') + frame(1, commands.encode()))
        clients.append(client)
    return clients
