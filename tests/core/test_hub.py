"""The local half of a fan-out: who hears what, and how often a frame is made."""

from msgspec import Raw
from prometheus_client import CollectorRegistry

from app.core.connection import Connection
from app.core.hub import Hub
from app.core.transport import Frame
from app.protocol.codes import DISCONNECT_INAPPROPRIATE_PROTOCOL, Disconnect, Error, Refusal
from app.protocol.messages import Publication, Push
from app.telemetry.metrics import Metrics


class Owner:
    """The part of a node that a connection touches."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.encoded = 0


class Client(Connection):
    """Keeps the frames it is sent."""

    kind = "chat"

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner, "")  # type: ignore[arg-type]
        self.frames: list[Frame] = []

    def send(self, frame: Frame) -> None:
        self.frames.append(frame)

    @staticmethod
    def encode(push: Push) -> Frame:
        assert push.pub is not None
        return Frame(bytes(push.pub.data), text=True)


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
        raise Refusal(DISCONNECT_INAPPROPRIATE_PROTOCOL)

    def refuse(self, reason: Error | Disconnect) -> None:
        self.refused = reason


HELLO = Publication(data=Raw(b"hello"))


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


def test_a_frame_is_made_once_for_all_who_read_the_same_format() -> None:
    hub, owner = Hub(), Owner()
    clients = [Client(owner) for _ in range(3)]
    for client in clients:
        hub.subscribers.add("room", client)

    hub.broadcast("room", HELLO)

    assert len({id(client.frames[0]) for client in clients}) == 1


def test_each_format_gets_its_own_frame() -> None:
    hub, owner = Hub(), Owner()
    text, binary = Client(owner), BinaryClient(owner)
    hub.subscribers.add("room", text)
    hub.subscribers.add("room", binary)

    hub.broadcast("room", HELLO)

    assert [frame.payload for frame in text.frames] == [b"hello"]
    assert [frame.payload for frame in binary.frames] == [b"\x01hello"]


def test_only_the_channels_subscribers_hear() -> None:
    hub, owner = Hub(), Owner()
    inside, outside = Client(owner), Client(owner)
    hub.subscribers.add("room", inside)
    hub.subscribers.add("other", outside)

    hub.broadcast("room", HELLO)

    assert len(inside.frames) == 1
    assert outside.frames == []


def test_deliveries_are_counted_for_the_whole_fan_out() -> None:
    hub, owner = Hub(), Owner()
    for _ in range(3):
        hub.subscribers.add("room", Client(owner))
    hub.subscribers.add("room", BinaryClient(owner))

    hub.broadcast("room", HELLO)

    chat, echo = owner.metrics.transports["chat"], owner.metrics.transports["echo"]
    assert (chat.messages_out, chat.bytes_out) == (3, 15)
    assert (echo.messages_out, echo.bytes_out) == (1, 6)


def test_who_cannot_read_a_publication_is_refused_and_the_others_get_it() -> None:
    hub, owner = Hub(), Owner()
    picky, other = PickyClient(owner), Client(owner)
    hub.subscribers.add("room", picky)
    hub.subscribers.add("room", other)

    hub.broadcast("room", HELLO)

    assert picky.refused == DISCONNECT_INAPPROPRIATE_PROTOCOL
    assert len(other.frames) == 1
