"""What each command costs a worker for each byte that a client sends: `python -m tests.bench.command_costs`.

One worker over a real Redis, and the CPU time of all its threads, by two methods. In frames: as an attacker floods, 100
commands each, with the commands that undo those before, whose bytes and CPU time count too; the limit is for these.
Alone: each command waits for its answer and goes 10 ms after the one before, to a worker that slept, so that most of it
is waking up; the bytes are those of the command. For a connect or a request of the emulation, which are no part of a
frame, the bytes are all that is sent, and the limit is for what they cost alone.

Reads are those that a client with bad intentions chooses: short names, new limits, positions and directions, filters
that nothing passes, channels in turn, so that what was read before is of little use. Names of transports and
`--only TEXT` bound what is measured.
"""

import argparse
import json
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from starling.auth.issue import issue_connection_token
from tests.bench.command_cases import CASES, CHANNELS, PERSONAL, RECOVERED, Bench, Case, Command, history, prepare
from tests.bench.process import cpu_seconds
from tests.bench.reading import KEY, SECRET, WANTED, Api
from tests.support.conversation import Conversation
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.streams import JsonStream, post

ROUNDS = 20
FRAMES = 3
# Answers with an error have a budget of their own, 300 a minute.
FRAMES_OF_ERRORS = 2
COMMANDS = 100
RECOVERIES = 8


@dataclass
class Cost:
    """Mean CPU seconds, and the bytes that were sent for them."""

    seconds: float
    size: float

    @property
    def micros_a_byte(self) -> float:
        """CPU time in µs for each byte."""
        return self.seconds * 1e6 / self.size


def send_and_wait(client: Conversation, number: int, command: Command, case: Case) -> int:
    """Send a command and check its answer; returns the bytes that were sent."""
    (method,) = command
    content = client.encoded({"id": number, **command})
    client.write(content)
    reply = client.reply(number)
    result: Any = reply.get(method)
    if case.answer not in reply:
        raise RuntimeError(f"{case.name}: {str(reply)[:200]}")
    if case.holds is not None and len(result[case.holds[0]]) < case.holds[1]:
        raise RuntimeError(f"{case.name}: {len(result[case.holds[0]])} {case.holds[0]}")
    return len(content)


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def alone(bench: Bench, case: Case) -> Cost:
    """The cost of a command that goes alone."""
    with bench.client() as client:
        sizes, seconds = [], []
        for number, command in enumerate(islice(case.make(client), ROUNDS)):
            if case.undo is not None:
                ((method, fields),) = case.undo.items()
                client.call(method, **fields)
            if case.change is not None:
                case.change(bench.api, number)
            # What follows on what went before is not measured.
            time.sleep(0.01)
            before = cpu_seconds(bench.worker)
            sizes.append(send_and_wait(client, 900 + number, command, case))
            seconds.append(cpu_seconds(bench.worker) - before)
    return Cost(statistics.mean(seconds), statistics.mean(sizes))


def in_frames(bench: Bench, case: Case) -> Cost:
    """The cost of a command, with the one that undoes it, in frames of many."""
    frames = FRAMES_OF_ERRORS if case.answer == "error" else FRAMES
    size, seconds = 0, 0.0
    numbers = count(1000)
    # What is recovered does not wait until the client has read the answer before: more than 1 MiB is too slow a client.
    number_of_commands = RECOVERIES if case.undo is not None and case.holds is not None else COMMANDS
    with bench.client() as client:
        commands = case.make(client)
        for number in range(frames):
            if case.change is not None:
                case.change(bench.api, number)
            frame: list[Command] = []
            for command in islice(commands, number_of_commands):
                frame += [command] if case.undo is None else [case.undo, command]
            content = client.encoded(*({"id": next(numbers), **command} for command in frame))
            before = cpu_seconds(bench.worker)
            client.write(content)
            refused = client.await_replies(len(frame))
            seconds += cpu_seconds(bench.worker) - before
            size += len(content)
            if refused and case.answer != "error":
                raise RuntimeError(f"{case.name}: {refused} of {len(frame)} commands were refused")
    number_of_all = frames * number_of_commands
    return Cost(seconds / number_of_all, size / number_of_all)


# What costs a connection each time.


def connecting(bench: Bench, *lines: bytes) -> Cost:
    """The cost of a connection that sends these lines as one frame and waits for an answer; all its bytes."""
    payload = b"\n".join(lines)
    seconds, size = [], 0
    for _ in range(ROUNDS):
        before = cpu_seconds(bench.worker)
        with socket.create_connection(("127.0.0.1", bench.service.port), 10) as plain:
            head = (
                b"GET /connection/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            frame = masked(payload)
            plain.sendall(head + frame)
            size = len(head + frame)
            with plain.makefile("rb") as received:
                while received.readline() != b"\r\n":
                    pass
                received.read(frame_size(received.read(10)) - 10)
        bench.service.reported("client_disconnected")
        seconds.append(cpu_seconds(bench.worker) - before)
    return Cost(statistics.mean(seconds), size)


def masked(payload: bytes, *, binary: bool = False) -> bytes:
    """One frame (RFC 6455 section 5.2), masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return (b"\x82" if binary else b"\x81") + length + bytes(4) + payload


def frame_size(start: bytes) -> int:
    """The bytes of a frame that begins with these ten, which are less than it has."""
    size = start[1] & 0x7F
    if size == 126:
        return 4 + int.from_bytes(start[2:4], "big")
    return 10 + int.from_bytes(start[2:10], "big") if size == 127 else 2 + size


def connects(bench: Bench) -> Iterator[tuple[str, Cost]]:
    """Connects, and what ends a connection."""
    token = issue_connection_token(SECRET, "ann", 3600)
    yield "connect", connecting(bench, _compact({"id": 1, "connect": {"token": token}}))
    many = issue_connection_token(SECRET, "ann", 3600, channels=[f"k:{number}" for number in range(128)])
    yield "connect, 128 channels with history", connecting(bench, _compact({"id": 1, "connect": {"token": many}}))
    yield from reconnects(bench)
    yield "connect, a bad token", connecting(bench, b'{"id":1,"connect":{"token":"a.b.c"}}')
    yield "unknown command", connecting(bench, b'{"id":1,"connect":{}}', b'{"id":2,"x":{}}')
    yield "send, no hook", connecting(bench, b'{"id":1,"connect":{}}', b'{"send":{}}')
    yield "invalid JSON", connecting(bench, b"{")
    connect = _compact({"id": 1, "connect": {"token": token}})
    bad = [_compact({"id": 2 + number, "presence": {"channel": ""}}) for number in range(127)]
    yield "128 bad commands in one frame", connecting(bench, connect, *bad)


def reconnects(bench: Bench) -> Iterator[tuple[str, Cost]]:
    """Connects that recover 10 x 1 KB in each of many channels of their token."""
    names = [f"r:{number}" for number in range(RECOVERED)]
    token = issue_connection_token(SECRET, "ann", 3600, channels=names)
    with Conversation("websocket", bench.service.port, {"token": token}) as client:
        found = client.connected()["connect"]["subs"]
    for back in (1, 10):
        since = {
            name: {"recover": True, "epoch": found[name]["epoch"], "offset": found[name]["offset"] - back}
            for name in names
        }
        connect = _compact({"id": 1, "connect": {"token": token, "subs": since}})
        yield f"connect, {RECOVERED} channels, {back} x 1 KB recovered in each", connecting(bench, connect)


def emulated(bench: Bench) -> Iterator[tuple[str, Cost]]:
    """Commands of an emulated session, each by a request of its own on one connection."""
    connect = _compact({"id": 1, "connect": {"token": issue_connection_token(SECRET, "ann", 3600)}})
    cases: tuple[tuple[str, Command], ...] = (
        ("ping", {"ping": {}}),
        ("presence of 600", {"presence": {"channel": "p:p"}}),
        ("history 100 x 1 KB", history()),
        ("rpc, no hook", {"rpc": {"method": "x"}}),
    )
    with JsonStream(bench.service.port, post("/connection/http_stream", connect)) as stream:
        found = stream.reply()["connect"]
        numbers = count(900)
        names = {"session": found["session"], "node": found["node"]}
        for name, command in cases:
            seconds, size = [], 0
            with socket.create_connection(("127.0.0.1", bench.service.port), 10) as plain:
                for _ in range(ROUNDS):
                    # A session takes each id once.
                    number = next(numbers)
                    body = _compact({**names, "data": _compact({"id": number, **command}).decode()})
                    request = post("/emulation", body, "Content-Type: application/json")
                    before = cpu_seconds(bench.worker)
                    plain.sendall(request)
                    plain.recv(65536)
                    while stream.reply().get("id") != number:
                        pass
                    seconds.append(cpu_seconds(bench.worker) - before)
                    size = len(request)
            yield f"emulation: {name}", Cost(statistics.mean(seconds), size)


def rows_of(bench: Bench, only: str) -> Iterator[tuple[str, Cost, Cost | None]]:
    """What is measured on one transport: alone, and in frames where there is such a way."""
    for case in CASES:
        if only in case.name:
            yield case.name, alone(bench, case), in_frames(bench, case)
    if bench.transport == "websocket" and not only:
        for name, cost in (*connects(bench), *emulated(bench)):
            yield name, cost, None


@contextmanager
def serving(directory: Path, redis: str, **more: str) -> Iterator[Starling]:
    """A service of one worker whose budgets are for a whole run."""
    settings = {
        "STARLING_BROKER_URL": redis,
        "STARLING_WORKERS": "1",
        "STARLING_CHANNELS_FILE": str(directory / "channels.json"),
        "STARLING_API_KEYS": KEY,
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_ALLOW_ANONYMOUS": "true",
        "STARLING_MESSAGE_BURST": "10000000",
        "STARLING_NEW_CHANNEL_BURST": "1000000",
        "STARLING_MAX_CHANNELS": "1000",
        # Its clients answer none.
        "STARLING_PING_SECONDS": "3600",
        **more,
    }
    with Starling(settings) as service:
        yield service


def show(table: Table, name: str, cost: Cost, framed: Cost | None) -> None:
    """Add a row."""
    found = [each for each in (cost, framed) if each is not None]
    cells = [
        text
        for each in found
        for text in (f"{each.size:.0f}", f"{each.seconds * 1e6:.0f}", f"{each.micros_a_byte:.1f}")
    ]
    over = (framed or cost).micros_a_byte > WANTED
    table.add_row(name, *cells, *[""] * (6 - len(cells)), f"over {WANTED:.0f}" if over else "")


def table_of(title: str) -> Table:
    """A table without rows."""
    return Table("command", "bytes", "µs alone", "a byte", "bytes", "µs in frames", "a byte", "", title=title)


def main() -> None:
    """Print a table for each transport that is named: `websocket` and `websocket_protobuf` by default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("transports", nargs="*")
    parser.add_argument("--only", default="", help="a part of the names of what is measured")
    options = parser.parse_args()
    transports = options.transports or ("websocket", "websocket_protobuf")
    console = Console(highlight=False, width=120)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        (directory / "channels.json").write_text(json.dumps(CHANNELS))
        redis = stack.enter_context(RedisServer()).url
        tables = {transport: table_of(transport) for transport in transports}
        with serving(directory, redis) as service:
            prepare(Api(service.port))
            for transport, table in tables.items():
                bench = Bench(service, Api(service.port), service.workers[0], transport)
                for row in rows_of(bench, options.only):
                    show(table, *row)
        personal = {"STARLING_SUBSCRIBE_TO_PERSONAL_CHANNEL": "true", "STARLING_PERSONAL_CHANNEL_NAMESPACE": "u"}
        with serving(directory, redis, **personal) as service:
            for transport, table in tables.items():
                bench = Bench(service, Api(service.port), service.workers[0], transport)
                for case in PERSONAL:
                    if options.only in case.name:
                        show(table, case.name, alone(bench, case), in_frames(bench, case))
        for table in tables.values():
            console.print(table)


if __name__ == "__main__":
    main()
