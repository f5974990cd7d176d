"""One client: its messages are handled in order, its end comes once and last, and a flood is cut."""

import asyncio

import pytest

from starling.client.sequential import INBOX_LIMIT, SequentialConnection
from starling.engine.engine import Engine
from starling.engine.options import EngineOptions
from tests.support.engines import memory_engine
from tests.support.fake_receivers import DATA, RecordingTransport


class Slow(SequentialConnection):
    """An endpoint whose work takes a turn of the loop, or longer while `gate` is closed."""

    __slots__ = ("done", "gate")

    kind = "chat"
    encoder = DATA

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "alice")
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
def engine() -> Engine:
    return memory_engine()


async def settle(connection: Slow) -> None:
    """Wait until the connection has no work under way."""
    while connection._working:
        await asyncio.sleep(0)


async def test_messages_are_dealt_with_in_the_order_they_came(engine: Engine) -> None:
    connection = Slow(engine)
    connection.open(RecordingTransport())
    for number in range(10):
        connection.on_message(str(number))

    await settle(connection)

    assert connection.done == ["begin", *map(str, range(10))]


async def test_the_end_comes_once_and_after_the_last_message(engine: Engine) -> None:
    connection = Slow(engine)
    connection.open(RecordingTransport())
    connection.on_message("last")
    connection.on_close(1000, "")

    await settle(connection)

    assert connection.done == ["begin", "last", "end"]
    assert connection.close_code == 1000
    assert connection.stats.closed[1000] == 1


async def test_the_end_comes_once_when_nothing_is_under_way(engine: Engine) -> None:
    connection = Slow(engine)
    connection.open(RecordingTransport())
    await settle(connection)
    connection.on_close(1001, "")

    await settle(connection)

    assert connection.done == ["begin", "end"]


async def test_reading_stops_while_too_many_messages_wait_and_goes_on_afterwards(engine: Engine) -> None:
    connection = Slow(engine)
    transport = RecordingTransport()
    connection.open(transport)
    await settle(connection)
    connection.gate.clear()
    for number in range(INBOX_LIMIT + 1):
        connection.on_message(str(number))
    assert not transport.reading

    connection.gate.set()
    await settle(connection)

    assert transport.reading
    assert len(connection.done) == INBOX_LIMIT + 2


async def test_an_endpoint_that_raises_closes_its_own_client(engine: Engine) -> None:
    connection = Slow(engine)
    transport = RecordingTransport()
    connection.open(transport)

    connection.on_message("raise")
    await settle(connection)

    assert transport.closed_with == (1011, "internal server error")


async def test_one_message_more_than_the_burst_is_closed_with_1008_and_not_dealt_with() -> None:
    engine = memory_engine(options=EngineOptions(messages_per_second=0.001, message_burst=3))
    connection = Slow(engine)
    transport = RecordingTransport()
    connection.open(transport)
    for number in range(3):
        connection.on_message(str(number))
    assert transport.closed_with is None

    connection.on_message("one too many")

    assert transport.closed_with == (1008, "too many messages")
    await settle(connection)
    assert connection.done == ["begin", "0", "1", "2"]
    assert engine.metrics.refused["message_rate"] == 1


async def test_what_a_client_did_not_send_for_a_while_it_may_send_again() -> None:
    engine = memory_engine(options=EngineOptions(messages_per_second=50, message_burst=3))
    connection = Slow(engine)
    transport = RecordingTransport()
    connection.open(transport)
    for _ in range(2):
        for number in range(3):
            connection.on_message(str(number))
        await asyncio.sleep(0.1)
    assert transport.closed_with is None
    await settle(connection)


async def test_a_rate_that_is_looked_at_in_steps_is_passed_by_one_step_at_most() -> None:
    engine = memory_engine(options=EngineOptions(messages_per_second=0.001, message_burst=1000))
    connection = Slow(engine)
    transport = RecordingTransport()
    connection.open(transport)
    sent = 0
    while transport.closed_with is None:
        connection.on_message("m")
        sent += 1
    assert 1000 < sent <= 1010
    await settle(connection)


async def test_a_slow_reader_is_closed_with_1013(engine: Engine) -> None:
    connection = Slow(engine)
    transport = RecordingTransport()
    connection.open(transport)

    connection.on_overflow()

    assert transport.closed_with == (1013, "slow")
    await settle(connection)


async def test_shutdown_says_1012(engine: Engine) -> None:
    connection = Slow(engine)
    transport = RecordingTransport()
    connection.open(transport)

    connection.on_shutdown()

    assert transport.closed_with == (1012, "shutdown")
    await settle(connection)


async def test_bytes_are_counted_as_they_travel(engine: Engine) -> None:
    connection = Slow(engine)
    connection.open(RecordingTransport())

    connection.on_message("é")
    connection.on_message(b"\x00\x01\x02")
    connection.reply_text("ü!")
    await settle(connection)

    stats = engine.metrics.transports["chat"]
    assert (stats.messages_in, stats.bytes_in) == (2, 2 + 3)
    assert (stats.messages_out, stats.bytes_out) == (1, 3)
