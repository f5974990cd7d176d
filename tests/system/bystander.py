"""A client that talks on while others do their worst, and must notice nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect

from tests.support.running import Starling


@asynccontextmanager
async def bystander(starling: Starling) -> AsyncIterator[list[float]]:
    """A client of the echo that asks twenty times a second and must stay to the end; gives its waits, in seconds."""
    waits: list[float] = []
    async with connect(f"{starling.url}/ws") as client:
        asking = asyncio.create_task(_ask(client, waits))
        try:
            yield waits
        finally:
            ended = asking.done()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert not ended, "the bystander was cut"
        assert waits


async def _ask(client: ClientConnection, waits: list[float]) -> None:
    while True:
        asked = time.monotonic()
        await client.send("still here")
        assert await client.recv() == "Message text was: still here"
        waits.append(time.monotonic() - asked)
        await asyncio.sleep(0.05)
