"""Work that runs at once up to its first wait."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from starling.engine import tasks as tasks_module
from starling.engine.tasks import Tasks, ends_this_task
from tests.support.waiting import until


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.stop()


async def test_work_that_waits_for_nothing_is_done_when_it_was_started_here(tasks: Tasks) -> None:
    done: list[str] = []

    async def inner() -> str:
        return "inner"

    async def work() -> None:
        done.append(await inner())

    tasks.start_here(work())
    assert done == ["inner"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_follows_a_wait_runs_in_a_task_with_what_was_waited_for(tasks: Tasks) -> None:
    steps: list[object] = []
    waited: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        steps.append("before")
        steps.append(await waited)
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            steps.append(asyncio.current_task() is not None)

    tasks.start_here(work())
    assert steps == ["before"]
    waited.set_result("found")
    await until(lambda: len(steps) == 3, "the work has ended")
    assert steps == ["before", "found", True]


async def test_an_error_of_what_is_waited_for_is_raised_in_the_work(tasks: Tasks) -> None:
    raised: list[BaseException] = []
    waited: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        try:
            await waited
        except ValueError as error:
            raised.append(error)
            await asyncio.sleep(0)
            raised.append(error)

    tasks.start_here(work())
    error = ValueError("gone")
    waited.set_exception(error)
    await until(lambda: len(raised) == 2, "the work has ended")
    assert raised == [error, error]


async def test_work_that_waits_is_cancelled_with_its_task(tasks: Tasks) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    tasks.start_here(work())
    (task,) = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled"]


async def test_a_lock_that_is_taken_is_waited_for_in_its_turn(tasks: Tasks) -> None:
    lock, order = asyncio.Lock(), list[int]()

    async def work(number: int) -> None:
        async with lock:
            order.append(number)

    await lock.acquire()
    for number in range(3):
        tasks.start_here(work(number))
    assert order == []
    lock.release()
    await until(lambda: len(order) == 3, "all have had the lock")
    assert order == [0, 1, 2]


async def test_what_does_not_finish_in_time_is_cancelled_at_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "FINISH_SECONDS", 0.05)
    ended: list[str] = []

    async def work(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            ended.append(f"{name} cancelled")
            raise
        ended.append(f"{name} finished")

    tasks = Tasks()
    tasks.start(work("short", 0.001))
    tasks.start(work("long", 3600))
    await tasks.stop()
    await until(lambda: len(ended) == 2, "both have ended")
    assert ended == ["short finished", "long cancelled"]


async def test_only_what_comes_from_outside_ends_a_task() -> None:
    begun = asyncio.Event()
    ends: list[bool] = []

    async def work() -> None:
        for error in (GeneratorExit(), asyncio.CancelledError(), SystemExit(3)):
            ends.append(ends_this_task(error))
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as cancelled:
            ends.append(ends_this_task(cancelled))

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    await task
    assert ends == [False, False, False, True]


def test_a_coroutine_that_is_closed_when_no_loop_runs_ends() -> None:
    assert ends_this_task(GeneratorExit())
    assert not ends_this_task(SystemExit(3))
