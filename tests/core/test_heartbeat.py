"""The timer wheel: everyone is pinged once a round, and silence is noticed within the pong time."""

from prometheus_client import CollectorRegistry

from app.core.connection import Connection
from app.core.heartbeat import Heartbeat
from app.telemetry.metrics import Metrics


class Owner:
    """The part of a node that a connection touches here."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())


class Client(Connection):
    """Notes pings and closes instead of sending them: the wheel is watched, not a socket."""

    kind = "echo"

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner, "")  # type: ignore[arg-type]
        self.pings = 0
        self.closed_with: int | None = None

    def ping(self) -> None:
        self.awaiting_pong = True
        self.pings += 1

    def close(self, code: int, reason: str = "") -> None:
        self.closed_with = code


def test_every_connection_is_pinged_once_a_round() -> None:
    owner = Owner()
    heartbeat = Heartbeat(ping=5, pong=2)
    clients = [Client(owner) for _ in range(12)]
    for client in clients:
        heartbeat.add(client)

    for _ in range(5):
        heartbeat.tick()

    assert [client.pings for client in clients] == [1] * 12


def test_pings_are_spread_over_the_round() -> None:
    owner = Owner()
    heartbeat = Heartbeat(ping=4, pong=1)
    clients = [Client(owner) for _ in range(8)]
    for client in clients:
        heartbeat.add(client)

    heartbeat.tick()

    assert sum(client.pings for client in clients) == 2


def test_a_silent_client_is_closed_when_the_pong_time_is_over() -> None:
    heartbeat = Heartbeat(ping=5, pong=2)
    client = Client(Owner())
    heartbeat.add(client)
    ticks_to_ping = 0
    while not client.pings:
        heartbeat.tick()
        ticks_to_ping += 1

    heartbeat.tick()
    assert client.closed_with is None

    heartbeat.tick()
    assert client.closed_with == 1008


def test_a_client_that_answers_stays() -> None:
    heartbeat = Heartbeat(ping=3, pong=1)
    client = Client(Owner())
    heartbeat.add(client)

    for _ in range(12):
        heartbeat.tick()
        client.on_pong()

    assert client.pings == 4
    assert client.closed_with is None


def test_a_removed_connection_is_left_alone() -> None:
    heartbeat = Heartbeat(ping=2, pong=1)
    client = Client(Owner())
    heartbeat.add(client)

    heartbeat.remove(client)
    for _ in range(4):
        heartbeat.tick()

    assert client.pings == 0
