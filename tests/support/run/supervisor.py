"""Supervision of a process that runs tests: its time limits, and the end of everything that it started.

A supervisor is the parent of the process that it supervises, and the kernel gives it every orphan among the descendants
(PR_SET_CHILD_SUBREAPER). So it finds what tests started, in whatever session or process group that is, also when the
process of the tests was ended with SIGKILL. Used in two ways: `supervise` forks the caller, and as a script this file
runs the command that its arguments name (the plugin starts each worker of pytest-xdist so).
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

# The environment variable that gives a supervised command the file descriptor for its reports.
REPORTS_VARIABLE = "TEST_RUN_REPORTS"
# Seconds that the process has for its own end after SIGINT, and that descendants have to be gone after SIGKILL.
SECONDS_TO_END = 30.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Progress:
    """What the supervised process has reported of its tests."""

    collected: list[str] = field(default_factory=list)
    running: dict[str, float] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)

    def apply(self, line: bytes) -> None:
        """Take one report, JSON: `collected` (ids), `start` (id) with `limit` (seconds, 0: none), or `finish` (id)."""
        report = json.loads(line)
        if "collected" in report:
            self.collected = report["collected"]
        elif "start" in report:
            limit = report["limit"]
            self.running[report["start"]] = time.monotonic() + limit if limit else float("inf")
        else:
            self.running.pop(report["finish"], None)
            self.finished.add(report["finish"])

    def summary(self) -> str:
        """What ran and what did not, a line for each file with tests that did not end."""
        text = f"{len(self.finished)} of {len(self.collected)} tests ran to their end"
        for test in self.running:
            text += f"\n  was running: {test}"
        totals: dict[str, int] = {}
        missing: dict[str, int] = {}
        for test in self.collected:
            file = test.partition("::")[0]
            totals[file] = totals.get(file, 0) + 1
            if test not in self.finished and test not in self.running:
                missing[file] = missing.get(file, 0) + 1
        for file, count in missing.items():
            text += f"\n  did not run: {file} ({count} of its {totals[file]} tests)"
        return text


class Supervisor:
    """Waits for one child process, and ends every descendant of its own after it.

    Args:
        child: Its process id.
        reports: The reading end of the pipe of its reports, or None if it sends none.
        bound: Seconds after which it is asked to end with SIGINT, and then killed; 0 means never.
    """

    def __init__(self, child: int, reports: int | None, bound: float = 0) -> None:
        self.progress = Progress()
        self._child = child
        self._reports = reports
        self._partial = b""
        self._bound = bound
        self._deadline = time.monotonic() + bound if bound else float("inf")
        self._interrupted = False
        self._wakeup, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _FORWARDED:
            # What was ignored, as SIGINT in the background and SIGHUP under nohup, stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._forward)

    def run(self) -> int:
        """Wait for the child, end what is left, and return its exit code; 128 + N if signal N ended it."""
        status = self._wait()
        left = end_descendants()
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            self._print(f"the process of the tests was ended by {signal.Signals(-code).name}")
            code = 128 - code
        if self._interrupted:
            code = code or 1
        if self.progress.collected and (self._interrupted or code >= 128):
            self._print(self.progress.summary())
        if left:
            self._print(f"processes {left} could not be ended")
        return code

    def _wait(self) -> int:
        while True:
            for pid, status in _reap():
                if pid == self._child:
                    self._read_reports()
                    return status
            readable = [self._wakeup] + ([] if self._reports is None else [self._reports])
            select.select(readable, [], [], self._seconds_to_next_limit())
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)
            self._read_reports()
            self._enforce()

    def _read_reports(self) -> None:
        while self._reports is not None:
            try:
                data = os.read(self._reports, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                self._reports = None
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self.progress.apply(line)

    def _seconds_to_next_limit(self) -> float | None:
        limit = min(self._deadline, *self.progress.running.values(), float("inf"))
        return None if limit == float("inf") else max(0.0, limit - time.monotonic())

    def _enforce(self) -> None:
        now = time.monotonic()
        for test, limit in self.progress.running.items():
            if now >= limit:
                self._print(f"{test} is over its time and does not end: its process is killed")
                self._kill()
                return
        if now < self._deadline:
            return
        if self._interrupted:
            self._kill()
            return
        self._print(f"the run is over its bound of {self._bound:g} s and is interrupted")
        self._interrupted = True
        self._deadline = now + SECONDS_TO_END
        os.kill(self._child, signal.SIGINT)

    def _kill(self) -> None:
        os.kill(self._child, signal.SIGKILL)
        self._deadline = float("inf")
        self.progress.running = dict.fromkeys(self.progress.running, float("inf"))

    def _forward(self, number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, number)
        if number != signal.SIGINT:
            self._interrupted = True
            self._deadline = time.monotonic() + SECONDS_TO_END

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"\n[test run] {text}\n".encode())


def supervise(bound: float = 0) -> int:
    """Fork: the child returns with the file descriptor for its reports, the caller supervises it and never returns.

    `bound` is the seconds after which the child is ended; 0 means never.

    There are two supervisors, one above the other, so that one of them is left whichever process is killed. The lower
    one has a session of its own: what kills the process group of the caller does not reach it.
    """
    _fork_below(signal.SIGTERM, None, 0)
    os.setsid()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    _fork_below(signal.SIGKILL, reading, bound)
    os.close(reading)
    return writing


def _fork_below(signal_of_parent: signal.Signals, reports: int | None, bound: float) -> None:
    """Fork; the parent supervises and exits with the code of the child, which gets this signal when the parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getpid()
    child = os.fork()
    if child:
        code = 1
        try:
            code = Supervisor(child, reports, bound).run()
        finally:
            os._exit(code)
    _prctl(_PR_SET_PDEATHSIG, signal_of_parent)
    if os.getppid() != parent:
        os._exit(1)


def end_descendants(seconds: float = SECONDS_TO_END) -> list[int]:
    """Kill every descendant of this process, and reap it; returns those that are not gone after `seconds`."""
    deadline = time.monotonic() + seconds
    while left := list(descendants(os.getpid())):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)
    return []


def descendants(ancestor: int) -> Iterator[int]:
    """Process ids of the children of a process, their children, and so on, as they are now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name, in parentheses, may hold anything: what follows the last one is fixed.
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [ancestor]
    while waiting:
        for child in children.get(waiting.pop(), []):
            yield child
            waiting.append(child)


def _reap() -> list[tuple[int, int]]:
    """The children that ended, with their wait statuses."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(found)
    return ended


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def run_command(arguments: list[str]) -> NoReturn:
    """Run a command below this process; it has the standard streams, and this process ends when its own parent does."""
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    me = os.getpid()
    child = os.fork()
    if not child:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != me:
            os._exit(1)
        os.set_inheritable(writing, True)  # noqa: FBT003 - has no name
        os.environ[REPORTS_VARIABLE] = str(writing)
        os.execv(arguments[0], arguments)
    os.close(writing)
    # Only the command holds the pipes to the process that it works for, which so sees its end at once.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    sys.exit(Supervisor(child, reading).run())


if __name__ == "__main__":
    run_command(sys.argv[1:])
