"""One client: its messages are dealt with in order, its end comes once and last, and a flood is held back."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from starling.engine.connection import INBOX_LIMIT, Connection
from starling.engine.transport import Batch, Frame
from starling.telemetry.metrics import Metrics


class Owner:
    """The part of a node that a connection touches."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.names = random.Random()
        self.ping_interval = 25
        self.pong_timeout = 8
        self.messages_per_second = 0.0
        self.message_burst = 1
        self.message_step = 1
        self.closed_with: list[int] = []
        self.settled: list[Connection] = []
        self.tasks: list[asyncio.Task[None]] = []

    def opened(self, connection: Connection) -> None:
        pass

    def closed(self, connection: Connection, code: int) -> None:
        self.closed_with.append(code)

    def settle(self, connection: Connection) -> None:
        self.settled.append(connection)

    def schedule(self, connection: Connection, deadline: float) -> None:
        pass

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))


class Transport:
    """Records what a socket would be told."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.closed_with: tuple[int, str] | None = None
        self.reading = True

    def send_frame(self, frame: Frame) -> None:
        self.frames.append(frame.payload)

    def send_batch(self, batch: Batch) -> None:
        self.frames += [frame.payload for frame in batch.frames]

    queue_batch = send_batch

    def ping(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self, code: int, reason: str = "") -> None:
        self.closed_with = (code, reason)


class Slow(Connection):
    """A door whose work takes a turn of the loop, or longer while `gate` is closed."""

    __slots__ = ("done", "gate")

    kind = "chat"

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner, "alice")
        self.done: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def begin(self) -> None:
        self.done.append("begin")

    async def receive(self, message: str | bytes) -> None:
        await self.gate.wait()
        await asyncio.sleep(0)
        if message == "raise":
            raise RuntimeError("a door's own mistake")
        self.done.append(str(message))

    async def end(self) -> None:
        self.done.append("end")


@pytest.fixture
def owner() -> Owner:
    return Owner()


async def settle(owner: Owner) -> None:
    while any(not task.done() for task in owner.tasks):
        await asyncio.sleep(0)


async def test_messages_are_dealt_with_in_the_order_they_came(owner: Owner) -> None:
    connection = Slow(owner)
    connection.open(Transport())
    for number in range(10):
        connection.on_message(str(number))

    await settle(owner)

    assert connection.done == ["begin", *map(str, range(10))]


async def test_the_end_comes_once_and_after_the_last_message(owner: Owner) -> None:
    connection = Slow(owner)
    connection.open(Transport())
    connection.on_message("last")
    connection.on_close(1000, "")

    await settle(owner)

    assert connection.done == ["begin", "last", "end"]
    assert owner.closed_with == [1000]


async def test_the_end_comes_once_when_nothing_is_under_way(owner: Owner) -> None:
    connection = Slow(owner)
    connection.open(Transport())
    await settle(owner)
    connection.on_close(1001, "")

    await settle(owner)

    assert connection.done == ["begin", "end"]


async def test_reading_stops_while_too_many_messages_wait_and_goes_on_afterwards(owner: Owner) -> None:
    connection = Slow(owner)
    transport = Transport()
    connection.open(transport)
    await settle(owner)
    connection.gate.clear()
    for number in range(INBOX_LIMIT + 1):
        connection.on_message(str(number))
    assert not transport.reading

    connection.gate.set()
    await settle(owner)

    assert transport.reading
    assert len(connection.done) == INBOX_LIMIT + 2


async def test_a_door_that_raises_closes_its_own_client(owner: Owner) -> None:
    connection = Slow(owner)
    transport = Transport()
    connection.open(transport)

    connection.on_message("raise")
    await settle(owner)

    assert transport.closed_with == (1011, "internal server error")


async def test_one_message_more_than_the_burst_is_closed_with_1008_and_not_dealt_with(owner: Owner) -> None:
    owner.messages_per_second, owner.message_burst = 0.001, 3
    connection = Slow(owner)
    transport = Transport()
    connection.open(transport)
    for number in range(3):
        connection.on_message(str(number))
    assert transport.closed_with is None

    connection.on_message("one too many")

    assert transport.closed_with == (1008, "too many messages")
    await settle(owner)
    assert connection.done == ["begin", "0", "1", "2"]
    assert owner.metrics.refused["message_rate"] == 1


async def test_what_a_client_did_not_send_for_a_while_it_may_send_again(owner: Owner) -> None:
    owner.messages_per_second, owner.message_burst = 50, 3
    connection = Slow(owner)
    transport = Transport()
    connection.open(transport)
    for _ in range(2):
        for number in range(3):
            connection.on_message(str(number))
        await asyncio.sleep(0.1)
    assert transport.closed_with is None
    await settle(owner)


async def test_a_rate_that_is_looked_at_in_steps_is_passed_by_one_step_at_most(owner: Owner) -> None:
    owner.messages_per_second, owner.message_burst, owner.message_step = 0.001, 1000, 10
    connection = Slow(owner)
    transport = Transport()
    connection.open(transport)
    sent = 0
    while transport.closed_with is None:
        connection.on_message("m")
        sent += 1
    assert 1000 < sent <= 1010
    await settle(owner)


async def test_a_slow_reader_is_closed_with_1013(owner: Owner) -> None:
    connection = Slow(owner)
    transport = Transport()
    connection.open(transport)

    connection.on_overflow()

    assert transport.closed_with == (1013, "slow")
    await settle(owner)


async def test_shutdown_says_1012(owner: Owner) -> None:
    connection = Slow(owner)
    transport = Transport()
    connection.open(transport)

    connection.on_shutdown()

    assert transport.closed_with == (1012, "shutdown")
    await settle(owner)


async def test_bytes_are_counted_as_they_travel(owner: Owner) -> None:
    connection = Slow(owner)
    connection.open(Transport())

    connection.on_message("é")
    connection.on_message(b"\x00\x01\x02")
    connection.reply_text("ü!")
    await settle(owner)

    stats = owner.metrics.transports["chat"]
    assert (stats.messages_in, stats.bytes_in) == (2, 2 + 3)
    assert (stats.messages_out, stats.bytes_out) == (1, 3)
