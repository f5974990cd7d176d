"""Large reads of one client."""

import asyncio

import pytest

from starling.client.read_gate import ReadGate
from starling.protocol.codes import CommandRefused
from tests.support.json_transport import JsonTransport
from tests.support.waiting import until


@pytest.mark.parametrize("at_once", [1, 3])
async def test_reads_of_one_client_go_one_at_a_time(at_once: int) -> None:
    gate, inside, most = ReadGate(at_once), 0, 0

    async def read() -> None:
        nonlocal inside, most
        async with gate:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(read() for _ in range(10)))
    assert most == at_once


async def test_more_go_at_a_time_once_it_is_widened_up_to_its_most() -> None:
    gate, entered, go_on = ReadGate(2, 4), 0, asyncio.Event()

    async def read() -> None:
        nonlocal entered
        async with gate:
            entered += 1
            await go_on.wait()

    tasks = [asyncio.create_task(read()) for _ in range(10)]
    for widened in (2, 3, 4, 4, 4):
        await until(lambda: entered == widened, f"{widened} are under way")  # noqa: B023 - it is awaited here
        gate.widen()
    go_on.set()
    await asyncio.gather(*tasks)
    assert entered == 10


async def test_no_read_begins_while_replies_wait_and_one_does_when_they_are_taken() -> None:
    gate, transport, done = ReadGate(), JsonTransport(), []
    gate.transport = transport
    transport.replies_wait = True

    async def read() -> None:
        async with gate:
            done.append(1)

    task = asyncio.create_task(read())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not done
    transport.replies_wait = False
    gate.drained()
    await task
    assert done


async def test_who_is_gone_reads_nothing_more() -> None:
    gate, transport = ReadGate(), JsonTransport()
    gate.transport = transport
    transport.replies_wait = True

    async def read() -> None:
        async with gate:
            raise AssertionError("read for nobody")

    tasks = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.close()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, CommandRefused)
    with pytest.raises(CommandRefused):
        await read()
