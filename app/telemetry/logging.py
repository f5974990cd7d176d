"""Log lines of every process: one JSON object a line, nothing secret in it, and never a wait for whoever reads them."""

import atexit
import fcntl
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor

LogFormat = Literal["auto", "json", "console"]

# Lines that may wait for stdout; later ones are dropped and counted.
QUEUE_LINES = 4096
# Lines are written so many at once, as they gather in this time. Seconds.
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

# When a line was said, in nanoseconds since 1970, until it has its timestamp.
SAID_AT = "_said_at"
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
        "sec_websocket_protocol",
        "secret",
        "session",
        "set_cookie",
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
    | \b \w* (?: token | session | secret | password | api_key ) = [^\s&'",;]*
    | \b bearer [\s.]+ [\w.~+/=-]+
    | (?<=://) [^/\s@'"]+ (?=@)                         # user and password in an address
    | (?<=\?) [^\s'"]+                                  # the query in an address
    """,
    re.IGNORECASE | re.VERBOSE,
)

# Values of these types never change, so a line of them may be made later than it was said.
LASTING_TYPES = frozenset({bool, float, int, str, type(None)})

_encode = msgspec.json.Encoder().encode

Line = bytes | Callable[[], bytes]
"""A line without its end, or what makes it."""


class LogWriter:
    """Writes lines to a file descriptor from a thread of its own, one thread in each process that logs.

    A reader that stalls delays nobody: beyond QUEUE_LINES lines are dropped, counted in `dropped`, and reported by a
    line of their own (made by `describe_drop`) once the reader goes on. Lines of several processes do not mix. Who is
    killed takes the lines of the last NAP_SECONDS along; a process that ends in any other way writes them.
    """

    def __init__(self, fd: int, describe_drop: Callable[[int], bytes]) -> None:
        self.dropped = 0
        self._fd = fd
        self._describe_drop = describe_drop
        # A pipe keeps only short writes whole, so processes take turns; the lock of a process ends with it.
        self._turn = os.memfd_create("starling-log-turn")
        self._begin_process()
        os.register_at_fork(after_in_child=self._begin_process)

    def _begin_process(self) -> None:
        self._reported = self.dropped
        # put() of this queue may be interrupted by a signal handler that logs too.
        self._queue: SimpleQueue[Line | threading.Event] = SimpleQueue()
        self._awaited = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self, line: Line) -> None:
        """Queue `line` or drop it; never waits."""
        if self._queue.qsize() >= QUEUE_LINES:
            self.dropped += 1
            return
        self._queue.put(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            self._thread.start()

    def flush(self, timeout: float = FLUSH_SECONDS) -> None:
        """Wait until what is queued now is written, `timeout` seconds at most."""
        if self._thread is not None:
            written = threading.Event()
            self._queue.put(written)
            self._awaited.set()
            written.wait(timeout)

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if self._queue.qsize() < BATCH_LINES:
                # Waking for each line would take the interpreter from the event loop each time.
                self._awaited.wait(NAP_SECONDS)
                self._awaited.clear()
            lines, awaited = self._take_with(first)
            # The reader is gone or the disk is full: there is nowhere left to say so.
            with suppress(OSError):
                if lines:
                    self._put_out(b"\n".join(lines))
            for written in awaited:
                written.set()
            if (dropped := self.dropped) > self._reported:
                with suppress(OSError):
                    self._put_out(self._describe_drop(dropped - self._reported))
                self._reported = dropped

    def _take_with(self, first: Line | threading.Event) -> tuple[list[bytes], list[threading.Event]]:
        """Give what is queued, up to BATCH_LINES, and who waits for it to be written."""
        items = [first]
        with suppress(Empty):
            while len(items) < BATCH_LINES:
                items.append(self._queue.get_nowait())
        lines = [_made(item) for item in items if not isinstance(item, threading.Event)]
        return lines, [item for item in items if isinstance(item, threading.Event)]

    def _put_out(self, lines: bytes) -> None:
        rest = lines + b"\n"
        fcntl.lockf(self._turn, fcntl.LOCK_EX)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        finally:
            fcntl.lockf(self._turn, fcntl.LOCK_UN)


def _made(line: Line) -> bytes:
    if isinstance(line, bytes):
        return line
    try:
        return line()
    except Exception:  # noqa: BLE001 - later lines must not be lost with one that cannot be made
        return _encode({"level": "error", "event": "log_line_failed"})


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
    render = _choose_renderer(log_format, terminal=os.isatty(fd))
    shared: list[Processor] = [
        structlog.processors.format_exc_info,
        redact,
        _Timestamp(),
    ]
    # Behind the search for secrets, for there are none in these.
    finishing = [*shared, structlog.processors.add_log_level, _add_origin, render]

    def describe_drop(lines: int) -> bytes:
        event: EventDict = {"event": "log_lines_dropped", "level": "warning", "pid": os.getpid(), "lines": lines}
        for processor in shared:
            event = processor(None, "warning", event)  # type: ignore[assignment]  # none of ours ends the chain
        return render(None, "warning", event)

    writer = LogWriter(fd, describe_drop)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *more_processors,
            _Finish(finishing),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *name: _LineLogger(writer, *name),
        cache_logger_on_first_use=True,
    )
    handler = _LineHandler(writer, [_describe_record, *more_processors, *shared, render])
    handler.setLevel(threshold)
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.INFO), force=True)
    logging.captureWarnings(capture=True)
    quiet_libraries()
    atexit.register(writer.flush)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    return writer


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


def redact(_: object, __: str, event: EventDict) -> EventDict:
    """Replace what may be secret: values of SECRET_KEYS, what SECRET_TEXT finds in texts, and bytes by their number."""
    return {
        key: REDACTED
        if _is_secret(key)
        # Most texts are as simple as this, and need no call of their own.
        else value
        if type(value) is str and HARMLESS_TEXT.fullmatch(value)
        else _clean(value)
        for key, value in event.items()
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
        return redact(None, "", {str(key): inner for key, inner in value.items()})
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner) for inner in value]
    return _clean_text(str(value))


def _clean_text(text: str) -> str:
    if HARMLESS_TEXT.fullmatch(text):
        return text
    if SUSPECT_TEXT.search(text):
        text = SECRET_TEXT.sub(REDACTED, text)
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _choose_renderer(log_format: LogFormat, *, terminal: bool) -> Callable[[object, str, EventDict], bytes]:
    if log_format == "json" or (log_format == "auto" and not terminal):
        return _render_json
    console = structlog.dev.ConsoleRenderer(
        colors=terminal, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )

    def render_console(logger: object, method: str, event: EventDict) -> bytes:
        event.pop("pid", None)
        line = console(logger, method, event)
        return str(line).encode()

    return render_console


def _render_json(_: object, __: str, event: EventDict) -> bytes:
    head = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return _encode({**head, **event})


class _Finish:
    """Ends structlog's chain: `finishing` makes the line, in the writer's thread wherever that comes to the same."""

    def __init__(self, finishing: Sequence[Any]) -> None:
        self._finishing = finishing

    def __call__(self, logger: object, method: str, event: EventDict) -> tuple[tuple[Line], dict[str, Any]]:
        lasting = LASTING_TYPES.issuperset(map(type, event.values())) and "exc_info" not in event
        event[SAID_AT] = time.time_ns()
        line = partial(self._make, logger, method, event)
        return (line if lasting else line(),), {}

    def _make(self, logger: object, method: str, event: Any) -> bytes:
        for processor in self._finishing:
            event = processor(logger, method, event)
        line: bytes = event
        return line


class _Timestamp:
    """Adds the time in UTC, to the microsecond; what changes once a second is formatted once a second."""

    def __init__(self) -> None:
        self._second = (0, "")

    def __call__(self, _: object, __: str, event: EventDict) -> EventDict:
        now = event.pop(SAID_AT, None) or time.time_ns()
        second, text = self._second
        if second != now // 1_000_000_000:
            second = now // 1_000_000_000
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            # One assignment of both, because threads log too.
            self._second = (second, text)
        event["timestamp"] = f"{text}.{now // 1000 % 1_000_000:06}Z"
        return event


def _add_origin(logger: Any, _: str, event: EventDict) -> EventDict:
    if logger.name is not None:
        event["logger"] = logger.name
    event["pid"] = os.getpid()
    return event


def _describe_record(_: object, __: str, event: EventDict) -> EventDict:
    """Make a line of a library: the event says whose, the text is its message."""
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog")
    whose = re.sub(r"\W", "_", record.name.partition(".")[0]) or "root"
    return {
        **event,
        "event": "python_warning" if record.name == "py.warnings" else f"{whose}_message",
        "message": event["event"],
        "level": record.levelname.lower(),
        "logger": record.name,
        "pid": record.process,
    }


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    exc_info = (kind, error if error is not None else kind(), trace)
    structlog.get_logger("starling").critical("uncaught_exception", exc_info=exc_info)


class _LineLogger:
    """The end of structlog's chain: every level's rendered line goes to the writer."""

    def __init__(self, writer: LogWriter, name: str | None = None) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = writer.write
        self.msg = self.log = self.warn = self.fatal = self.failure = self.err = writer.write


class _LineHandler(logging.Handler):
    """Lines of the standard library's loggers, through the same chain to the same writer."""

    def __init__(self, writer: LogWriter, processors: list[Any]) -> None:
        super().__init__()
        self._writer = writer
        *chain, render = processors
        # The formatter wants text from its last processor, the writer bytes.
        chain.append(lambda *args: render(*args).decode())
        self.setFormatter(structlog.stdlib.ProcessorFormatter(processors=chain))

    def emit(self, record: logging.LogRecord) -> None:
        line = logging.makeLogRecord(record.__dict__)
        line.args = _cut_queries(record.args)
        try:
            self._writer.write(self.format(line).encode())
        except Exception:  # noqa: BLE001 - a line that cannot be made must not end what it tells of
            self._writer.write(_encode({"level": "error", "event": "log_line_failed", "logger": record.name}))

    def flush(self) -> None:
        self._writer.flush()


def _cut_queries(args: Any) -> Any:
    """Cut every text argument at its first question mark: an address with its query may be any of them."""
    if isinstance(args, Mapping):
        return {key: _cut(value) for key, value in args.items()}
    return tuple(_cut(value) for value in args) if args else args


def _cut(value: object) -> object:
    return value.partition("?")[0] if isinstance(value, str) else value
