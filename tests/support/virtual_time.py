"""An event loop in which pauses take no time: its clock jumps to the next timer instead."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class JumpingSelector(selectors.SelectSelector):
    """Looks at what is ready and does not wait for it; the time that it should have waited counts as passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            # No timer is set, so only what is outside can bring the loop on.
            return super().select()
        self.now += timeout
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its time begins at 0. What comes from outside, as from a socket or a thread, may come after any timer."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which nothing of this process runs, as when it is stopped."""
        self._jumping.now += seconds


def run_in_virtual_time(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` to its end in a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
