"""The local half of a fan-out: which receivers get what, and how often a frame is made."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from msgspec import Raw

from starling.engine.hub import Hub
from starling.protocol.codes import DISCONNECT_INAPPROPRIATE_PROTOCOL, CommandRefused
from starling.protocol.messages import Batch, ClientInfo, Frame, Leave, Publication, Push
from starling.telemetry.metric_list import DELIVERY_BUCKETS
from starling.telemetry.metrics import Distribution, TransportStats
from tests.support.fake_receivers import FakeReceiver, RecordingTransport


class BinaryEncoder:
    """Another format."""

    def encode_push(self, push: Push) -> Frame:
        assert push.pub is not None
        return Frame(b"\x01" + bytes(push.pub.data), text=False)


class PickyEncoder:
    """A format that can carry nothing."""

    def encode_push(self, push: Push) -> Frame:
        raise CommandRefused(DISCONNECT_INAPPROPRIATE_PROTOCOL)


class BinaryClient(FakeReceiver):
    """Reads the other format."""

    encoder = BinaryEncoder()


class PickyClient(FakeReceiver):
    """Can read nothing."""

    encoder = PickyEncoder()


HELLO = Publication(data=Raw(b"hello"))


async def written() -> None:
    """Wait until what was broadcast is written."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_first_subscriber_and_the_last_are_reported() -> None:
    hub = Hub()
    one, two = FakeReceiver(), BinaryClient()

    assert hub.subscribers.add("room", one)
    assert not hub.subscribers.add("room", two)
    assert not hub.subscribers.remove("room", one)
    assert hub.subscribers.remove("room", two)
    assert hub.subscribers.channels == {}


def test_leaving_twice_or_unasked_is_nothing() -> None:
    hub = Hub()
    one, two = FakeReceiver(), FakeReceiver()
    hub.subscribers.add("room", one)

    assert not hub.subscribers.remove("room", two)
    assert not hub.subscribers.remove("other", one)
    assert hub.subscribers.remove("room", one)
    assert not hub.subscribers.remove("room", one)


async def test_a_frame_is_made_once_for_all_who_read_the_same_format() -> None:
    hub = Hub()
    clients = [FakeReceiver() for _ in range(3)]
    for client in clients:
        hub.subscribers.add("room", client)

    hub.broadcast("room", HELLO)
    await written()

    assert len({id(client.frames[0]) for client in clients}) == 1


async def test_each_format_gets_its_own_frame() -> None:
    hub = Hub()
    text, binary = FakeReceiver(), BinaryClient()
    hub.subscribers.add("room", text)
    hub.subscribers.add("room", binary)

    hub.broadcast("room", HELLO)
    await written()

    assert [frame.payload for frame in text.frames] == [b"hello"]
    assert [frame.payload for frame in binary.frames] == [b"\x01hello"]


async def test_only_the_channels_subscribers_receive() -> None:
    hub = Hub()
    inside, outside = FakeReceiver(), FakeReceiver()
    hub.subscribers.add("room", inside)
    hub.subscribers.add("other", outside)

    hub.broadcast("room", HELLO)
    await written()

    assert len(inside.frames) == 1
    assert outside.frames == []


async def test_deliveries_are_counted_for_the_whole_fan_out() -> None:
    hub = Hub()
    text, binary = TransportStats(slow_code=1013), TransportStats(slow_code=1013)
    for _ in range(3):
        hub.subscribers.add("room", FakeReceiver(stats=text))
    hub.subscribers.add("room", BinaryClient(stats=binary))

    hub.broadcast("room", HELLO)

    assert (text.messages_out, text.bytes_out) == (3, 15)
    assert (binary.messages_out, binary.bytes_out) == (1, 6)


async def test_who_cannot_read_a_publication_is_refused_and_the_others_get_it() -> None:
    hub = Hub()
    picky, other = PickyClient(), FakeReceiver()
    hub.subscribers.add("room", picky)
    hub.subscribers.add("room", other)

    hub.broadcast("room", HELLO)
    await written()

    assert picky.frames == []
    assert len(other.frames) == 1
    assert hub.unreadable.count == 1


async def test_a_leave_is_reported_after_what_was_published_before_it() -> None:
    hub = Hub()
    client = FakeReceiver()
    hub.subscribers.add("room", client)
    hub.watchers.add("room", client)

    hub.broadcast("room", HELLO)
    hub.push_to_watchers(Push("room", leave=Leave(ClientInfo("user", "client"))))
    hub.broadcast("room", HELLO)
    await written()

    assert [frame.payload for frame in client.frames] == [b"hello", b"left", b"hello"]


class SlowTransport(RecordingTransport):
    """Is full with the first batch: its client is cut, and leaves at once, as a socket over its limit has it."""

    def __init__(self, leave: Callable[[], object]) -> None:
        super().__init__()
        self._leave = leave

    def send_batch(self, batch: Batch) -> None:
        super().send_batch(batch)
        self._leave()


async def test_a_leave_reaches_everybody_though_slow_readers_are_cut_as_it_is_reported() -> None:
    hub = Hub()
    clients = [FakeReceiver() for _ in range(5)]
    for client in clients:
        hub.subscribers.add("room", client)
        hub.watchers.add("room", client)
    for slow in clients[:3]:
        slow.transport = SlowTransport(partial(hub.watchers.remove, "room", slow))

    hub.broadcast("room", HELLO)
    hub.push_to_watchers(Push("room", leave=Leave(ClientInfo("user", "client"))))
    await written()

    assert hub.watchers.count("room") == 2
    for client in clients[3:]:
        assert [frame.payload for frame in client.frames] == [b"hello", b"left"]


async def test_what_was_broadcast_is_written_before_a_connection_closes() -> None:
    hub = Hub()
    client = FakeReceiver()
    hub.subscribers.add("room", client)
    hub.broadcast("room", HELLO)

    hub.flush(client)
    assert [frame.payload for frame in client.frames] == [b"hello"]

    await written()
    assert len(client.frames) == 1


async def test_a_publication_is_measured_once_from_its_arrival_to_the_last_write() -> None:
    delivery = Distribution(DELIVERY_BUCKETS)
    hub = Hub(delivery=delivery)
    for _ in range(3):
        hub.subscribers.add("room", FakeReceiver())
    hub.subscribers.add("room", BinaryClient())

    hub.received_at = time.monotonic() - 5
    hub.broadcast("room", HELLO)
    assert sum(delivery.counts) == 0, "nothing is written yet"
    await written()

    assert sum(delivery.counts) == 1
    assert 5 <= delivery.total < 60


async def test_a_publication_without_subscribers_is_measured_too_and_one_that_was_not_received_is_not() -> None:
    delivery = Distribution(DELIVERY_BUCKETS)
    hub = Hub(delivery=delivery)
    hub.broadcast("room", HELLO)
    assert sum(delivery.counts) == 0

    hub.received_at = time.monotonic()
    hub.broadcast("room", HELLO)

    assert sum(delivery.counts) == 1
