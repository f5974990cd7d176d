"""Turns of sockets with much input: each gets its turn, and whatever else is due comes in between."""

import asyncio
import time

from starling.server.read_turns import READ_SLICE, ReadTurns


class Flood:
    """A socket with so much input that it wants further turns, each of which takes a whole slice."""

    def __init__(self, turns: ReadTurns, log: list[str], name: str, pieces: int) -> None:
        self._turns, self._log, self._name, self._pieces = turns, log, name, pieces

    def read_on(self) -> None:
        self._log.append(self._name)
        self._pieces -= 1
        if self._pieces:
            self._turns.add(self.read_on, asyncio.get_running_loop())
        until = time.monotonic() + READ_SLICE
        while time.monotonic() < until:
            pass


async def test_floods_have_their_turns_one_after_another_and_others_are_served_between() -> None:
    turns, log, loop = ReadTurns(), list[str](), asyncio.get_running_loop()
    for name in "abc":
        turns.add(Flood(turns, log, name, 3).read_on, loop)
    assert turns.busy
    while turns.busy:
        log.append("-")
        await asyncio.sleep(0)
    assert "".join(log).strip("-") == "a-b-c-a-b-c-a-b-c"


async def test_short_turns_share_a_tick() -> None:
    turns, log, loop = ReadTurns(), list[int](), asyncio.get_running_loop()
    for number in range(3):
        turns.add(lambda number=number: log.append(number), loop)  # type: ignore[misc]
    while turns.busy:
        await asyncio.sleep(0)
    assert log == [0, 1, 2]


async def test_a_turn_that_fails_ends_no_other() -> None:
    turns, log, loop = ReadTurns(), list[str](), asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))

    def fail() -> None:
        raise ValueError("the socket is gone")

    turns.add(fail, loop)
    turns.add(lambda: log.append("read"), loop)
    while turns.busy:
        await asyncio.sleep(0)
    assert log == ["read"]
    assert [type(each) for each in failures] == [ValueError]
