"""A host that vanishes without a word, idle or in the middle of a stream, is gone in bounded time and holds nobody up.

Twenty clients live in a network namespace of the test's own, whose cable is cut: no FIN, no RST, no acknowledgement.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.cable import Cable, laid_cable
from tests.support.history_clients import HistoryClient
from tests.support.running import Starling
from tests.support.waiting import DEADLINE, StepClock

PING, PONG, CLOSE = 3, 1, 3
GONE_WITHIN = PING + PONG + CLOSE + 3
# As many over WebSocket as by all other transports.
VANISHING = 20
OTHERS = 20
PAYLOAD = "x" * 1024

# What runs at the other end of the cable: clients that read and answer until they are cut off, every other one idle.
PROGRAM = """
import asyncio, sys, urllib.parse
from tests.support.conversation import Conversation
from tests.support.history_clients import HistoryClient
from tests.support.streams import Stream, get, post
from websockets.asyncio.client import connect

async def main(url, count):
    host, port = url.removeprefix("ws://").split(":")
    requests = [get("/sse/stream"), get("/sse/quiet")]
    for body in (b"{}", b'{"subs":{"stream":{}}}'):
        query = urllib.parse.quote(body)
        requests += [get(f"/connection/uni_sse?cf_connect={query}"), post("/connection/uni_http_stream", body)]
    readers = [Stream(int(port), request, host=host) for request in requests]
    sockets = [await connect(f"{url}/connection/uni_websocket?cf_connect={query}") for _ in range(2)]
    count -= len(readers) + len(sockets)
    streams = [Conversation(each, int(port), host=host) for each in ("http_stream", "sse") * (count // 2)]
    for stream in streams:
        stream.connected()
    for stream in streams[:4]:
        stream.call("subscribe", channel="stream")
    clients = [await HistoryClient(url).__aenter__() for _ in range(int(sys.argv[2]))]
    for client in clients[::2]:
        await client.subscribe("stream")
    print("all are in", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
def cable() -> Iterator[Cable]:
    with laid_cable() as cable:
        yield cable


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
        return sum(value for name, value in metrics.items() if name.startswith("starling_connections{"))

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
