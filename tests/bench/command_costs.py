"""What each command costs a worker for each byte that a client sends: `python -m tests.bench.command_costs`.

One worker over a real Redis, and the CPU time of all its threads. Each command goes alone and waits for its answer,
which costs most; the bytes are the command's own, and for a connect or a request of the emulation all that is sent.
Reads are those that a client with bad intentions chooses: short names, new limits, positions and directions, filters
that nothing passes, channels in turn, so that what was read before is of little use.
"""

import json
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from starling.auth.issue import issue_connection_token, issue_subscription_token
from tests.bench.process import cpu_seconds
from tests.bench.reading import KEY, SECRET, WANTED, Api
from tests.support.conversation import Conversation
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.streams import JsonStream, post

ROUNDS = 20
MEMBERS = 600
PUBLICATIONS = 100
# Channels that a client reads in turn: more than a worker remembers.
MANY = 30
CHANNELS = {
    "default": {
        "allow_subscribe_for_client": True,
        "allow_publish_for_client": True,
        "allow_user_limited_channels": True,
    },
    "namespaces": {
        "p": {"presence": True, "allow_subscribe_for_client": True, "allow_presence_for_client": True},
        "k": {
            "history_size": PUBLICATIONS,
            "history_ttl": "600s",
            "force_recovery": True,
            "presence": True,
            "join_leave": True,
            "allow_subscribe_for_client": True,
            "allow_publish_for_client": True,
            "allow_history_for_client": True,
            "allow_tags_filter": True,
            "allowed_delta_types": ["fossil"],
        },
        "l": {
            "history_size": 1000,
            "history_ttl": "600s",
            "allow_subscribe_for_client": True,
            "allow_history_for_client": True,
            "allow_tags_filter": True,
        },
        "s": {"stream": "text", "allow_subscribe_for_client": True, "allow_history_for_client": True},
    },
}
RED = {"key": "color", "cmp": "eq", "val": "red"}


@dataclass
class Bench:
    """What the cases use: the service, its API, and clients."""

    service: Starling
    api: Api
    worker: int
    transport: str

    @contextmanager
    def client(self, user: str = "ann", **request: Any) -> Iterator[Conversation]:
        """A client that is connected."""
        token = {"token": issue_connection_token(SECRET, user, 3600)} if user else {}
        with Conversation(self.transport, self.service.port, {**token, **request}) as client:
            client.connected()
            yield client


Command = dict[str, Any]
# Makes the next command to measure; what it does before is not measured.
Next = Callable[[], Command]


@dataclass
class Case:
    """A kind of command, and what answers it: the field of the reply and how much it holds at least."""

    name: str
    make: Callable[[Bench, Conversation], Next]
    answer: str
    holds: tuple[str, int] | None = None


def same(**command: Any) -> Callable[[Bench, Conversation], Next]:
    """The same command each time."""
    return lambda bench, client: lambda: command


def after(
    change: Callable[[Bench, Conversation, int], object], **command: Any
) -> Callable[[Bench, Conversation], Next]:
    """The same command each time, after something changed."""

    def make(bench: Bench, client: Conversation) -> Next:
        serial = count()

        def following() -> Command:
            change(bench, client, next(serial))
            return command

        return following

    return make


def in_turn(*commands: Command) -> Callable[[Bench, Conversation], Next]:
    """These commands, again and again."""
    return lambda bench, client: cycle(commands).__next__


def refreshing(bench: Bench, client: Conversation) -> Next:
    """Refreshes with new tokens."""
    serial = count(100)
    return lambda: {"refresh": {"token": issue_connection_token(SECRET, "ann", 3600 + next(serial))}}


def renewing(bench: Bench, client: Conversation) -> Next:
    """Refreshes of a subscription with new tokens."""

    def token(ttl: int) -> str:
        return issue_subscription_token(SECRET, "ann", "t", ttl)

    serial = count(100)
    client.call("subscribe", channel="t", token=token(3600))
    return lambda: {"sub_refresh": {"channel": "t", "token": token(3600 + next(serial))}}


def scanning(bench: Bench, client: Conversation) -> Next:
    """History through a filter that nothing passes."""
    client.call("subscribe", channel="l:l", tf=RED)
    return lambda: {"history": {"channel": "l:l", "limit": 1}}


def paging(bench: Bench, client: Conversation) -> Next:
    """Pages that follow positions."""
    top = client.call("history", channel="k:k", limit=0)["history"]
    offsets = cycle(range(top["offset"] - PUBLICATIONS, top["offset"] - 50))
    return lambda: {
        "history": {"channel": "k:k", "limit": -1, "since": {"offset": next(offsets), "epoch": top["epoch"]}}
    }


def recovering(channel: str, back: int) -> Callable[[Bench, Conversation], Next]:
    """Subscriptions that recover what is `back` behind the top."""

    def make(bench: Bench, client: Conversation) -> Next:
        top = client.call("subscribe", channel=channel)["subscribe"]
        since = {"recover": True, "epoch": top["epoch"], "offset": max(0, top.get("offset", 0) - back)}

        def following() -> Command:
            client.call("unsubscribe", channel=channel)
            return {"subscribe": {"channel": channel, **since}}

        return following

    return make


def unsubscribe(channel: str) -> Callable[[Bench, Conversation, int], object]:
    """Unsubscribe before."""
    return lambda bench, client, number: client.call("unsubscribe", channel=channel)


def subscribe(channel: str) -> Callable[[Bench, Conversation, int], object]:
    """Subscribe before."""
    return lambda bench, client, number: client.call("subscribe", channel=channel)


def published(bench: Bench, client: Conversation, number: int) -> None:
    """Publish to `k:k` before."""
    bench.api.call("publish", {"channel": "k:k", "data": str(number).ljust(1000, "x")})


def member(bench: Bench, client: Conversation, number: int) -> None:
    """Change a member of `p:p` before."""
    bench.api.call("presence_set", {"channel": "p:p", "user": "u0", "info": {"name": str(number)}, "ttl": 3600})


def history(channel: str = "k:k", limit: int = PUBLICATIONS, **more: Any) -> Command:
    """A `history` command."""
    return {"history": {"channel": channel, "limit": limit, **more}}


WHOLE = ("publications", PUBLICATIONS - 1)
CASES = (
    Case("ping", same(ping={}), "id"),
    Case("unsubscribe, not subscribed", same(unsubscribe={"channel": "a"}), "unsubscribe"),
    Case("publish", same(publish={"channel": "a", "data": 1}), "publish"),
    Case("publish, history", same(publish={"channel": "k:p", "data": 1}), "publish"),
    Case("subscribe", after(unsubscribe("a"), subscribe={"channel": "a"}), "subscribe"),
    Case("subscribe, a list `#a,b`", after(unsubscribe("#ann,b"), subscribe={"channel": "#ann,b"}), "subscribe"),
    Case("subscribe, history, presence, joins", after(unsubscribe("k:s"), subscribe={"channel": "k:s"}), "subscribe"),
    Case("unsubscribe", after(subscribe("k:s"), unsubscribe={"channel": "k:s"}), "unsubscribe"),
    Case("subscribe, 100 x 1 KB recovered", recovering("k:k", PUBLICATIONS), "subscribe", ("publications", 99)),
    Case("subscribe, a stream's catch-up", recovering("s:s", PUBLICATIONS), "subscribe", ("publications", 1)),
    Case("refresh", refreshing, "refresh"),
    Case("sub_refresh", renewing, "sub_refresh"),
    Case("rpc, no hook", same(rpc={"method": "x"}), "error"),
    Case("presence, refused", same(presence={"channel": "a"}), "error"),
    Case("presence_stats", same(presence_stats={"channel": "p:p"}), "presence_stats"),
    Case("presence of 600", same(presence={"channel": "p:p"}), "presence", ("presence", MEMBERS)),
    Case("presence of 600, changed", after(member, presence={"channel": "p:p"}), "presence", ("presence", MEMBERS)),
    Case("history 100 x 1 KB", same(**history()), "history", WHOLE),
    Case("history, one more", after(published, **history()), "history", WHOLE),
    Case(
        "history, other limits and directions",
        in_turn(*(history(limit=limit, reverse=reverse) for limit in (99, 100) for reverse in (True, False))),
        "history",
        WHOLE,
    ),
    Case("history, since", paging, "history", ("publications", 50)),
    Case("history, 30 channels in turn", in_turn(*(history(f"k:{n}") for n in range(MANY))), "history", WHOLE),
    Case("history, a filter nothing passes", scanning, "history"),
    Case("history, a stream", same(**history("s:s")), "history", ("publications", 1)),
)


def send_and_wait(client: Conversation, number: int, command: Command, case: Case) -> int:
    """Send a command and check its answer; returns the bytes that were sent."""
    (method,) = command
    named = {"id": number, **command}
    content = client.encoded(named) if client.protobuf else _compact(named)
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


def cost(bench: Bench, case: Case) -> tuple[float, float]:
    """Mean CPU seconds of a command, and its bytes."""
    with bench.client() as client:
        following = case.make(bench, client)
        sizes, seconds = [], []
        for number in range(ROUNDS):
            command = following()
            # What follows on what went before is not measured.
            time.sleep(0.01)
            before = cpu_seconds(bench.worker)
            sizes.append(send_and_wait(client, 900 + number, command, case))
            seconds.append(cpu_seconds(bench.worker) - before)
    return statistics.mean(seconds), statistics.mean(sizes)


# What costs a connection each time.


def connecting(bench: Bench, *lines: bytes) -> tuple[float, float]:
    """Mean CPU seconds of a connection that sends these lines as one frame and waits for an answer; all its bytes."""
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
            received = b""
            # The head of the response, and one frame behind it.
            while not received.partition(b"\r\n\r\n")[2]:
                received += plain.recv(65536)
        bench.service.reported("client_disconnected")
        seconds.append(cpu_seconds(bench.worker) - before)
    return statistics.mean(seconds), size


def masked(payload: bytes) -> bytes:
    """One frame (RFC 6455 section 5.2), masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload


def connects(bench: Bench) -> Iterator[tuple[str, tuple[float, float]]]:
    """Connects, and what ends a connection."""
    token = issue_connection_token(SECRET, "ann", 3600)
    yield "connect", connecting(bench, _compact({"id": 1, "connect": {"token": token}}))
    many = issue_connection_token(SECRET, "ann", 3600, channels=[f"k:{number}" for number in range(128)])
    yield "connect, 128 channels with history", connecting(bench, _compact({"id": 1, "connect": {"token": many}}))
    yield "connect, a bad token", connecting(bench, b'{"id":1,"connect":{"token":"a.b.c"}}')
    yield "unknown command", connecting(bench, b'{"id":1,"connect":{}}', b'{"id":2,"x":{}}')
    yield "send, no hook", connecting(bench, b'{"id":1,"connect":{}}', b'{"send":{}}')
    yield "invalid JSON", connecting(bench, b"{")
    connect = _compact({"id": 1, "connect": {"token": token}})
    bad = [_compact({"id": 2 + number, "presence": {"channel": ""}}) for number in range(127)]
    yield "128 bad commands in one frame", connecting(bench, connect, *bad)


def emulated(bench: Bench) -> Iterator[tuple[str, tuple[float, float]]]:
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
            yield f"emulation: {name}", (statistics.mean(seconds), size)


def prepare(api: Api) -> None:
    """Fill the channels that are read."""
    for number in range(MEMBERS):
        info = {"name": f"User number {number}"}
        api.call("presence_set", {"channel": "p:p", "user": f"u{number}", "info": info, "ttl": 3600})
    data = "x" * 1000
    names = ["k:k", *(f"k:{number}" for number in range(MANY))]
    for _ in range(PUBLICATIONS):
        api.call("broadcast", {"channels": names, "data": data, "tags": {"color": "blue"}})
    for _ in range(1000):
        api.call("publish", {"channel": "l:l", "data": data, "tags": {"color": "blue"}})
    api.call("stream_open", {"channel": "s:s"})
    for _ in range(PUBLICATIONS):
        api.call("stream_append", {"channel": "s:s", "text": data})


def main() -> None:
    """Print a table for each transport named as an argument: `websocket` and `websocket_protobuf` by default."""
    console = Console(highlight=False, width=110)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        (directory / "channels.json").write_text(json.dumps(CHANNELS))
        settings = {
            "STARLING_BROKER_URL": stack.enter_context(RedisServer()).url,
            "STARLING_WORKERS": "1",
            "STARLING_CHANNELS_FILE": str(directory / "channels.json"),
            "STARLING_API_KEYS": KEY,
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_ALLOW_ANONYMOUS": "true",
            # Each connection's budgets are for a whole run.
            "STARLING_MESSAGE_BURST": "10000000",
            "STARLING_NEW_CHANNEL_BURST": "1000000",
            "STARLING_MAX_CHANNELS": "1000",
        }
        service = stack.enter_context(Starling(settings))
        (worker,) = service.workers
        prepare(Api(service.port))
        for transport in sys.argv[1:] or ("websocket", "websocket_protobuf"):
            bench = Bench(service, Api(service.port), worker, transport)
            table = Table("command", "bytes", "µs of CPU", "a byte", "", title=transport)
            rows = [(case.name, cost(bench, case)) for case in CASES]
            if transport == "websocket":
                rows += [*connects(bench), *emulated(bench)]
            for name, (seconds, size) in rows:
                micros = seconds * 1e6
                verdict = "" if micros / size <= WANTED else f"over {WANTED:.0f}"
                table.add_row(name, f"{size:.0f}", f"{micros:.0f}", f"{micros / size:.1f}", verdict)
            console.print(table)


if __name__ == "__main__":
    main()
