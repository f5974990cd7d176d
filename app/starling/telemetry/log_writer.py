"""The writer of log lines: a thread in each process, so that a slow reader of the lines blocks no process."""

import fcntl
import itertools
import os
import select
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import cast

import msgspec
from structlog.typing import EventDict

STANDARD_ERROR = 2

# Lines that may wait for stdout; later ones are dropped and counted.
QUEUE_LINES = 4096

# The lines of one write, and the time in which they gather. Seconds.
BATCH_LINES = 1024

GATHER_SECONDS = 0.05

FLUSH_SECONDS = 1.0

LineParts = tuple[str, EventDict, str | None, int]
"""What a line is made of: its level, its event with values, the name of its logger, and its time in ns since 1970."""

# In the queue of lines: the end of the writer's thread.
END = b""


class LogWriter:
    """Writes lines to a file descriptor from a thread of its own, one thread in each process that logs.

    A reader that stalls delays nobody: beyond QUEUE_LINES lines are dropped, counted in `dropped`, and reported by a
    line of their own once the reader goes on. Lines of several processes do not mix. A process that is
    killed loses the lines of its last GATHER_SECONDS; one that ends in any other way writes them.
    """

    def __init__(self, fd: int, make: Callable[[LineParts], bytes]) -> None:
        self.dropped = 0
        self._fd = fd
        self._make = make
        # A pipe keeps only short writes whole, so processes take turns; the lock of a process ends with it.
        self._turn = _file_without_name()
        self._begin_process()
        os.register_at_fork(after_in_child=self._begin_process)

    def _begin_process(self) -> None:
        self._reported = self.dropped
        self._failing = False
        # put() of this queue may be interrupted by a signal handler that logs too.
        self._queue: SimpleQueue[bytes | LineParts | threading.Event] = SimpleQueue()
        self._awaited = threading.Event()
        self._thread: threading.Thread | None = None
        # A process that forks must have no thread; those that it forks have one again.
        self._direct = False
        self._unwritten: deque[bytes] = deque()
        self._writing = False
        self._starts = itertools.count()

    def write(self, line: bytes | LineParts) -> None:
        """Queue `line`, formatted or in parts, or drop it; never waits."""
        if self._queue.qsize() >= QUEUE_LINES:
            self.dropped += 1
            return
        self._queue.put(line)
        if self._direct:
            self._write_waiting()
            return
        # Of threads with the first lines, one counts 0. A lock might be held by the one that a signal interrupts.
        if self._thread is None and next(self._starts) == 0:
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            self._thread.start()

    def flush(self, timeout: float = FLUSH_SECONDS) -> None:
        """Wait until what is queued now is written, `timeout` seconds at most."""
        if self._direct:
            self._write_waiting()
            return
        if self._thread is not None:
            written = threading.Event()
            self._queue.put(written)
            self._awaited.set()
            written.wait(timeout)

    def write_directly(self) -> None:
        """Write from now on without a thread, as a process must that forks others; a stalled reader delays nobody.

        What the reader does not take waits until the next line or `flush`.
        """
        self.flush()
        self._direct = True
        if (thread := self._thread) is not None:
            self._queue.put(END)
            thread.join(FLUSH_SECONDS)
            self._thread = None

    def _write_waiting(self) -> None:
        # A signal handler may log while a line is written; that line is written right after.
        if self._writing:
            return
        self._writing = True
        try:
            while (lines := self._take_direct()) and self._write_at_once(lines):
                self._unwritten.popleft()
        finally:
            self._writing = False

    def _take_direct(self) -> bytes:
        """The next line to write, which stays first among those unwritten; empty for none."""
        if not self._unwritten:
            with suppress(Empty):
                self._unwritten.append(self.formatted(cast("bytes | LineParts", self._queue.get_nowait())) + b"\n")
        return self._unwritten[0] if self._unwritten else b""

    def _write_at_once(self, line: bytes) -> bool:
        """Write one line; False where the reader or another process's line would have to be waited for."""
        try:
            fcntl.lockf(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            # What a pipe has room for at all it takes a page of at once.
            for start in range(0, len(line), select.PIPE_BUF):
                ready = select.poll()
                ready.register(self._fd, select.POLLOUT)
                if not ready.poll(0 if start == 0 else 1000 * FLUSH_SECONDS):
                    return start > 0
                os.write(self._fd, line[start : start + select.PIPE_BUF])
        except OSError as error:
            self._report_failure(error)
        finally:
            fcntl.lockf(self._turn, fcntl.LOCK_UN)
        return True

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is END:
                return
            if self._queue.qsize() < BATCH_LINES:
                # Waking for each line would take the interpreter from the event loop each time.
                self._awaited.wait(GATHER_SECONDS)
                self._awaited.clear()
            lines, awaited = self._take_with(first)
            if lines:
                self._write_or_report(b"\n".join(lines))
            for written in awaited:
                written.set()
            if (dropped := self.dropped) > self._reported:
                self._write_or_report(self.formatted(_drop(dropped - self._reported)))
                self._reported = dropped

    def _take_with(self, first: bytes | LineParts | threading.Event) -> tuple[list[bytes], list[threading.Event]]:
        """Take what is queued, up to BATCH_LINES: the lines, and the events of those that wait for them."""
        items = [first]
        with suppress(Empty):
            while len(items) < BATCH_LINES:
                items.append(self._queue.get_nowait())
        lines = [self.formatted(item) for item in items if not isinstance(item, threading.Event)]
        return lines, [item for item in items if isinstance(item, threading.Event)]

    def formatted(self, line: bytes | LineParts) -> bytes:
        """Return the line, formatted; one that cannot be formatted is replaced by one that says so."""
        if isinstance(line, bytes):
            return line
        try:
            return self._make(line)
        except Exception:  # noqa: BLE001 - whatever a value may raise
            return failed_line(line[2])

    def _write_or_report(self, lines: bytes) -> None:
        """Write `lines`; where that fails (a full disk, a reader that is gone) one line on standard error says so."""
        try:
            self._write_all(lines)
        except OSError as error:
            self._report_failure(error)
        else:
            self._failing = False

    def _report_failure(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            problem = f"log lines cannot be written to standard output, and are lost: {error.strerror}\n"
            with suppress(OSError):
                os.write(STANDARD_ERROR, problem.encode())

    def _write_all(self, lines: bytes) -> None:
        rest = lines + b"\n"
        fcntl.lockf(self._turn, fcntl.LOCK_EX)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        finally:
            fcntl.lockf(self._turn, fcntl.LOCK_UN)


def _file_without_name() -> int:
    """Open a file that no other program can name; the descriptor stays open as long as the process."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("starling-log-turn")
    # macOS has no such files.
    descriptor, path = tempfile.mkstemp(prefix="starling-log-")
    Path(path).unlink()
    return descriptor


def failed_line(logger: str | None) -> bytes:
    """The line in place of one of `logger` that could not be formatted."""
    return msgspec.json.encode({"level": "error", "event": "log_line_failed", "logger": logger})


def _drop(lines: int) -> LineParts:
    return "warning", {"event": "log_lines_dropped", "lines": lines}, None, time.time_ns()
