"""The local half of a fan-out: who hears what, and how often a frame is made."""

import asyncio
import random
from collections.abc import Callable
from functools import partial

from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.engine.connection import Connection
from starling.engine.hub import Hub
from starling.engine.transport import Batch, Frame
from starling.protocol.codes import DISCONNECT_INAPPROPRIATE_PROTOCOL, CommandRefused, Disconnect, Error
from starling.protocol.messages import ClientInfo, Leave, Publication, Push
from starling.telemetry.metrics import Metrics


class Owner:
    """The part of a node that a connection touches."""

    messages_per_second = 0.0

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.names = random.Random()
        self.encoded = 0
        self.messages_per_second = 0.0


class Transport:
    """Keeps the frames it is sent."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def send_frame(self, frame: Frame) -> None:
        self.frames.append(frame)

    def send_batch(self, batch: Batch) -> None:
        self.frames += batch.frames

    queue_batch = send_batch


class Client(Connection):
    """One who only listens."""

    kind = "chat"

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner, "")  # type: ignore[arg-type]
        self.transport = Transport()  # type: ignore[assignment]

    @property
    def frames(self) -> list[Frame]:
        return self.transport.frames  # type: ignore[attr-defined, no-any-return]

    @staticmethod
    def encode(push: Push) -> Frame:
        return Frame(bytes(push.pub.data) if push.pub else b"left", text=True)


class BinaryClient(Client):
    """Reads another format."""

    kind = "echo"

    @staticmethod
    def encode(push: Push) -> Frame:
        assert push.pub is not None
        return Frame(b"\x01" + bytes(push.pub.data), text=False)


class PickyClient(Client):
    """Cannot read what it is sent."""

    refused: Error | Disconnect | None = None

    @staticmethod
    def encode(push: Push) -> Frame:
        raise CommandRefused(DISCONNECT_INAPPROPRIATE_PROTOCOL)

    def refuse(self, reason: Error | Disconnect) -> None:
        self.refused = reason


HELLO = Publication(data=Raw(b"hello"))


async def written() -> None:
    """Wait until what was broadcast is written."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_first_subscriber_and_the_last_are_told() -> None:
    hub, owner = Hub(), Owner()
    one, two = Client(owner), BinaryClient(owner)

    assert hub.subscribers.add("room", one)
    assert not hub.subscribers.add("room", two)
    assert not hub.subscribers.remove("room", one)
    assert hub.subscribers.remove("room", two)
    assert hub.subscribers.channels == {}


def test_leaving_twice_or_unasked_is_nothing() -> None:
    hub, owner = Hub(), Owner()
    one, two = Client(owner), Client(owner)
    hub.subscribers.add("room", one)

    assert not hub.subscribers.remove("room", two)
    assert not hub.subscribers.remove("other", one)
    assert hub.subscribers.remove("room", one)
    assert not hub.subscribers.remove("room", one)


async def test_a_frame_is_made_once_for_all_who_read_the_same_format() -> None:
    hub, owner = Hub(), Owner()
    clients = [Client(owner) for _ in range(3)]
    for client in clients:
        hub.subscribers.add("room", client)

    hub.broadcast("room", HELLO)
    await written()

    assert len({id(client.frames[0]) for client in clients}) == 1


async def test_each_format_gets_its_own_frame() -> None:
    hub, owner = Hub(), Owner()
    text, binary = Client(owner), BinaryClient(owner)
    hub.subscribers.add("room", text)
    hub.subscribers.add("room", binary)

    hub.broadcast("room", HELLO)
    await written()

    assert [frame.payload for frame in text.frames] == [b"hello"]
    assert [frame.payload for frame in binary.frames] == [b"\x01hello"]


async def test_only_the_channels_subscribers_hear() -> None:
    hub, owner = Hub(), Owner()
    inside, outside = Client(owner), Client(owner)
    hub.subscribers.add("room", inside)
    hub.subscribers.add("other", outside)

    hub.broadcast("room", HELLO)
    await written()

    assert len(inside.frames) == 1
    assert outside.frames == []


async def test_deliveries_are_counted_for_the_whole_fan_out() -> None:
    hub, owner = Hub(), Owner()
    for _ in range(3):
        hub.subscribers.add("room", Client(owner))
    hub.subscribers.add("room", BinaryClient(owner))

    hub.broadcast("room", HELLO)

    chat, echo = owner.metrics.transports["chat"], owner.metrics.transports["echo"]
    assert (chat.messages_out, chat.bytes_out) == (3, 15)
    assert (echo.messages_out, echo.bytes_out) == (1, 6)


async def test_who_cannot_read_a_publication_is_refused_and_the_others_get_it() -> None:
    hub, owner = Hub(), Owner()
    picky, other = PickyClient(owner), Client(owner)
    hub.subscribers.add("room", picky)
    hub.subscribers.add("room", other)

    hub.broadcast("room", HELLO)
    await written()

    assert picky.refused == DISCONNECT_INAPPROPRIATE_PROTOCOL
    assert len(other.frames) == 1


async def test_a_leave_is_told_after_what_was_published_before_it() -> None:
    hub, owner = Hub(), Owner()
    client = Client(owner)
    hub.subscribers.add("room", client)
    hub.watchers.add("room", client)

    hub.broadcast("room", HELLO)
    hub.tell_watchers(Push("room", leave=Leave(ClientInfo("user", "client"))))
    hub.broadcast("room", HELLO)
    await written()

    assert [frame.payload for frame in client.frames] == [b"hello", b"left", b"hello"]


class SlowTransport(Transport):
    """Is full with the first batch: its client is cut, and leaves at once, as a socket over its limit has it."""

    def __init__(self, leave: Callable[[], object]) -> None:
        super().__init__()
        self._leave = leave

    def send_batch(self, batch: Batch) -> None:
        super().send_batch(batch)
        self._leave()


async def test_a_leave_reaches_everybody_though_slow_readers_are_cut_as_it_is_told() -> None:
    hub, owner = Hub(), Owner()
    clients = [Client(owner) for _ in range(5)]
    for client in clients:
        hub.subscribers.add("room", client)
        hub.watchers.add("room", client)
    for slow in clients[:3]:
        slow.transport = SlowTransport(partial(hub.watchers.remove, "room", slow))  # type: ignore[assignment]

    hub.broadcast("room", HELLO)
    hub.tell_watchers(Push("room", leave=Leave(ClientInfo("user", "client"))))
    await written()

    assert hub.watchers.count("room") == 2
    for client in clients[3:]:
        assert [frame.payload for frame in client.frames] == [b"hello", b"left"]


async def test_what_was_broadcast_is_written_before_a_connection_closes() -> None:
    hub, owner = Hub(), Owner()
    client = Client(owner)
    hub.subscribers.add("room", client)
    hub.broadcast("room", HELLO)

    hub.settle(client)
    assert [frame.payload for frame in client.frames] == [b"hello"]

    await written()
    assert len(client.frames) == 1
