"""Waiting in a test for what will come, and bounds on how long it takes."""

import asyncio
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

# Seconds that a test waits for a condition before it fails; generous, because machines are busy.
DEADLINE = 60.0
LOAD = Path("/proc/loadavg")


async def until(holds: Callable[[], object], what: str = "it holds", deadline: float = DEADLINE) -> None:
    """Wait until `holds()`; fail with `what` after `deadline` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while not holds():
        if loop.time() > end:
            raise AssertionError(f"waited {deadline:g} s in vain: {what}")
        await asyncio.sleep(0.01)


def await_listener(host: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `process` listens there; fail with its `log` where it ends, or after DEADLINE."""
    deadline = time.monotonic() + DEADLINE
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.05)


class StepClock:
    """Seconds for an upper bound: counted in steps, and a step that a busy machine makes late counts as one step.

    While more threads want to run than there are cores, a step counts for the part of a core that each gets. So a busy
    machine can only slow the clock down, where wall-clock time would run past the bound. A context manager.
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
        cores = os.cpu_count() or 1
        while not self._over.wait(self.STEP):
            self.seconds += self.STEP * min(1.0, cores / runnable())


def runnable() -> int:
    """How many threads of this machine run or want to: the fourth field of proc_loadavg(5), 1 where there is none."""
    try:
        return max(1, int(LOAD.read_text().split()[3].partition("/")[0]))
    except FileNotFoundError:
        return 1
