"""Log lines: one form for all, nothing secret, and no wait for a reader that stalls."""

import asyncio
import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.server.serving import Client, Server, handshake

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t"


@contextlib.contextmanager
def logged(
    code: str, level: str = "info", log_format: str = "json", stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs `code` after it has set up logging; nobody reads what it writes but the test."""
    command = [sys.executable, str(Path(__file__).with_name("logged.py")), level, log_format, code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=stdout, stderr=subprocess.PIPE) as process:
        yield process
        process.kill()


def lines(code: str, level: str = "info") -> list[dict[str, Any]]:
    """What `code` logs, each line one JSON object; it must write nothing else."""
    with logged(code, level) as process:
        out, err = process.communicate(timeout=20)
    assert err == b""
    return [json.loads(line) for line in out.splitlines()]


def test_a_line_of_ours_has_its_time_level_event_and_values() -> None:
    code = "import structlog; structlog.get_logger('starling.x').info('client_connected', user='7', seconds=1.5)"
    [line] = lines(code)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    assert (
        line | {"level": "info", "event": "client_connected", "user": "7", "seconds": 1.5, "logger": "starling.x"}
        == line
    )


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_line_reports_the_request_in_which_it_was_said(level: str) -> None:
    code = f"""
import structlog
structlog.contextvars.bind_contextvars(request_id="r-1")
structlog.get_logger("starling.x").{level}("said", user="7")
structlog.get_logger("starling.x").bind(channel="news").{level}("said", user="7")
structlog.contextvars.clear_contextvars()
structlog.get_logger("starling.x").{level}("said", user="7")
"""
    within, bound, after = lines(code, "debug")
    assert (within["request_id"], within["user"]) == ("r-1", "7")
    assert (bound["request_id"], bound["channel"]) == ("r-1", "news")
    assert "request_id" not in after


def test_no_value_stands_for_what_a_line_is_known_by() -> None:
    code = "import structlog; structlog.get_logger('x').warning('e', level='debug', timestamp=0, logger='y', pid=0)"
    [line] = lines(code)
    assert (line["level"], line["event"], line["logger"]) == ("warning", "e", "x")
    assert line["timestamp"].endswith("Z")
    assert line["pid"] > 0


def test_lines_report_what_was_so_when_they_were_said_in_their_order() -> None:
    said = lines(
        "import structlog, time\n"
        "log, seen = structlog.get_logger('starling.x'), ['a']\n"
        "log.info('first', user='7'); log.info('second', seen=seen); seen.append('b')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: log.exception('third')\n"
        "log.info('fourth', user='7'); time.sleep(0.1); log.warning('fifth', user='7')"
    )
    assert [line["event"] for line in said] == ["first", "second", "third", "fourth", "fifth"]
    assert said[1]["seen"] == ["a"]
    assert "ZeroDivisionError" in said[2]["exception"]
    stamps = [datetime.fromisoformat(line["timestamp"]) for line in said]
    assert stamps == sorted(stamps)
    assert (stamps[4] - stamps[3]).total_seconds() >= 0.1


def test_threads_that_log_first_at_once_have_one_writer() -> None:
    code = """
import structlog, sys, threading
sys.setswitchinterval(1e-6)
together = threading.Barrier(32)
def tell(log):
    together.wait()
    log.info("said")
threads = [threading.Thread(target=tell, args=(structlog.get_logger("x").bind(),)) for _ in range(32)]
for thread in threads: thread.start()
for thread in threads: thread.join()
structlog.get_logger("x").info("counted", writers=[t.name for t in threading.enumerate()].count("log-writer"))
"""
    *said, counted = lines(code)
    assert [line["event"] for line in said] == ["said"] * 32
    assert counted["writers"] == 1


def test_an_order_to_write_out_cuts_the_gathering_short() -> None:
    code = (
        "import structlog, time\n"
        "from starling.telemetry import log_writer\n"
        "log_writer.GATHER_SECONDS = 600\n"
        "structlog.get_logger('starling.x').info('said')"
    )
    assert [line["event"] for line in lines(code)] == ["said"]


def test_lines_of_libraries_have_the_same_form() -> None:
    [line] = lines("import logging; logging.getLogger('redis.client').warning('lost %s', 'it')")
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert (line["event"], line["message"], line["logger"]) == ("redis_message", "lost it", "redis.client")


def test_warnings_and_uncaught_exceptions_are_lines_too() -> None:
    warning, thread, main = lines("""
import threading, warnings
warnings.warn("old")
broken = threading.Thread(target=int, args=("y",))
broken.start()
broken.join()
int("x")
""")
    assert (warning["event"], warning["level"]) == ("python_warning", "warning")
    assert (thread["event"], main["event"]) == ("uncaught_exception", "uncaught_exception")
    assert "invalid literal" in main["exception"]
    assert "Traceback" in main["exception"]


def test_lines_below_the_level_are_left_out() -> None:
    code = """
import logging, structlog
for logger in (logging.getLogger("x"), structlog.get_logger()):
    logger.debug("d")
    logger.info("i")
    logger.warning("w")
"""
    assert [line["level"] for line in lines(code, "warning")] == ["warning", "warning"]
    # Libraries' debug lines are not for logs: they show requests whole.
    assert [line["level"] for line in lines(code, "debug")] == ["info", "warning", "debug", "info", "warning"]


def test_any_value_stays_one_line_of_json() -> None:
    values = r"['\n{}\x1b[31m', '\ud800', 2**70, float('nan'), b'\xff', {1: object()}, [{'a': (1,)}], object]"
    reported = lines(f"import structlog\nfor value in {values}: structlog.get_logger().info('x', value=value)")
    assert len(reported) == 8


def test_what_cannot_be_said_ends_neither_its_caller_nor_later_lines() -> None:
    code = """
import logging, structlog
class Unsayable:
    def __str__(self):
        raise RuntimeError
structlog.get_logger("starling.x").info("first", value=Unsayable())
logging.getLogger("lib").warning("%s", Unsayable())
structlog.get_logger("starling.x").info("last")
"""
    assert [(line["event"], line["logger"]) for line in lines(code)] == [
        ("log_line_failed", "starling.x"),
        ("log_line_failed", "lib"),
        ("last", "starling.x"),
    ]


def test_queries_of_libraries_are_cut_even_when_they_look_harmless() -> None:
    [line] = lines(f"import logging; logging.getLogger('x').error('%s refused', '/ws?a={SECRET} b')")
    assert line["message"] == "/ws refused"


# The lowest level writes every line; those of the others are some of them.
@pytest.mark.parametrize(
    "level", ["debug", *(pytest.param(level, marks=pytest.mark.long) for level in ("info", "warning"))]
)
async def test_no_secret_of_a_handshake_reaches_any_line(tmp_path: Path, level: str) -> None:
    secrets = {name: f"{SECRET}-{name}" for name in ("query", "cookie", "header", "subprotocol")}
    headers = {"Cookie": f"session={secrets['cookie']}", "Authorization": f"Bearer {secrets['header']}"}
    with Server(tmp_path, log_level=level) as server:
        for path in ("/ws", "/plain", "/crash", "/refuse", "/return"):
            try:
                async with connect(
                    f"ws://127.0.0.1:{server.port}{path}?token={secrets['query']}",
                    additional_headers=headers,
                    subprotocols=[f"bearer.{secrets['subprotocol']}"],  # type: ignore[list-item]
                ) as client:
                    if path in {"/ws", "/plain"}:
                        await client.send("hello")
                        await client.recv()
            except InvalidStatus as refused:
                assert refused.response.status_code == 403  # noqa: PT017 - one of the paths
        plain = [f"{name}: {value}" for name, value in headers.items()]
        for request in (
            handshake(f"/ws?token={secrets['query']}", *plain, *(f"X-{number}: 1" for number in range(300))),
            handshake(f"/ws?token={secrets['query']}", *plain).replace(b"Version: 13", b"Version: 8"),
            f"GET /?token={secrets['query']} HTTP/1.1\r\nCookie: {secrets['cookie']}\r\n\r\n".encode(),
            f"GET /?token={secrets['query']} NONSENSE\r\n\r\n".encode(),
        ):
            with Client(server.port) as raw:
                raw.socket.sendall(request)
                raw.read_head()
                assert raw.status
        await asyncio.to_thread(server.stop)
        assert server.events("asgi_application_failed"), "something was logged about them"
    for forbidden in (SECRET, "token=", "authorization", "cookie", "sec-websocket-protocol"):
        assert forbidden not in server.output.lower()


def test_the_console_format_is_for_people() -> None:
    leader, follower = pty.openpty()
    code = "import structlog; structlog.get_logger().info('client_connected', user='7')"
    with logged(code, log_format="auto", stdout=follower) as process:
        os.close(follower)
        assert process.wait(20) == 0
        out = os.read(leader, 65536).decode()
    os.close(leader)
    assert "client_connected" in out
    assert "\x1b[" in out
    assert not out.startswith("{")


def test_a_stalled_reader_delays_nobody_and_lost_lines_are_counted() -> None:
    code = """
import os, structlog, time
log = structlog.get_logger()
for number in range(8000):
    log.info("x", number=number, padding="x" * 100)
os.write(2, b"done")
time.sleep(1)
log.info("end")
"""
    with logged(code) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.read(4) == b"done", "though nobody reads"
        reported = [json.loads(line) for line in process.stdout.read().splitlines()]
        assert process.wait(20) == 0
    written = [line["number"] for line in reported if line["event"] == "x"]
    lost = sum(line["lines"] for line in reported if line["event"] == "log_lines_dropped")
    assert written == sorted(written)
    assert lost > 0
    assert len(written) + lost == 8000
    assert "end" in {line["event"] for line in reported[-2:]}


def test_a_process_whose_output_is_never_read_still_ends() -> None:
    with logged("import structlog\nfor _ in range(6000): structlog.get_logger().info('x' * 100)") as process:
        assert process.wait(20) == 0


def test_a_reader_that_has_gone_harms_nobody() -> None:
    code = "import structlog, time\nfor _ in range(100): structlog.get_logger().info('x'); time.sleep(0.01)"
    with logged(code) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(20) == 0


def test_long_lines_of_several_processes_do_not_mix() -> None:
    reported = lines("""
import os, structlog
log = structlog.get_logger()
log.info("before")
children = []
for child in range(3):
    if (pid := os.fork()) == 0:
        for number in range(50):
            log.info("x", child=child, number=number, padding="x" * 20000)
        writer.flush()
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
""")
    assert [line["event"] for line in reported].count("before") == 1
    for child in range(3):
        assert [line["number"] for line in reported if line.get("child") == child] == list(range(50))


def test_a_server_whose_output_is_not_read_serves_and_stops(tmp_path: Path) -> None:
    unread, write = os.pipe()
    with os.fdopen(write, "wb") as stalled, Server(tmp_path, output=stalled) as server, server.connect() as client:
        for _ in range(300):  # a kilobyte each, more than a pipe holds
            client.send("log")
        client.send("served")
        assert client.text() == "served"
        server.stop()
    os.close(unread)


@pytest.mark.parametrize(
    "text", ["a\n2026-01-01T00:00:00Z [error    ] forged", "a\x1b[2Jb", "a\r2026 forged", "a\x9bb"]
)
def test_the_text_of_an_exception_forges_no_line_of_the_console_format(text: str) -> None:
    code = f"""
import structlog, logging
try:
    raise ValueError({text!r})
except ValueError:
    structlog.get_logger('x').exception('failed')
    logging.getLogger('y').exception('failed')
"""
    with logged(code, log_format="console") as process:
        out, _ = process.communicate(timeout=20)
    shown = out.decode()
    assert shown.count("ValueError: a") == 2
    assert [line for line in shown.splitlines() if "forged" in line and not line.startswith("    ")] == []
    assert not any(character in shown for character in "\x1b\r\x9b")


HOSTILE = {
    "escape": "x\x1b[31m",
    "delete": "x\x7f",
    "introducer": "x\x9b31m",
    "next_line": "x\x85forged",
    "line": "x\u2028forged",
    "direction": "x\u202ey",
    "isolate": "a b\u2066c",
    "mark": "x\ufeff",
    "tag": "x\U000e0041",
    "spaced": "a\x1b b\nforged",
    "quoted": "'\u202e\"",
}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_character_of_a_value_acts_on_a_terminal_or_breaks_a_line(log_format: str) -> None:
    code = f"""
import structlog, logging
hostile = {HOSTILE!r}
structlog.get_logger('x').info('event', **hostile)
structlog.get_logger('x').info('nested', values=list(hostile.values()), **{{text: 1 for text in hostile.values()}})
logging.getLogger('y').warning('of a library: %s', ' '.join(hostile.values()))
"""
    with logged(code, log_format=log_format) as process:
        out, _ = process.communicate(timeout=20)
    lines = out.decode().removesuffix("\n").split("\n")
    assert len(lines) == 3
    assert [line for line in lines if not line.isprintable()] == []
    if log_format == "json":
        event, nested, library = map(json.loads, lines)
        assert event.items() >= HOSTILE.items()
        assert nested["values"] == list(HOSTILE.values())
        assert library["message"].endswith(" ".join(HOSTILE.values()))
    else:
        assert "escape='x\\x1b[31m'" in lines[0]
        assert "spaced='a\\x1b b\\nforged'" in lines[0]


def test_lines_that_cannot_be_written_are_reported_once_on_standard_error() -> None:
    code = "import structlog\nfor n in range(20): structlog.get_logger('x').info('event', n=n); writer.flush()"
    with Path("/dev/full").open("wb") as full, logged(code, stdout=full.fileno()) as process:
        _, error = process.communicate(timeout=20)
    assert error.decode().splitlines() == [
        "log lines cannot be written to standard output, and are lost: No space left on device"
    ]
