"""The tasks of one worker: its callers need not keep them, and none outlives the worker."""

import asyncio
from collections.abc import Coroutine

FINISH_SECONDS = 2.0


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

    async def stop(self) -> None:
        """Give running tasks two seconds to finish, then cancel them."""
        if self._running:
            await asyncio.wait(self._running, timeout=FINISH_SECONDS)
        for task in tuple(self._running):
            task.cancel()
