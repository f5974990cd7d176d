"""Waiting in a test for what will come, and bounds on how long it takes."""

import asyncio
import threading
from collections.abc import Callable
from typing import Self

# Seconds that a test waits for a condition before it fails; generous, because machines are busy.
DEADLINE = 60.0


async def until(holds: Callable[[], object], what: str = "it holds", deadline: float = DEADLINE) -> None:
    """Wait until `holds()`; fail with `what` after `deadline` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while not holds():
        if loop.time() > end:
            raise AssertionError(f"waited {deadline:g} s in vain: {what}")
        await asyncio.sleep(0.01)


class StepClock:
    """Seconds for an upper bound: counted in steps, and a step that a busy machine makes late counts as one step.

    So a busy machine can only slow it down, where wall-clock time would run past the bound. A context manager.
    """

    STEP = 0.02

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _count(self) -> None:
        while not self._over.wait(self.STEP):
            self.seconds += self.STEP
