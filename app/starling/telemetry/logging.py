"""Log lines of every process: one JSON object a line, without secrets; a slow reader of them blocks no process."""

import atexit
import fcntl
import itertools
import logging
import os
import re
import select
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Literal, cast

import msgspec
import structlog
from structlog.typing import EventDict, Processor

LogFormat = Literal["auto", "json", "console"]

STANDARD_ERROR = 2
# Lines that may wait for stdout; later ones are dropped and counted.
QUEUE_LINES = 4096
# The lines of one write, and the time in which they gather. Seconds.
BATCH_LINES = 1024
NAP_SECONDS = 0.05
FLUSH_SECONDS = 1.0

# Libraries that put addresses with query strings or whole headers into lines below these levels (websockets and
# uvicorn do), or that say nothing there which our own lines do not say better.
LIBRARY_LEVELS = {
    "asyncio": logging.WARNING,
    "gunicorn.error": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpcore2": logging.WARNING,
    "httpx": logging.WARNING,
    "httpx2": logging.WARNING,
    "uvicorn.error": logging.ERROR,
    "websockets": logging.WARNING,
}
ACCESS_LOGS = ("gunicorn.access", "uvicorn.access")

REDACTED = "[redacted]"
SECRET_KEYS = frozenset(
    {
        "access_token",
        "api_key",
        "authorization",
        "cookie",
        "cookies",
        "headers",
        "password",
        "query",
        "query_string",
        "resume",
        "sec_websocket_protocol",
        "secret",
        "session",
        "set_cookie",
        "ticket",
        "token",
    }
)
# Names, numbers and IP addresses, in which no SECRET_TEXT has room.
HARMLESS_TEXT = re.compile(r"[A-Za-z0-9_/-]*|[0-9A-Fa-f.:]*")
# Every SECRET_TEXT has one of these; most texts have none, and are spared the longer search.
SUSPECT_TEXT = re.compile(r"[=?@:,]|bearer", re.IGNORECASE)
SECRET_TEXT = re.compile(
    r"""
    (?: proxy-authorization | authorization | set-cookie | cookie | sec-websocket-protocol | x-api-key )
        ['"]? \s* [:=,] [^\r\n]*                        # a header, as a line or in a printed list
    | \b \w* (?: token | ticket | session | secret | password | api_key ) = [^\s&'",;]*
    | \b bearer [\s.]+ [\w.~+/=-]+
    | (?<=://) [^/\s@'"]+ (?=@)                         # user and password in an address
    | (?<=\?) [^\s'"]+                                  # the query in an address
    """,
    re.IGNORECASE | re.VERBOSE,
)

CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# Values of these types never change, so a line of them may be made later than it was said.
LASTING_TYPES = frozenset({bool, float, int, str, type(None)})

_encode = msgspec.json.Encoder().encode


Said = tuple[str, EventDict, str | None, int]
"""What a line is made of: its level, event and values, whose it is, and when it was said, in ns since 1970."""


# In the queue of lines: the writer's thread is to end.
END = b""


class LogWriter:
    """Writes lines to a file descriptor from a thread of its own, one thread in each process that logs.

    A reader that stalls delays nobody: beyond QUEUE_LINES lines are dropped, counted in `dropped`, and reported by a
    line of their own once the reader goes on. Lines of several processes do not mix. Who is killed takes the lines of
    the last NAP_SECONDS along; a process that ends in any other way writes them.
    """

    def __init__(self, fd: int, make: Callable[[Said], bytes]) -> None:
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
        self._queue: SimpleQueue[bytes | Said | threading.Event] = SimpleQueue()
        self._awaited = threading.Event()
        self._thread: threading.Thread | None = None
        # A process that forks must have no thread; those that it forks have one again.
        self._direct = False
        self._unwritten: deque[bytes] = deque()
        self._writing = False
        self._starts = itertools.count()

    def write(self, line: bytes | Said) -> None:
        """Queue `line`, ready or as it was said, or drop it; never waits."""
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
                self._unwritten.append(self.made(cast("bytes | Said", self._queue.get_nowait())) + b"\n")
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
                self._awaited.wait(NAP_SECONDS)
                self._awaited.clear()
            lines, awaited = self._take_with(first)
            if lines:
                self._write_or_report(b"\n".join(lines))
            for written in awaited:
                written.set()
            if (dropped := self.dropped) > self._reported:
                self._write_or_report(self.made(_drop(dropped - self._reported)))
                self._reported = dropped

    def _take_with(self, first: bytes | Said | threading.Event) -> tuple[list[bytes], list[threading.Event]]:
        """Give what is queued, up to BATCH_LINES, and who waits for it to be written."""
        items = [first]
        with suppress(Empty):
            while len(items) < BATCH_LINES:
                items.append(self._queue.get_nowait())
        lines = [self.made(item) for item in items if not isinstance(item, threading.Event)]
        return lines, [item for item in items if isinstance(item, threading.Event)]

    def made(self, line: bytes | Said) -> bytes:
        """Format the line, unless it is ready; a line that cannot be formatted is replaced by one that says so."""
        if isinstance(line, bytes):
            return line
        try:
            return self._make(line)
        except Exception:  # noqa: BLE001 - whatever a value may raise
            return _failed(line[2])

    def _write_or_report(self, lines: bytes) -> None:
        """Write `lines`; where that fails (a full disk, a reader that is gone) one line on standard error says so."""
        try:
            self._put_out(lines)
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

    def _put_out(self, lines: bytes) -> None:
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


def _failed(logger: str | None) -> bytes:
    return _encode({"level": "error", "event": "log_line_failed", "logger": logger})


def _drop(lines: int) -> Said:
    return "warning", {"event": "log_lines_dropped", "lines": lines}, None, time.time_ns()


def configure_logging(
    level: str, log_format: LogFormat = "auto", more_processors: Sequence[Processor] = ()
) -> LogWriter:
    """Send the lines of structlog and of the standard library's loggers to stdout, in one form.

    `level` is `debug`, `info`, `warning` or `error`. `log_format` `auto` means `console` on a terminal, else `json`.
    `more_processors` see each line where it is said, and may add to it.
    Call it once, before the workers are forked; the returned writer knows how many lines were dropped.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    fd = sys.stdout.fileno()
    writer = LogWriter(fd, _LineMaker(_choose_renderer(log_format, terminal=os.isatty(fd))).make)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *more_processors, _hand_over],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *name: _LineSink(writer, *name),
        cache_logger_on_first_use=True,
    )
    handler = _LineHandler(writer, more_processors)
    handler.setLevel(threshold)
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.INFO), force=True)
    logging.captureWarnings(capture=True)
    quiet_libraries()
    atexit.register(writer.flush)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    return writer


def write_lines_directly() -> None:
    """Have this process write its lines without a thread, because it forks others: see LogWriter.write_directly."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LineHandler):
            handler.writer.write_directly()


def flush_lines() -> None:
    """Write the lines that wait, as far as their reader takes them."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def quiet_libraries() -> None:
    """Take away the handlers that libraries gave their loggers, and hold them at LIBRARY_LEVELS whatever is set."""
    for name, level in LIBRARY_LEVELS.items():
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(level)
    for name in ACCESS_LOGS:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = False


def redact(said: Mapping[str, object]) -> dict[str, object]:
    """Replace what may be secret: values of SECRET_KEYS, what SECRET_TEXT finds in texts, and bytes by their number."""
    return {
        key: REDACTED
        if _is_secret(key)
        # Most texts are as simple as this, and need no call of their own.
        else value
        if type(value) is str and HARMLESS_TEXT.fullmatch(value)
        else _clean(value)
        for key, value in said.items()
    }


# Keys are words of the code, but for mappings that are logged whole.
@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return key.lower().replace("-", "_") in SECRET_KEYS


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _clean_text(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return redact({str(key): inner for key, inner in value.items()})
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner) for inner in value]
    return _clean_text(str(value))


def _clean_text(text: str) -> str:
    if HARMLESS_TEXT.fullmatch(text):
        return text
    if SUSPECT_TEXT.search(text):
        text = SECRET_TEXT.sub(REDACTED, text)
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _choose_renderer(log_format: LogFormat, *, terminal: bool) -> Callable[[EventDict], bytes]:
    if log_format == "json" or (log_format == "auto" and not terminal):
        return _encode
    console = structlog.dev.ConsoleRenderer(
        colors=terminal, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )

    def render_console(line: EventDict) -> bytes:
        del line["pid"]
        for name in ("exception", "stack"):
            if isinstance(text := line.get(name), str):
                line[name] = _indented(text)
        return str(console(None, "", line)).encode()

    return render_console


def _indented(text: str) -> str:
    """A traceback whose lines cannot pass for log lines: each is indented, and control characters are escaped."""
    return "\n".join("    " + CONTROL_CHARACTER.sub(_escape, line) for line in text.split("\n"))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class _LineMaker:
    """Makes a line of what was said: nothing secret, the time, the level and the event first, and last whose it is."""

    def __init__(self, render: Callable[[EventDict], bytes]) -> None:
        self._render = render
        self._second = (0, "")

    def make(self, said: Said) -> bytes:
        """Make the line."""
        level, values, logger, at = said
        if "exc_info" in values:
            values = structlog.processors.format_exc_info(None, level, values)
        line = {"timestamp": "", "level": "", "event": "", **redact(values)}
        # Whatever was said, these are so.
        line["timestamp"], line["level"] = self._timestamp(at), level
        if logger is not None:
            line["logger"] = logger
        line["pid"] = os.getpid()
        return self._render(line)

    def _timestamp(self, now: int) -> str:
        """The time in UTC, to the microsecond; what changes once a second is formatted once a second."""
        second, text = self._second
        if second != now // 1_000_000_000:
            second = now // 1_000_000_000
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            # One assignment of both, because threads log too.
            self._second = (second, text)
        return f"{text}.{now // 1000 % 1_000_000:06}Z"


class _LineSink:
    """The named logger that structlog wraps. Lines of immutable values are formatted in the writer's thread."""

    def __init__(self, writer: LogWriter, name: str | None = None) -> None:
        self._writer = writer
        self._name = name

    def debug(self, values: EventDict) -> None:
        """Queue a line."""
        self._queue("debug", values)

    def info(self, values: EventDict) -> None:
        """Queue a line."""
        self._queue("info", values)

    def warning(self, values: EventDict) -> None:
        """Queue a line."""
        self._queue("warning", values)

    def error(self, values: EventDict) -> None:
        """Queue a line."""
        self._queue("error", values)

    def critical(self, values: EventDict) -> None:
        """Queue a line."""
        self._queue("critical", values)

    def _queue(self, level: str, values: EventDict) -> None:
        parts = (level, values, self._name, time.time_ns())
        lasting = LASTING_TYPES.issuperset(map(type, values.values())) and "exc_info" not in values
        self._writer.write(parts if lasting else self._writer.made(parts))


def _hand_over(_logger: object, _level: str, values: EventDict) -> tuple[tuple[EventDict], dict[str, object]]:
    """The last processor: what it returns are the arguments of the sink's method."""
    return (values,), {}


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    exc_info = (kind, error if error is not None else kind(), trace)
    structlog.get_logger("starling").critical("uncaught_exception", exc_info=exc_info)


class _LineHandler(logging.Handler):
    """Lines of the standard library's loggers, through the same chain to the same writer."""

    def __init__(self, writer: LogWriter, processors: Sequence[Processor]) -> None:
        super().__init__()
        self.writer = writer
        self._processors = processors

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.writer.made(self._said(record))
        except Exception:  # noqa: BLE001 - whatever a text and its arguments may raise
            line = _failed(record.name)
        self.writer.write(line)

    def _said(self, record: logging.LogRecord) -> Said:
        """The parts of a record: the event names the library, `message` is the text."""
        whose = re.sub(r"\W", "_", record.name.partition(".")[0]) or "root"
        event = "python_warning" if record.name == "py.warnings" else f"{whose}_message"
        copy = logging.makeLogRecord({**record.__dict__, "args": _cut_queries(record.args)})
        said: Any = {"event": event, "message": copy.getMessage()}
        if record.exc_info:
            said["exc_info"] = record.exc_info
        if record.stack_info:
            said["stack"] = record.stack_info
        level = record.levelname.lower()
        for processor in self._processors:
            said = processor(None, level, said)
        return level, said, record.name, time.time_ns()

    def flush(self) -> None:
        self.writer.flush()


def _cut_queries(args: Any) -> Any:
    """Cut every text argument at its first question mark: an address with its query may be any of them."""
    if isinstance(args, Mapping):
        return {key: _cut(value) for key, value in args.items()}
    return tuple(_cut(value) for value in args) if args else args


def _cut(value: object) -> object:
    return value.partition("?")[0] if isinstance(value, str) else value
