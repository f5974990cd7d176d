"""Configuration of logs: one JSON object a line, from structlog and the standard library alike, without secrets."""

import atexit
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from starling.telemetry.log_redaction import redact
from starling.telemetry.log_writer import LineParts, LogWriter, failed_line

LogFormat = Literal["auto", "json", "console"]


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


# Values of these types never change, so a line of them may be formatted later than it was logged.
IMMUTABLE_TYPES = frozenset({bool, float, int, str, type(None)})

# Tracebacks, and what structlog writes without quotes.
_TRACES = ("exception", "stack")
_BARE = ("timestamp", "level", "event", "logger")
_DELETE = 0x7F
_encode = msgspec.json.Encoder().encode


def configure_logging(
    level: str, log_format: LogFormat = "auto", more_processors: Sequence[Processor] = ()
) -> LogWriter:
    """Send the lines of structlog and of the standard library's loggers to stdout, in one form.

    `level` is `debug`, `info`, `warning` or `error`. `log_format` `auto` means `console` on a terminal, else `json`.
    `more_processors` see each line when it is logged, and may add to it.
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


def _choose_renderer(log_format: LogFormat, *, terminal: bool) -> Callable[[EventDict], bytes]:
    if log_format == "json" or (log_format == "auto" and not terminal):
        return _render_json
    console = structlog.dev.ConsoleRenderer(
        colors=terminal, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )

    def render_console(line: EventDict) -> bytes:
        del line["pid"]
        return str(console(None, "", {_shown_text(name): _shown(name, value) for name, value in line.items()})).encode()

    return render_console


def _render_json(line: EventDict) -> bytes:
    """A line whose characters all show: JSON escapes no DEL, no C1, no separators of lines, and none of direction."""
    encoded = _encode(line)
    if (encoded.isascii() and _DELETE not in encoded) or (text := encoded.decode()).isprintable():
        return encoded
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text).encode()


def _shown(name: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    if name in _TRACES:
        return _indented(value)
    if value.isprintable():
        return value
    return _shown_text(value) if name in _BARE else _Quoted(value)


def _indented(text: str) -> str:
    """A traceback whose lines cannot pass for log lines: each is indented, and what does not show is escaped."""
    return "\n".join("    " + _shown_text(line) for line in text.split("\n"))


def _shown_text(text: str) -> str:
    """`text`, with escapes for characters that do not show or change how others show, such as those of a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class _Quoted:
    """A text that structlog writes in quotes, with escapes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


class _LineMaker:
    """Formats a line of its parts, without secrets: time, level and event come first, logger and process last."""

    def __init__(self, render: Callable[[EventDict], bytes]) -> None:
        self._render = render
        self._second = (0, "")

    def make(self, parts: LineParts) -> bytes:
        """Return the line."""
        level, values, logger, at = parts
        if "exc_info" in values:
            values = structlog.processors.format_exc_info(None, level, values)
        line = {"timestamp": "", "level": "", "event": "", **redact(values)}
        # These stand, whatever the caller passed under their names.
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
        immutable = IMMUTABLE_TYPES.issuperset(map(type, values.values())) and "exc_info" not in values
        self._writer.write(parts if immutable else self._writer.formatted(parts))


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
            line = self.writer.formatted(self._parts_of(record))
        except Exception:  # noqa: BLE001 - whatever a text and its arguments may raise
            line = failed_line(record.name)
        self.writer.write(line)

    def _parts_of(self, record: logging.LogRecord) -> LineParts:
        """The parts of a record: the event names the library, `message` is the text."""
        library = re.sub(r"\W", "_", record.name.partition(".")[0]) or "root"
        event = "python_warning" if record.name == "py.warnings" else f"{library}_message"
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
