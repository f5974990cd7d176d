"""The order in which the sockets of a worker are read on that have more input than one tick of the event loop takes."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

# Seconds of a tick for all of them together; one has its turn in any case.
READ_SLICE = 0.005


class ReadTurns:
    """Gives each socket that has much input its turn, so that all others are served between the turns.

    However many flood a worker, a client that sends little waits for one slice, and not for a piece of each.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def busy(self) -> bool:
        """Whether any waits for its turn."""
        return bool(self._waiting)

    def add(self, read_on: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Call `read_on` in its turn; it may add itself again."""
        if not self._waiting:
            loop.call_soon(self._run, loop)
        self._waiting.append(read_on)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        deadline = time.monotonic() + READ_SLICE
        waiting = self._waiting
        try:
            for _ in range(len(waiting)):
                # It leaves when its turn is over, so that adding it again schedules nothing.
                waiting[0]()
                waiting.popleft()
                if time.monotonic() >= deadline:
                    break
        except BaseException:
            waiting.popleft()
            raise
        finally:
            if waiting:
                loop.call_soon(self._run, loop)
