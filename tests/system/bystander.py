"""A client that talks on while others do their worst, and must notice nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
from websockets.asyncio.client import ClientConnection, connect

from tests.support.running import Starling


@asynccontextmanager
async def bystander(starling: Starling) -> AsyncIterator[list[float]]:
    """A client of the echo that asks twenty times a second and must stay to the end; gives its waits.

    They are in seconds of CPU that the workers used meanwhile for others: what else the machine does costs none.
    """
    waits: list[float] = []
    workers = [psutil.Process(pid) for pid in await asyncio.to_thread(lambda: starling.workers)]
    async with connect(f"{starling.url}/ws") as client:
        asking = asyncio.create_task(_ask(client, workers, waits))
        try:
            yield waits
        finally:
            ended = asking.done()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert not ended, "the bystander was cut"
        assert waits


async def _ask(client: ClientConnection, workers: list[psutil.Process], waits: list[float]) -> None:
    while True:
        asked = _cpu_seconds(workers)
        await client.send("still here")
        assert await client.recv() == "Message text was: still here"
        waits.append(_cpu_seconds(workers) - asked)
        await asyncio.sleep(0.05)


def _cpu_seconds(workers: list[psutil.Process]) -> float:
    used = [worker.cpu_times() for worker in workers]
    return float(sum(times.user + times.system for times in used))
