"""The tasks of one worker: its callers need not keep them, and none outlives the worker."""

import asyncio
import types
from collections.abc import Coroutine, Generator

FINISH_SECONDS = 2.0


def ends_this_task(error: BaseException) -> bool:
    """Whether `error` is how the running task is ended from outside: a cancellation of it, or the end of its loop.

    A function of the user that raises an error of the same class does not end it.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        # No loop runs: the coroutine is closed.
        return isinstance(error, GeneratorExit)
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class Tasks:
    """Owns tasks from their start to their end."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[object, None, None]) -> asyncio.Task[None]:
        """Run `work` in a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def start_here(self, work: Coroutine[object, None, None]) -> None:
        """Run `work` now up to its first wait, and what follows in a task: none is needed where nothing waits.

        Up to there `work` must use nothing that needs a task of its own, as `asyncio.timeout` does.
        """
        try:
            awaited = work.send(None)
        except StopIteration:
            return
        self.start(_continue(work, awaited))

    async def stop(self) -> None:
        """Give running tasks two seconds to finish, then cancel them."""
        if self._running:
            await asyncio.wait(self._running, timeout=FINISH_SECONDS)
        for task in tuple(self._running):
            task.cancel()


async def _continue(work: Coroutine[object, None, None], awaited: object) -> None:
    await _rest_of(work, awaited)


@types.coroutine
def _rest_of(work: Coroutine[object, None, None], awaited: object) -> Generator[object, None, None]:
    """Drive `work`, which waits for `awaited`, to its end, as `yield from` would have from its start."""
    while True:
        error: BaseException | None = None
        try:
            yield awaited
        except BaseException as caught:  # noqa: BLE001 - a cancellation, too, is for the work
            error = caught
        try:
            awaited = work.send(None) if error is None else work.throw(error)
        except StopIteration:
            return
