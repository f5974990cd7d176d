"""Server processes on a core of their own: started in a group, measured by /proc, and always ended."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from tests.support.waiting import DEADLINE

READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Which CPU serves, which loads, and which the stores are on."""

    server: int
    load: int
    store: int

    @classmethod
    def of_this_machine(cls) -> Self:
        """One for each where there are as many; stores share the load's, and on one CPU all share it."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[1 % len(usable)], usable[min(2, len(usable) - 1)])


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started inside runs on `core`, and so do its children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> int:
    """Let this process and what it starts open as many files as they may; returns how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class ServerProcess:
    """A server in a process group of its own. The context ends it with SIGKILL, for a drain would be measured too.

    `is_ready` is asked until it says yes; by default the port must take a connection.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        log: Path,
        *,
        core: int,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        is_ready: Callable[[], bool] | None = None,
    ) -> None:
        self.port = port
        self.log = log
        self._command = list(command)
        self._core = core
        self._environment = environment or {}
        self._directory = directory
        self._is_ready = is_ready or self._takes_connections
        self._process: subprocess.Popen[bytes]
        self.family: list[int] = []
        """Its processes' ids, as they were when it was ready."""

    def __enter__(self) -> Self:
        inherited: dict[str, str] = {
            name: value for name, value in os.environ.items() if not name.startswith("STARLING_")
        }
        with on_core(self._core), self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**inherited, **self._environment},
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._await_ready()
        except BaseException:
            self._kill()
            raise
        parent = psutil.Process(self._process.pid)
        self.family = [parent.pid, *(child.pid for child in parent.children(recursive=True))]
        return self

    def __exit__(self, *_exc: object) -> None:
        self._kill()

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far, user and system."""
        return sum(cpu_seconds(pid) for pid in self.family)

    def proportional_bytes(self) -> int:
        """Memory of all its processes, each shared page divided among those that share it."""
        return sum(proportional_bytes(pid) for pid in self.family)

    def _takes_connections(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._command[0]} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(DEADLINE)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, of all its threads, to the nanosecond; 0 when it has ended."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def anonymous_bytes(pid: int) -> int:
    """Of the proportional set size what is no file's, so that the kernel cannot give it up; 0 when it has ended."""
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1]) * 1024
    return total


def proportional_bytes(pid: int) -> int:
    """Proportional set size of a process in bytes; 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
