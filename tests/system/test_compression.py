"""Compression switched on: clients with it and without it receive the same, and a bomb costs its sender alone."""

import asyncio
import contextlib
import json
import urllib.request
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.running import Starling
from tests.support.waiting import DEADLINE
from tests.system.bystander import bystander
from tests.system.test_hostile_clients import figure, frame, handshake, until_at_least

MOST_GROWTH = 64 * 2**20
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"


@pytest.fixture(scope="module")
def starling() -> Iterator[Starling]:
    with Starling({"STARLING_DEV": "true", "STARLING_COMPRESSION": "true"}) as running:
        yield running


@asynccontextmanager
async def opened(starling: Starling, path: str, *, compressing: bool) -> AsyncIterator[ClientConnection]:
    """A client of the library, whose extension is what was asked for."""
    compression: Literal["deflate"] | None = "deflate" if compressing else None
    async with connect(f"{starling.url}{path}", compression=compression, max_queue=None, ping_interval=None) as client:
        assert client.response is not None
        assert ("Sec-WebSocket-Extensions" in client.response.headers) is compressing
        yield client


def publish(starling: Starling, data: Any) -> None:
    body = json.dumps({"channel": "news", "data": data}).encode()
    request = urllib.request.Request(f"{starling.http}/api/publish", body, {"X-API-Key": "dev"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert "error" not in json.load(answer)


async def subscribe(client: ClientConnection) -> None:
    await client.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"news"}}')
    answered: set[int] = set()
    while answered != {1, 2}:
        answered |= {json.loads(line)["id"] for line in str(await client.recv()).splitlines()}


async def received(client: ClientConnection, count: int) -> list[Any]:
    data: list[Any] = []
    async with asyncio.timeout(DEADLINE):
        while len(data) < count:
            replies = [json.loads(line) for line in str(await client.recv()).splitlines()]
            data += [reply["push"]["pub"]["data"] for reply in replies if "push" in reply]
    return data


async def test_subscribers_with_compression_and_without_receive_the_same_in_the_same_order(starling: Starling) -> None:
    news = [{"number": number, "text": "again and " * (number % 5 * 40)} for number in range(100)]
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(opened(starling, "/connection/websocket", compressing=number % 2 == 0))
            for number in range(10)
        ]
        await asyncio.gather(*map(subscribe, clients))
        listening = asyncio.gather(*(received(client, len(news)) for client in clients))
        for item in news:
            await asyncio.to_thread(publish, starling, item)
        assert await listening == [news] * len(clients)


async def test_on_the_tutorials_endpoints_messages_return_as_they_were(starling: Starling) -> None:
    long = "the same again and " * 500
    async with (
        opened(starling, "/ws", compressing=True) as echo,
        opened(starling, "/items/plumbus/ws?token=t", compressing=True) as items,
        opened(starling, "/ws/1", compressing=True) as chat,
        opened(starling, "/ws/2", compressing=False) as listener,
    ):
        await echo.send(long)
        assert await echo.recv() == f"Message text was: {long}"
        await echo.send(bytes(50_000))
        assert await echo.recv() == bytes(50_000)
        await chat.send(long)
        assert await chat.recv() == f"You wrote: {long}"
        assert await listener.recv() == f"Client #1 says: {long}"
        await items.send(long)
        assert await items.recv() == "Session cookie or query token value is: t"
        assert await items.recv() == f"Message text was: {long}, for item ID: plumbus"


def upgrade(starling: Starling, path: str) -> Any:
    return handshake(starling, path, OFFER)


@pytest.mark.parametrize("path", ["/ws", "/ws/666", "/connection/websocket"])
async def test_a_quarter_of_a_gibibyte_in_a_quarter_of_a_mebibyte_is_refused_and_costs_no_memory(
    starling: Starling, path: str
) -> None:
    compressor = zlib.compressobj(9, wbits=-15)
    zeros = bytes(2**20)
    bomb = b"".join([*(compressor.compress(zeros) for _ in range(256)), compressor.flush(zlib.Z_SYNC_FLUSH)])
    pieces = [bomb[at : at + 2**15] for at in range(0, len(bomb), 2**15)]
    frames = b"".join(
        frame(0x40 | 2 if number == 0 else 0, piece, fin=number == len(pieces) - 1)
        for number, piece in enumerate(pieces)
    )
    name = 'starling_connections_refused_total{reason="message_too_large"}'
    before, memory = figure(starling, name), figure(starling, "starling_worker_resident_memory_bytes")
    async with bystander(starling) as waits:
        for _ in range(20):
            client = await asyncio.to_thread(upgrade, starling, path)
            with contextlib.suppress(OSError):
                await asyncio.to_thread(client.sendall, frames)
            client.close()
        await until_at_least(starling, name, before + 20, 10)
    assert figure(starling, "starling_worker_resident_memory_bytes") - memory < MOST_GROWTH
    assert max(waits) < 2
