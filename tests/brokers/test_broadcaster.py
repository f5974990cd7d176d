"""The package broadcaster over Starling's links without a server; over Redis and PostgreSQL it is in tests/system."""

import asyncio
from typing import Any

import pytest
from broadcaster import Broadcast

from starling.broadcast import StarlingBackend, backend_for
from starling.brokers.memory.broker import MemoryBackend
from tests.support.waiting import DEADLINE


async def received_by_everybody(*rooms: Broadcast) -> None:
    """Publish on the first until every subscriber has the message, and nothing of other channels."""
    async with asyncio.timeout(DEADLINE):
        for room in rooms:
            async with room.subscribe("news") as news, rooms[0].subscribe("other"):
                await rooms[0].publish("other", "not for this subscriber")
                await rooms[0].publish("news", "ünïcode ✓")
                event = await news.get()
                assert (event.channel, event.message) == ("news", "ünïcode ✓")


async def test_broadcast_runs_over_memory() -> None:
    async with Broadcast(backend=backend_for("memory://")) as room:
        await received_by_everybody(room)


async def test_a_message_that_is_no_text_is_left_out() -> None:
    link = MemoryBackend()
    async with Broadcast(backend=StarlingBackend(link)) as room, room.subscribe("news") as news:
        link.offer("news", b"\xff")
        await room.publish("news", "text")
        async with asyncio.timeout(DEADLINE):
            assert (await news.get()).message == "text"


@pytest.mark.parametrize("url", ["http://localhost", "redis://", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url: .*redis://"):
        backend_for(url)


@pytest.mark.parametrize(
    ("field", "value"), [("prefix", "{}"), ("timeout", 0), ("ca_file", "/none"), ("cert_file", "/none")]
)
def test_an_argument_that_cannot_be_right_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        backend_for("rediss://localhost", **{field: value})
