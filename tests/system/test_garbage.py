"""What connections leave behind: nothing that only the garbage collector could release."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.support.running import Starling
from tests.support.waiting import DEADLINE

CONNECTIONS = 1000
AT_ONCE = 50

HOOKS = """
import collections
import gc

class Witness:
    # A cycle of the test's own, which shows that the collector is heard.
    __slots__ = ("itself",)

async def collect(client):
    enabled = gc.isenabled()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.disable()
    return {"enabled": enabled}

async def garbage(client):
    witness = Witness()
    witness.itself = witness
    del witness
    gc.collect()
    kinds = collections.Counter(type(thing).__qualname__ for thing in gc.garbage)
    return dict(kinds)

rpc = {"collect": collect, "garbage": garbage}
"""


@pytest.fixture
def starling(tmp_path: Path) -> Iterator[Starling]:
    """One worker that reports what its collector finds."""
    (tmp_path / "collecting_hooks.py").write_text(HOOKS)
    environment = {
        "STARLING_DEV": "true",
        "STARLING_HOOKS": "collecting_hooks",
        "STARLING_HOOKS_PATH": str(tmp_path),
    }
    with Starling(environment) as running:
        yield running


async def call(starling: Starling, method: str) -> dict[str, int]:
    async with connect(f"{starling.url}/connection/websocket") as client:
        await client.send('{"id":1,"connect":{}}\n' + json.dumps({"id": 2, "rpc": {"method": method}}))
        async for message in client:
            for line in str(message).splitlines():
                if (reply := json.loads(line)).get("id") == 2:
                    found: dict[str, int] = reply["rpc"]["data"]
                    return found
    raise AssertionError("the connection ended without an answer")


async def live(starling: Starling, number: int) -> None:
    """One client: it comes, says something, and goes by a close frame or without one."""
    path = ("/connection/websocket", "/ws", f"/ws/{number}")[number % 3]
    async with connect(f"{starling.url}{path}", compression=None, max_queue=None) as client:
        if number % 3 == 0:
            await client.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"room"}}')
        else:
            await client.send("hello")
        await client.recv()
        if number % 2:
            client.transport.abort()


async def until_closed(starling: Starling) -> None:
    """Wait until the service has noticed that all are closed."""

    def open_now() -> float:
        return sum(value for name, value in starling.metrics().items() if name.startswith("starling_connections{"))

    async with asyncio.timeout(DEADLINE):
        while await asyncio.to_thread(open_now):
            await asyncio.sleep(0.1)


async def test_a_thousand_connections_leave_no_cycle_behind(starling: Starling) -> None:
    # What is made once, at the first connection of each kind, is not what this is about.
    await asyncio.gather(*(live(starling, number) for number in range(12)))
    await until_closed(starling)
    assert await call(starling, "collect") == {"enabled": True}, "only the start goes without the collector"
    for start in range(0, CONNECTIONS, AT_ONCE):
        await asyncio.gather(*(live(starling, number) for number in range(start, start + AT_ONCE)))
    await until_closed(starling)

    found = await call(starling, "garbage")

    assert found.pop("Witness") == 1
    assert found == {}
