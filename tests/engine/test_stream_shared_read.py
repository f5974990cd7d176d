"""Reads that are shared by all who waited for them."""

import asyncio

import pytest

from starling.engine.broker import BrokerUnavailable
from starling.engine.shared_read import SharedRead
from tests.support.waiting import DEADLINE


class Reads:
    """Reads that end when the test says so; each returns its number."""

    def __init__(self) -> None:
        self.begun: list[list[str]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, requests: list[str]) -> int:
        self.begun.append(requests)
        number = len(self.begun)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return number


async def test_who_waits_while_a_read_is_under_way_shares_the_next() -> None:
    reads = Reads()
    shared: SharedRead[str, int] = SharedRead(reads)
    first = asyncio.ensure_future(shared.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.ensure_future(shared.get(name)) for name in ("b", "c", "d")]
    await asyncio.sleep(0)
    reads.gate.set()
    assert await asyncio.gather(first, *later) == [1, 2, 2, 2]
    assert reads.begun == [["a"], ["b", "c", "d"]]


async def test_an_error_is_sent_to_all_who_waited_and_the_next_read_is_a_new_one() -> None:
    reads = Reads()
    reads.gate.set()
    reads.error = BrokerUnavailable("away")
    shared: SharedRead[str, int] = SharedRead(reads)
    answers = await asyncio.gather(shared.get("a"), shared.get("b"), return_exceptions=True)
    assert list(answers) == [reads.error, reads.error]
    reads.error = None
    assert await shared.get("c") == 2


@pytest.mark.parametrize("turns", [0, 3], ids=["before the read began", "while it is under way"])
async def test_closing_refuses_all_who_wait_and_all_who_come(turns: int) -> None:
    shared: SharedRead[str, int] = SharedRead(Reads())
    waiting = asyncio.ensure_future(shared.get("a"))
    await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    shared.close()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(BrokerUnavailable):
            await waiting
        with pytest.raises(BrokerUnavailable):
            await shared.get("b")
