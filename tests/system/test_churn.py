"""Clients that come and go without manners, and a process that may open no more files: who stays is served on."""

import asyncio
import contextlib
import random
import resource
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.support.history_clients import HistoryClient
from tests.support.running import Starling
from tests.support.waiting import DEADLINE
from tests.system.test_hostile_clients import handshake, reset

STAYERS = 30
CHURNERS = 10
MESSAGES = 400
SPEAKER = 1000


@pytest.fixture
def starling() -> Iterator[Starling]:
    with Starling() as running:
        yield running


async def churn(starling: Starling, number: int, stopping: asyncio.Event) -> None:
    """Come, say something, and go: by a close, by a reset, by a half-closed socket, in turns."""
    dice = random.Random(number)
    while not stopping.is_set():
        how = dice.randrange(3)
        if how == 0:
            async with connect(f"{starling.url}/ws/{number}") as client:
                await client.send("hello")
        else:
            bare = await asyncio.to_thread(handshake, starling, f"/ws/{number}")
            if how == 1:
                reset(bare)
            else:
                bare.close()
        await asyncio.sleep(dice.uniform(0, 0.05))


async def test_thirty_who_stay_in_the_chat_miss_nothing_while_others_come_and_go(starling: Starling) -> None:
    says = f"Client #{SPEAKER} says: "
    received: list[list[int]] = [[] for _ in range(STAYERS)]

    async def receive(client: ClientConnection, numbers: list[int]) -> None:
        async for text in client:
            if str(text).startswith(says):
                numbers.append(int(str(text).removeprefix(says)))

    async with AsyncExitStack() as stack:
        stayers = [
            await stack.enter_async_context(connect(f"{starling.url}/ws/{n}", max_queue=None)) for n in range(STAYERS)
        ]
        speaker = await stack.enter_async_context(connect(f"{starling.url}/ws/{SPEAKER}", max_queue=None))
        receiving = [asyncio.create_task(receive(*pair)) for pair in zip(stayers, received, strict=True)]
        stopping = asyncio.Event()
        churning = [asyncio.create_task(churn(starling, 2000 + number, stopping)) for number in range(CHURNERS)]
        try:
            for number in range(MESSAGES):
                await speaker.send(str(number))
                await asyncio.sleep(0.02)
            async with asyncio.timeout(DEADLINE):
                while any(len(numbers) < MESSAGES for numbers in received):
                    await asyncio.sleep(0.05)
            assert not [task for task in churning if task.done()]
            assert not [task for task in receiving if task.done()], "one who stayed was cut"
        finally:
            stopping.set()
            for task in receiving:
                task.cancel()
            await asyncio.gather(*churning, *receiving, return_exceptions=True)

    assert received == [list(range(MESSAGES))] * STAYERS
    assert len(starling.reported("client_connected")) > STAYERS + 10 * CHURNERS
    assert "Traceback" not in starling.output


async def test_a_worker_out_of_files_serves_on_and_takes_clients_again_when_some_have_gone(starling: Starling) -> None:
    (worker,) = starling.workers
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (200, 200))
    async with HistoryClient(starling.url) as established, AsyncExitStack() as stack:
        await established.subscribe("room")
        refused = 0
        for _ in range(260):
            try:
                async with asyncio.timeout(2):
                    await stack.enter_async_context(connect(f"{starling.url}/ws", open_timeout=None, close_timeout=0.1))
            except (OSError, TimeoutError, WebSocketException):
                refused += 1
            if refused >= 4:
                break
        for number in range(20):
            await established.publish("room", number)
        assert refused == 4
        async with asyncio.timeout(DEADLINE):
            while established.ledgers["room"].numbers != list(range(20)):
                await asyncio.sleep(0.02)

    async def gets_in() -> bool:
        with contextlib.suppress(OSError, TimeoutError, WebSocketException):
            async with connect(f"{starling.url}/ws", open_timeout=2) as client:
                await client.send("back")
                return await client.recv() == "Message text was: back"
        return False

    async with asyncio.timeout(DEADLINE):
        while not await gets_in():
            await asyncio.sleep(0.2)
    assert starling.workers == [worker]
