"""A host that vanishes without a word, idle or in the middle of a stream, is gone in bounded time and holds nobody up.

Twenty clients live in a network namespace of the test's own, whose cable is cut: no FIN, no RST, no acknowledgement.
"""

import asyncio
import contextlib
import ipaddress
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.history_clients import HistoryClient
from tests.support.running import Starling
from tests.support.waiting import DEADLINE, StepClock

PING, PONG, CLOSE = 3, 1, 3
GONE_WITHIN = PING + PONG + CLOSE + 3
# As many over WebSocket as in streams over HTTP.
VANISHING = 20
OTHERS = 20
# Set aside for tests between hosts (RFC 2544). Documentation's addresses are real ones on some virtual machines.
NETWORKS = ipaddress.IPv4Network("198.18.0.0/15")
PAYLOAD = "x" * 1024

# What runs at the other end of the cable: clients that read and answer until they are cut off, every other one idle.
PROGRAM = """
import asyncio, sys
from tests.support.conversation import Conversation
from tests.support.history_clients import HistoryClient

async def main(url, count):
    host, port = url.removeprefix("ws://").split(":")
    streams = [Conversation(each, int(port), host=host) for each in ("http_stream", "sse") * (count // 2)]
    for stream in streams:
        stream.connected()
    for stream in streams[:4]:
        stream.call("subscribe", channel="stream")
    clients = [await HistoryClient(url).__aenter__() for _ in range(count)]
    for client in clients[::2]:
        await client.subscribe("stream")
    print("all are in", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@dataclass(frozen=True)
class Cable:
    """A link between this machine and a namespace; `near` and `far` are the addresses of its ends."""

    namespace: str
    device: str
    near: str
    far: str

    def cut(self) -> None:
        """Let nothing through any more, in either direction."""
        run("ip", "link", "set", self.device, "down")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, timeout=20, text=True).stdout


def unused_network() -> ipaddress.IPv4Network:
    """A network of two hosts that this machine has no route into, but for its default one."""
    reported = [route["dst"] for route in json.loads(run("ip", "-j", "-4", "route", "show", "table", "all"))]
    routes = [ipaddress.IPv4Network(destination) for destination in reported if destination != "default"]
    for network in NETWORKS.subnets(new_prefix=30):
        if not any(network.overlaps(route) for route in routes):
            return network
    pytest.skip(f"every network of {NETWORKS} is in use here")


@pytest.fixture
def cable() -> Iterator[Cable]:
    name = secrets.token_hex(3)
    try:
        near, far = map(str, unused_network().hosts())
        cable = Cable(f"starling-{name}", f"st-{name}", near, far)
        run("ip", "netns", "add", cable.namespace)
        run("ip", "link", "add", cable.device, "type", "veth", "peer", "name", "far", "netns", cable.namespace)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        run("ip", "address", "add", f"{cable.near}/30", "dev", cable.device)
        run("ip", "link", "set", cable.device, "up")
        run("ip", "-n", cable.namespace, "address", "add", f"{cable.far}/30", "dev", "far")
        run("ip", "-n", cable.namespace, "link", "set", "far", "up")
        yield cable
    finally:
        run("ip", "netns", "delete", cable.namespace)


@pytest.fixture
def starling(cable: Cable) -> Iterator[Starling]:
    settings = {
        "STARLING_DEV": "true",
        "STARLING_HOST": "0.0.0.0",
        "STARLING_PING_SECONDS": str(PING),
        "STARLING_PONG_SECONDS": str(PONG),
        "STARLING_WRITE_BUFFER_BYTES": str(256 * 1024),
    }
    with Starling(settings) as running:
        yield running


@contextlib.asynccontextmanager
async def far_clients(cable: Cable, starling: Starling) -> AsyncIterator[None]:
    """Clients beyond the cable."""
    url = f"ws://{cable.near}:{starling.port}"
    process = subprocess.Popen(
        ["ip", "netns", "exec", cable.namespace, sys.executable, "-c", PROGRAM, url, str(VANISHING)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        text=True,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "all are in\n"
        yield
    finally:
        process.kill()
        process.communicate()


async def test_a_vanished_host_is_gone_in_bounded_time_and_holds_nobody_up(cable: Cable, starling: Starling) -> None:

    def open_now() -> float:
        metrics = starling.metrics()
        return sum(metrics[f'starling_connections{{transport="{each}"}}'] for each in ("json", "http_stream", "sse"))

    async with contextlib.AsyncExitStack() as stack:
        others = [await stack.enter_async_context(HistoryClient(starling.url)) for _ in range(OTHERS)]
        for client in others:
            await client.subscribe("stream")
        await stack.enter_async_context(far_clients(cable, starling))
        sent = 0
        over = asyncio.Event()

        async def publish() -> None:
            """One kibibyte, fifty times a second, each as soon as everybody has the one before."""
            nonlocal sent
            while not over.is_set():
                await others[0].publish("stream", [sent, PAYLOAD])
                sent += 1
                while min(len(client.ledgers["stream"].data) for client in others) < sent:
                    await asyncio.sleep(0.002)
                await asyncio.sleep(0.02)

        publishing = asyncio.create_task(publish())
        async with asyncio.timeout(DEADLINE):
            while await asyncio.to_thread(open_now) != OTHERS + 2 * VANISHING:
                await asyncio.sleep(0.1)

        cable.cut()
        sent_before = sent
        with StepClock() as clock:
            while (now := await asyncio.to_thread(open_now)) > OTHERS:
                assert clock.seconds < GONE_WITHIN, f"{now - OTHERS} of {2 * VANISHING} are still held"
                await asyncio.sleep(0.1)
        served = sent - sent_before
        over.set()
        await asyncio.wait_for(publishing, DEADLINE)

        assert [number for number, _ in others[-1].ledgers["stream"].data] == list(range(sent))
        assert [client.ledgers["stream"].closed for client in others] == [[]] * OTHERS
        # A room that waits for a dead host stands still until that is gone.
        assert served > 10
    ends = [line["code"] for line in starling.reported("client_disconnected", 2 * VANISHING)]
    assert len([code for code in ends if code in (3012, 3008, 1006)]) >= 2 * VANISHING
