"""Hundreds of clients ask for much and never read, in a pod with little memory: no worker dies, others lose nothing."""

import asyncio
import json
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

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
"""


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


async def test_clients_that_never_read_cost_others_nothing(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "channels.yaml").write_text(CHANNELS)
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": "x" * 32,
        "STARLING_ALLOW_ANONYMOUS": "true",
        "STARLING_BROKER_URL": redis_server.url,
        "STARLING_WORKERS": "2",
        "STARLING_CHANNELS_FILE": str(tmp_path / "channels.yaml"),
        "STARLING_WORKER_CONNECTIONS_PER_USER": "0",
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
                    greedy = await asyncio.to_thread(ask_for_much, starling)
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
            print(f"most used: {most / 2**20:.0f} MiB of {LIMIT / 2**20:.0f}", file=sys.stderr)


async def publish(writer: Any, channel: str, data: object) -> None:
    await writer.send(json.dumps({"id": 5, "publish": {"channel": channel, "data": data}}))
    while '"publish"' not in str(await asyncio.wait_for(writer.recv(), 10)):
        pass


def ask_for_much(starling: Starling) -> list[socket.socket]:
    commands = "\n".join(json.dumps({"id": 10 + n, "history": {"channel": "kept", "limit": 100}}) for n in range(CALLS))
    clients = []
    for _ in range(UNREAD):
        client = handshake(starling, "/connection/websocket", receive_buffer=4096)
        client.sendall(frame(1, b'{"id":1,"connect":{}}') + frame(1, commands.encode()))
        clients.append(client)
    return clients
