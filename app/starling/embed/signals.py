"""Notice of a stop for a service in another server, which waits for open responses before it ends the lifespan."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def called_at_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Have `stop` called on the running loop when SIGTERM or SIGINT comes, before what the server does then.

    Does nothing outside the main thread, where there are no handlers of signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)
        if callable(previous := before[signal.Signals(number)]):
            previous(number, frame)

    # A server that leaves the signals to the defaults dies of them: there is nothing to be in front of.
    own = [number for number, previous in before.items() if callable(previous)]
    for number in own:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in own:
            if signal.getsignal(number) is handle:
                signal.signal(number, before[number])
