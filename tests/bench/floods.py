"""What clients that flood the costliest commands reach, with the limits of production: `python -m tests.bench.floods`.

One worker over a real Redis with the default limits. One user floods each command for some seconds, from one connection
and from 100, as many as a user may have in a worker; what is disconnected connects again. Printed is the CPU time
of the worker as a share of one core, and how many pings of another client were answered meanwhile, and how fast,
compared with the same time without a flood. Bytes are sent once the kernel has taken them.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from starling.auth.issue import issue_connection_token
from starling.protocol.codes import DISCONNECT_TOO_MANY_REQUESTS
from tests.bench.command_cases import CHANNELS, MANY, RED, Command, history, prepare, subscribe, unsubscribe
from tests.bench.command_costs import COMMANDS, masked
from tests.bench.process import cpu_seconds
from tests.bench.reading import KEY, SECRET, Api
from tests.support.conversation import Conversation, encoded_commands
from tests.support.running import Starling
from tests.support.services import RedisServer

SECONDS = 5.0
CONNECTIONS = (1, 100)
# How the close frame of too many commands begins its payload (RFC 6455 section 5.5.1).
TOO_MANY = DISCONNECT_TOO_MANY_REQUESTS.code.to_bytes(2, "big")
FLOODS: dict[str, tuple[Sequence[Command], Sequence[Command]]] = {
    "nothing": ((), ()),
    "ping": ((), ({"ping": {}},)),
    "presence of 600": ((), ({"presence": {"channel": "p:p"}},)),
    "history, 30 channels in turn": ((), [history(f"k:{number}") for number in range(MANY)]),
    "history, a filter nothing passes": ((subscribe("l:l", tf=RED),), ({"history": {"channel": "l:l", "limit": 1}},)),
    "subscribe and unsubscribe": ((), (subscribe("k:s"), unsubscribe("k:s"))),
}
"""What is sent once a connection, and what is sent in turn then."""


@dataclass
class Sent:
    """What the clients of a flood did."""

    until: float
    sent: int = 0
    received: int = 0
    disconnected: int = 0


@dataclass
class Pings:
    """The pings of a client that floods nothing, one after another."""

    seconds: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self, client: Conversation) -> None:
        """Ping until it is over."""
        while not self.over.wait(0.02):
            before = time.monotonic()
            client.call("ping")
            self.seconds.append(time.monotonic() - before)


def head(protobuf: bool) -> bytes:
    """An upgrade request."""
    protocol = b"Sec-WebSocket-Protocol: centrifuge-protobuf\r\n" if protobuf else b""
    return (
        b"GET /connection/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%b\r\n" % protocol
    )


async def flood(port: int, first: bytes, frames: Sequence[bytes], flooded: Sent) -> None:
    """Send frames as fast as they are taken, and read all that comes; connect again when disconnected."""
    while time.monotonic() < flooded.until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        gone = asyncio.create_task(discard(reader, flooded))
        with contextlib.suppress(ConnectionError):
            writer.write(first)
            for frame in cycle(frames):
                if gone.done() or time.monotonic() >= flooded.until:
                    break
                writer.write(frame)
                # A client that is not read any more waits for the end.
                taken = asyncio.ensure_future(writer.drain())
                left = max(0.0, flooded.until - time.monotonic())
                await asyncio.wait((taken, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if taken.done():
                    taken.result()
                    flooded.sent += len(frame)
                taken.cancel()
                await asyncio.sleep(0)
        flooded.disconnected += time.monotonic() < flooded.until
        gone.cancel()
        writer.close()


async def discard(reader: asyncio.StreamReader, flooded: Sent) -> None:
    """Read until the connection ends, or is disconnected for too many commands."""
    with contextlib.suppress(ConnectionError):
        while content := await reader.read(2**18):
            flooded.received += len(content)
            if TOO_MANY in content[-64:]:
                return


def framed(protobuf: bool, commands: Sequence[Command], numbers: Iterator[int]) -> list[bytes]:
    """Frames of many commands; enough of them to send all in turn."""
    endless = cycle(commands)
    portions = [list(islice(endless, COMMANDS)) for _ in range(len(commands))]
    return [
        masked(
            encoded_commands([{"id": next(numbers), **each} for each in portion], protobuf=protobuf), binary=protobuf
        )
        for portion in portions
    ]


def settle(worker: int) -> None:
    """Wait until the worker has read what was flooded."""
    for _ in range(60):
        before = cpu_seconds(worker)
        time.sleep(1)
        if cpu_seconds(worker) - before < 0.1:
            return


def measure(service: Starling, name: str, connections: int, *, protobuf: bool) -> list[str]:
    """The cells of one row."""
    once, commands = FLOODS[name]
    token = issue_connection_token(SECRET, "flooder", 3600)
    numbers = count(10)
    start = encoded_commands([{"id": 1, "connect": {"token": token}}], protobuf=protobuf)
    first = head(protobuf) + masked(start, binary=protobuf)
    if once:
        named = [{"id": next(numbers), **each} for each in once]
        first += masked(encoded_commands(named, protobuf=protobuf), binary=protobuf)
    frames = framed(protobuf, commands, numbers) if commands else []
    pings, (worker,) = Pings(), service.workers
    other = {"token": issue_connection_token(SECRET, "other", 3600)}
    with Conversation("websocket", service.port, other) as client:
        client.connected()
        pinging = threading.Thread(target=pings.run, args=(client,))
        pinging.start()
        before, began = cpu_seconds(worker), time.monotonic()
        flooded = Sent(began + SECONDS)

        async def all_of_them() -> None:
            if frames:
                await asyncio.gather(*(flood(service.port, first, frames, flooded) for _ in range(connections)))
            else:
                await asyncio.sleep(SECONDS)

        asyncio.run(all_of_them())
        spent, seconds = cpu_seconds(worker) - before, time.monotonic() - began
        pings.over.set()
        pinging.join()
    settle(worker)
    waited = sorted(pings.seconds)
    return [
        f"{flooded.sent / 1024 / seconds:.0f}",
        f"{flooded.received / 1024 / seconds:.0f}",
        f"{flooded.disconnected}",
        f"{100 * spent / seconds:.0f} %",
        f"{len(waited)}",
        f"{statistics.median(waited) * 1000:.1f}",
        f"{waited[-1] * 1000:.0f}",
    ]


def main() -> None:
    """Print a table for each format."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="a part of the name of a flood")
    options = parser.parse_args()
    console = Console(highlight=False, width=140)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        (directory / "channels.json").write_text(json.dumps(CHANNELS))
        settings = {
            "STARLING_BROKER_URL": stack.enter_context(RedisServer()).url,
            "STARLING_WORKERS": "1",
            "STARLING_CHANNELS_FILE": str(directory / "channels.json"),
            "STARLING_API_KEYS": KEY,
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
        }
        service = stack.enter_context(Starling(settings))
        prepare(Api(service.port))
        # What floods takes no CPU time that the worker wants.
        os.nice(10)
        for protobuf in (False, True):
            columns = ("KiB/s sent", "KiB/s got", "disconnected", "CPU", "pings", "median ms", "most ms")
            table = Table("flood", "connections", *columns, title="Protobuf" if protobuf else "JSON")
            for name in FLOODS:
                for connections in CONNECTIONS if name != "nothing" else (0,):
                    if options.only in name:
                        table.add_row(name, str(connections), *measure(service, name, connections, protobuf=protobuf))
            console.print(table)


if __name__ == "__main__":
    main()
