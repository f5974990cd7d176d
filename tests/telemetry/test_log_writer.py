"""Log lines over a pipe of this process: their order, a reader that stalls or leaves, and their forms."""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import structlog

from starling.telemetry.log_writer import QUEUE_LINES, LineParts, LogWriter
from starling.telemetry.logging import LogFormat, configure_logging, flush_lines, write_lines_directly

LONG = 8 * 65536


class Pipe:
    """A pipe with nobody at its reading end but the test."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def read(self) -> bytes:
        """What is in the pipe now."""
        found = b""
        with suppress(BlockingIOError):
            while piece := os.read(self.reading, 2**20):
                found += piece
        return found

    def close(self) -> None:
        """Close both ends that are open."""
        for descriptor in (self.reading, self.writing):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def text_of(said: LineParts) -> bytes:
    """A line in a form of this test's own; an event that is no text fails."""
    return f"{said[0]} {said[1]['event'].upper()} {said[1].get('lines', '')}".strip().encode()


def said(event: Any) -> LineParts:
    return "info", {"event": event}, "logger", 0


def ended(writer: LogWriter) -> None:
    """End the writer's thread, with all written that its reader takes."""
    writer.write_directly()


def test_lines_are_written_in_their_order_and_those_that_cannot_be_made_are_replaced(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing, text_of)
    for line in (said("one"), b"ready", said(3), said("four")):
        writer.write(line)
    writer.flush()

    first, second, third, fourth = pipe.read().splitlines()
    assert (first, second, fourth) == (b"info ONE", b"ready", b"info FOUR")
    assert json.loads(third) == {"level": "error", "event": "log_line_failed", "logger": "logger"}
    ended(writer)


def test_what_a_stalled_reader_has_no_room_for_is_dropped_counted_and_reported(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing, text_of)
    writer.write(b"x" * LONG)
    writer.flush(timeout=0.01)
    for _ in range(QUEUE_LINES + 10):
        writer.write(b"late")
    assert writer.dropped >= 10

    found, reported = b"", f"warning LOG_LINES_DROPPED {writer.dropped}".encode()
    while reported not in found or found.count(b"late") < QUEUE_LINES + 10 - writer.dropped:
        found += pipe.read()
    ended(writer)


def test_a_process_that_forks_writes_without_a_thread_and_keeps_what_is_not_taken(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing, text_of)
    writer.write(b"by the thread")
    writer.write_directly()
    assert pipe.read() == b"by the thread\n"

    os.set_blocking(pipe.writing, False)
    with suppress(BlockingIOError):
        while os.write(pipe.writing, b"y" * 65536):
            pass
    os.set_blocking(pipe.writing, True)
    writer.write(said("first"))
    writer.write(said("second"))
    pipe.read()
    writer.flush()
    assert pipe.read() == b"info FIRST\ninfo SECOND\n"
    assert threading.active_count() == len(threading.enumerate())


@pytest.mark.parametrize("directly", [False, True])
def test_a_reader_that_has_left_is_reported_once(
    pipe: Pipe, capfd: pytest.CaptureFixture[str], *, directly: bool
) -> None:
    writer = LogWriter(pipe.writing, text_of)
    if directly:
        writer.write_directly()
    os.close(pipe.reading)
    for _ in range(3):
        writer.write(b"lost")
        writer.flush()
    assert capfd.readouterr().err == "log lines cannot be written to standard output, and are lost: Broken pipe\n"
    ended(writer)


@pytest.fixture
def configured(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, LogFormat], None]]:
    """Configures logging as the command does, with a pipe for standard output; undone at the end."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    libraries = {name: logging.getLogger(name) for name in list(logging.root.manager.loggerDict)}
    states = {name: (each.handlers, each.propagate, each.level) for name, each in libraries.items()}
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr("atexit.register", lambda _: None)
    writers: list[LogWriter] = []
    with os.fdopen(os.dup(pipe.writing), "w") as stdout:

        def configure(level: str, log_format: LogFormat) -> None:
            monkeypatch.setattr(sys, "stdout", stdout)
            writers.append(configure_logging(level, log_format))

        yield configure
        logging.captureWarnings(capture=False)
        for writer in writers:
            ended(writer)
        monkeypatch.undo()
    structlog.configure(**before)
    root.handlers, root.level = handlers, level
    for name, each in libraries.items():
        each.handlers, each.propagate = states[name][:2]
        each.setLevel(states[name][2])


def test_lines_of_the_service_of_libraries_and_of_the_end_have_one_form(
    pipe: Pipe, configured: Callable[[str, LogFormat], None]
) -> None:
    configured("info", "json")
    log = structlog.get_logger("test.log_writer")
    log.debug("too_little")
    log.info("published", number=1, token="s3cr3t", values=[1, {"a": b"xy"}])
    for level in ("warning", "error", "critical"):
        getattr(log, level)("grave", level_said=level)
    logging.getLogger("library.part").warning("it says %s", "this")
    sys.excepthook(ValueError, ValueError("at the end"), None)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    flush_lines()

    first, *grave, library, end = map(json.loads, pipe.read().splitlines())
    assert (first["event"], first["level"], first["logger"], first["pid"]) == (
        "published",
        "info",
        "test.log_writer",
        os.getpid(),
    )
    assert (first["number"], first["token"], first["values"]) == (1, "[redacted]", [1, {"a": "2 bytes"}])
    assert [line["level"] for line in grave] == ["warning", "error", "critical"]
    assert (library["event"], library["message"]) == ("library_message", "it says this")
    assert (end["event"], "at the end" in end["exception"]) == ("uncaught_exception", True)


def test_lines_for_people_have_no_process_and_an_indented_traceback(
    pipe: Pipe, configured: Callable[[str, LogFormat], None]
) -> None:
    configured("info", "console")
    write_lines_directly()
    log = structlog.get_logger("test.log_writer.people")
    log.error("it_failed", number=7, exc_info=ValueError("forged\n2026-01-01 info \x1b[31m"))

    text = pipe.read().decode()
    assert "it_failed" in text
    assert "number=7" in text
    assert "pid" not in text
    assert "\n    2026-01-01 info \\x1b[31m" in text
