"""The load generator must notice what a server does wrong, or its zeros mean nothing."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from tests.bench.load_generator import (
    SOURCES,
    LoadFailedError,
    LoadGenerator,
    Target,
    compile_program,
    compiler_missing,
)
from tests.support.waiting import DEADLINE

CLIENTS = 5
MESSAGES = 40

# What a server sends to its clients for one message, by the message's number and the client's; none: nothing.
Misdeed = Callable[[int, int, str], list[str]]


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled generator."""
    if missing := compiler_missing():
        pytest.skip(missing)
    return compile_program(SOURCES, tmp_path_factory.mktemp("generator") / "generator", ["-lz"])


@contextmanager
def chat(misdeed: Misdeed, *, pause: float = 0.0, **options: Any) -> Iterator[int]:
    """A chat server that sends what `misdeed` says, after `pause` seconds; gives its port. Client 0 came first.

    `options` are for websockets' `serve`.
    """
    ports: list[int] = []
    started = threading.Event()
    stop: asyncio.Event
    loop: asyncio.AbstractEventLoop

    async def run() -> None:
        nonlocal stop, loop
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        members: list[ServerConnection] = []

        async def member(socket: ServerConnection) -> None:
            members.append(socket)
            async for text in socket:
                await asyncio.sleep(pause)
                for place, other in enumerate(members):
                    for reported in misdeed(int(str(text)[2:12]), place, str(text)):
                        await other.send(reported)

        async with serve(member, "127.0.0.1", 0, **({"compression": None} | options)) as server:
            ports.append(next(iter(server.sockets)).getsockname()[1])
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert started.wait(DEADLINE)
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def faithful(_number: int, _place: int, text: str) -> list[str]:
    """What a good server does."""
    return [text]


def publish(generator: Path, port: int) -> LoadGenerator:
    """Forty messages to five clients, one after the other; the publisher is the server's client 0."""
    with LoadGenerator(generator, Target(port), CLIENTS) as load:
        load.open(CLIENTS)
        load.probe()
        load.drop(CLIENTS)
        load.publish(128, MESSAGES, in_flight=4)
        load.fan_out(128, in_flight=2, warm=0.05, seconds=0.2)
        return load


def test_what_is_delivered_faithfully_is_whole(generator: Path) -> None:
    with chat(faithful) as port, LoadGenerator(generator, Target(port), CLIENTS) as load:
        opened = load.open(CLIENTS)
        load.probe()
        window = load.fan_out(1024, in_flight=2, warm=0.05, seconds=0.3)
    assert opened.deliveries == CLIENTS
    assert window.deliveries > 10 * CLIENTS
    assert 0 < window.generator_seconds < 0.3
    assert load.integrity.whole, load.integrity


def test_compressed_messages_are_read(generator: Path) -> None:
    with chat(faithful, compression="deflate") as port:
        target = Target(port, deflate=True)
        with LoadGenerator(generator, target, CLIENTS) as load:
            load.open(CLIENTS)
            load.probe()
            window = load.fan_out(1024, in_flight=2, warm=0.05, seconds=0.3)
    assert window.deliveries > 10 * CLIENTS
    assert load.integrity.whole, load.integrity


def test_a_message_that_one_client_does_not_get_is_lost(generator: Path) -> None:
    def lose(number: int, place: int, text: str) -> list[str]:
        return [] if (number, place) == (MESSAGES + 3, 2) else [text]

    with chat(lose) as port:
        integrity = publish(generator, port).integrity
    assert integrity.lost == 1
    assert (integrity.duplicated, integrity.out_of_order) == (0, 0)


def test_a_message_that_comes_twice_is_duplicated(generator: Path) -> None:
    def repeat(number: int, place: int, text: str) -> list[str]:
        return [text, text] if (number, place) == (MESSAGES + 3, 2) else [text]

    with chat(repeat) as port:
        integrity = publish(generator, port).integrity
    assert integrity.duplicated == 1
    assert (integrity.lost, integrity.out_of_order) == (0, 0)


def test_messages_that_change_places_are_out_of_order(generator: Path) -> None:
    held: list[str] = []

    def swap(number: int, place: int, text: str) -> list[str]:
        if (number, place) == (MESSAGES + 3, 2):
            held.append(text)
            return []
        return [text, held.pop()] if held and place == 2 else [text]

    with chat(swap) as port:
        integrity = publish(generator, port).integrity
    assert integrity.out_of_order == 1
    assert (integrity.lost, integrity.duplicated) == (0, 0)


def test_an_altered_byte_is_noticed(generator: Path) -> None:
    def alter(number: int, place: int, text: str) -> list[str]:
        wrong = text[:60] + ("y" if text[60] == "x" else "x") + text[61:]
        return [wrong] if (number, place) == (MESSAGES + 3, 2) else [text]

    with chat(alter) as port:
        integrity = publish(generator, port).integrity
    assert integrity.corrupted == 1


def test_latency_is_no_shorter_than_the_server_takes(generator: Path) -> None:
    with chat(faithful, pause=0.05) as port, LoadGenerator(generator, Target(port), CLIENTS) as load:
        load.open(CLIENTS)
        load.probe()
        window = load.rate(128, per_second=10, warm=0.1, seconds=1.0)
    assert 50 <= window.p50 <= window.p99


def test_each_client_gets_its_own_back(generator: Path) -> None:
    # Without a publisher, a lone client receives its own messages only.
    with chat(faithful) as port, LoadGenerator(generator, Target(port, publisher=False), 1) as load:
        load.open(1)
        window = load.own(128, in_flight=1, warm=0.05, seconds=0.2)
    assert window.deliveries > 10
    assert load.integrity.whole, load.integrity


async def refuse(_connection: object, request: Request) -> Response:
    """Turn every client away."""
    return Response(503, "Service Unavailable", Headers({"Retry-After": "5"}), b"")


def test_a_refused_upgrade_is_reported_in_the_servers_words(generator: Path) -> None:
    reported = pytest.raises(LoadFailedError, match="503 Service Unavailable")
    with chat(faithful, process_request=refuse) as port, LoadGenerator(generator, Target(port), 1) as load, reported:
        load.open(1)
