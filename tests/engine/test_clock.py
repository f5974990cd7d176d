"""The clock of a worker: how late the event loop is, and when what it received may have arrived."""

import asyncio
import time

from starling.engine.clock import LAG_INTERVAL, Clock
from starling.engine.tasks import Tasks


async def test_what_arrives_while_the_event_loop_stands_still_counts_from_the_standstill() -> None:
    tasks = Tasks()
    clock = Clock(tasks, each_second=[])
    clock.start()
    await asyncio.sleep(2 * LAG_INTERVAL)
    before = time.monotonic()
    assert clock.arrival(before) == before, "an event loop that runs reads at once"

    time.sleep(1)
    while clock.arrival(now := time.monotonic()) == now:
        await asyncio.sleep(0)
        assert time.monotonic() < before + 60
    assert before - 0.01 <= clock.arrival(now) <= before + 2 * LAG_INTERVAL
    assert clock.arrival(before - 5) == before - 5, "an earlier arrival stays as it is"

    while clock.arrival(now := time.monotonic()) != now:
        await asyncio.sleep(LAG_INTERVAL)
    clock.stop()
