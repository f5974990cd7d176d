"""What is answered without a task: who is known by the handshake, and channels that this process receives already."""

import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.brokers.memory.history import MemoryHistory
from starling.client.authority import Identity
from starling.client.client_connection import JsonConnection
from starling.client.one_way import OneWayWebSocket
from starling.engine.broker import PublishOptions
from starling.engine.lifecycle import NoLifecycle
from starling.engine.receiver import TokenFacts
from starling.engine.revocation import Revocation
from starling.main import Application, build_application
from starling.protocol.commands import ConnectRequest, SubscribeRequest
from starling.protocol.messages import Publication
from starling.settings import load_settings
from tests.support.json_transport import JsonTransport
from tests.support.waiting import until

CHANNELS = {
    "default": {"allow_subscribe_for_client": True, "allow_publish_for_subscriber": True},
    "namespaces": {
        "closed": {},
        "shown": {"allow_subscribe_for_client": True, "presence": True},
        "kept": {
            "allow_subscribe_for_client": True,
            "history_size": 10,
            "history_ttl": "60s",
            "allowed_delta_types": ["fossil"],
        },
    },
}


class Reported(NoLifecycle):
    """Keeps what those outside learn of one client."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def connected(self, client: str, user: str, address: str = "") -> None:
        self.events.append(("connected", user))

    def subscribed(self, client: str, user: str, channel: str, address: str = "") -> None:
        self.events.append(("subscribed", user, channel))

    def unsubscribed(self, client: str, user: str, channel: str, address: str = "", *, unused: bool = False) -> None:
        self.events.append(("unsubscribed", user, channel))


def made(tmp_path: Path, lifecycle: NoLifecycle | None = None) -> Application:
    """A worker that is not started yet."""
    channels = tmp_path / "channels.json"
    channels.write_text(json.dumps(CHANNELS))
    environment = {"STARLING_TOKEN_HMAC_SECRET": "x" * 32, "STARLING_CHANNELS_FILE": str(channels)}
    return build_application(load_settings(environment), CollectorRegistry(), lifecycle=lifecycle)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Application]:
    service = made(tmp_path, Reported())
    await service.engine.start()
    await until(lambda: service.engine.readiness.ready, "the node is ready")
    yield service
    await service.engine.stop()


def opened(service: Application, user: str) -> tuple[JsonConnection, JsonTransport]:
    """A client that has said nothing yet."""
    client = JsonConnection(
        service.context.dispatcher,
        Identity(user, token=TokenFacts(user)),
    )
    transport = JsonTransport()
    client.open(transport)
    return client, transport


def commands(*bodies: dict[str, Any]) -> str:
    """One frame of commands, numbered from 1."""
    return "\n".join(json.dumps({"id": number, **body}) for number, body in enumerate(bodies, 1))


async def first_in(service: Application, channel: str) -> JsonTransport:
    """Have this process receive a channel; returns what its first listener receives."""
    client, transport = opened(service, "first")
    client.on_message(commands({"connect": {}}, {"subscribe": {"channel": channel}}))
    await answered(transport, 2)
    return transport


async def answered(transport: JsonTransport, count: int) -> None:
    await until(lambda: len(transport.lines) >= count, f"{count} commands are answered")


async def published(service: Application, channel: str, data: bytes, first: JsonTransport) -> None:
    """Publish; returns when the first listener has received it, and with it everybody in the channel."""
    await service.engine.publisher.publish(channel, Publication(data=Raw(data)), PublishOptions())
    await until(lambda: first.pushes, "the first listener hears it")


def received(transport: JsonTransport) -> list[Any]:
    """The data of the publications that came."""
    return [push["pub"]["data"] for push in transport.pushes]


async def test_a_whole_frame_is_answered_in_its_order_before_anything_else_runs(service: Application) -> None:
    first = await first_in(service, "news")
    client, transport = opened(service, "alice")

    client.on_message(
        commands(
            {"connect": {}},
            {"subscribe": {"channel": "news"}},
            {"subscribe": {"channel": "closed:a"}},
            {"subscribe": {"channel": "news"}},
        )
    )

    assert [line["id"] for line in transport.lines[:2]] == [1, 2]
    assert "connect" in transport.lines[0]
    assert "subscribe" in transport.lines[1]
    await answered(transport, 4)
    errors = {line["id"]: line["error"]["code"] for line in transport.lines[2:]}
    assert errors == {3: 103, 4: 105}
    await published(service, "news", b'"hello"', first)
    assert received(transport) == ["hello"]


async def test_those_outside_learns_of_the_client_before_its_channels(service: Application) -> None:
    await first_in(service, "news")
    reported: Reported = service.engine.lifecycle  # type: ignore[assignment]
    reported.events.clear()
    client, _ = opened(service, "alice")

    client.on_message(commands({"connect": {}}, {"subscribe": {"channel": "news"}}))
    client.on_close(1000, "")

    assert reported.events == [
        ("connected", "alice"),
        ("subscribed", "alice", "news"),
        ("unsubscribed", "alice", "news"),
    ]


async def test_who_enters_and_leaves_in_one_frame_gets_nothing_and_is_not_counted(service: Application) -> None:
    first = await first_in(service, "news")
    client, transport = opened(service, "alice")

    news = {"channel": "news"}
    client.on_message(commands({"connect": {}}, {"subscribe": news}, {"unsubscribe": news}))
    await answered(transport, 3)
    await published(service, "news", b'"hello"', first)

    assert [line["id"] for line in transport.lines] == [1, 2, 3]
    assert service.engine.metrics.subscriptions.total() == 1


async def test_a_publication_that_is_owed_already_is_not_for_who_enters_after_it(service: Application) -> None:
    await first_in(service, "news")
    client, transport = opened(service, "alice")
    client.on_message(commands({"connect": {}}))

    service.engine.hub.broadcast("news", Publication(data=Raw(b'"before"')))
    client.on_message(commands({"ping": {}}, {"subscribe": {"channel": "news"}}))
    service.engine.hub.broadcast("news", Publication(data=Raw(b'"after"')))
    await until(lambda: transport.pushes, "a publication comes")

    assert transport.lines[-2]["id"] == 2
    assert received(transport) == ["after"]


async def test_what_a_client_is_owed_comes_before_its_close(service: Application) -> None:
    first = await first_in(service, "news")
    client, transport = opened(service, "alice")
    client.on_message(commands({"connect": {}}, {"subscribe": {"channel": "news"}}))
    service.engine.hub.broadcast("news", Publication(data=Raw(b'"last"')))
    assert received(transport) == []

    client.close(3000, "enough")

    assert received(transport) == ["last"]
    assert transport.closed_with == (3000, "enough")
    await until(lambda: received(first) == ["last"], "the others are written to in their turn")


async def test_presence_is_kept_of_subscribed_channels(service: Application) -> None:
    await first_in(service, "shown:a")
    client, transport = opened(service, "alice")
    client.on_message(commands({"connect": {}}, {"subscribe": {"channel": "shown:a"}}))
    await answered(transport, 2)

    assert [line["id"] for line in transport.lines] == [1, 2]
    options = service.engine.channels.options("shown:a")
    members = await service.engine.presence.members("shown:a", options)
    assert {info.user for info in members.values()} == {
        "first",
        "alice",
    }


async def test_a_revoked_handshake_is_disconnected(service: Application) -> None:
    client, transport = opened(service, "alice")
    revocations, now = service.engine.revocations, time.time()
    await revocations.revoke(Revocation("user", "alice", expires_at=now + 60, issued_before=now))
    await until(lambda: not revocations.still_valid(TokenFacts("alice")), "the revocation is in force")

    client.on_message(commands({"connect": {}}))

    assert transport.closed_with == (3500, "invalid token")
    assert transport.lines == []


async def test_no_two_clients_have_one_name_whatever_an_application_seeds(service: Application) -> None:
    names: set[str] = set()
    for _ in range(3):
        random.seed(7)
        client, _ = opened(service, "alice")
        names |= {client.id, client.session_id}

    assert len(names) == 6


async def test_no_two_workers_give_one_name_though_one_process_made_them(tmp_path: Path) -> None:
    one, other = made(tmp_path), made(tmp_path)
    await one.engine.start()
    await other.engine.start()
    try:
        assert opened(one, "alice")[0].id != opened(other, "alice")[0].id
    finally:
        await one.engine.stop()
        await other.engine.stop()


async def test_the_first_in_a_channel_is_answered_before_anything_else_runs_too(service: Application) -> None:
    client, transport = opened(service, "alice")

    client.on_message(commands({"connect": {}}, {"subscribe": {"channel": "empty"}}))

    assert ["subscribe" in line for line in transport.lines] == [False, True]
    await published(service, "empty", b'"hello"', transport)
    assert received(transport) == ["hello"]


async def test_a_channel_with_history_that_is_followed_is_entered_at_its_position(service: Application) -> None:
    first = await first_in(service, "kept:a")
    kept = service.engine.channels.options("kept:a").publish_options()
    position = await service.engine.publisher.publish("kept:a", Publication(data=Raw(b"1")), kept)
    await until(lambda: first.pushes, "the first listener hears it")
    client, transport = opened(service, "alice")

    client.on_message(commands({"connect": {}}, {"subscribe": {"channel": "kept:a", "positioned": True}}))

    answer = transport.lines[1]["subscribe"]
    assert (answer["offset"], answer["epoch"], answer["positioned"]) == (1, position.epoch, True)
    await service.engine.publisher.publish("kept:a", Publication(data=Raw(b"2")), kept)
    await until(lambda: transport.pushes, "the next publication comes")
    assert received(transport) == [2]
    assert received(first) == [1, 2]


READ = ({"recover": True, "epoch": "x", "offset": 0}, {"recover": True}, {"delta": "fossil"})


@pytest.mark.parametrize("more", READ)
async def test_what_is_read_in_this_process_is_answered_before_anything_else_runs(
    service: Application, more: dict[str, Any]
) -> None:
    client, transport = opened(service, "alice")
    kept = service.engine.channels.options("kept:a").publish_options()
    await service.engine.publisher.publish("kept:a", Publication(data=Raw(b"1")), kept)
    client.on_message(
        commands({"connect": {}}, {"subscribe": {"channel": "kept:a", **more}}, {"subscribe": {"channel": "kept:a"}})
    )
    assert [line["id"] for line in transport.lines] == [1, 2, 3]
    assert "subscribe" in transport.lines[1]
    assert transport.lines[2]["error"]["code"] == 105
    await service.engine.publisher.publish("kept:a", Publication(data=Raw(b"2")), kept)
    await until(lambda: transport.pushes, "the next publication comes")
    assert received(transport) == [2]


@pytest.mark.parametrize("more", READ)
async def test_what_must_be_read_elsewhere_waits_for_the_read(
    service: Application, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryHistory, "in_process", False)
    await first_in(service, "kept:a")
    client, transport = opened(service, "alice")
    client.on_message(commands({"connect": {}}, {"subscribe": {"channel": "kept:a", **more}}))
    assert len(transport.lines) == 1
    await answered(transport, 2)
    assert "subscribe" in transport.lines[1]


def reader(service: Application, *channels: str, **more: Any) -> JsonTransport:
    """What a client that only reads, and has asked for these channels, has got when its request was taken."""
    request = ConnectRequest(subs={channel: SubscribeRequest(channel, **more) for channel in channels})
    transport = JsonTransport()
    OneWayWebSocket(service.context.dispatcher, Identity("bob", token=TokenFacts("bob")), request).open(transport)
    return transport


async def test_who_only_reads_joins_others_before_anything_else_runs(service: Application) -> None:
    first = await first_in(service, "kept:a")
    await first_in(service, "news")
    kept = service.engine.channels.options("kept:a").publish_options()
    await service.engine.publisher.publish("kept:a", Publication(data=Raw(b"1")), kept)
    await until(lambda: first.pushes, "the first listener hears it")
    reported: Reported = service.engine.lifecycle  # type: ignore[assignment]
    reported.events.clear()

    transport = reader(service, "kept:a", "news", positioned=True)

    (line,) = transport.lines
    subs = line["connect"]["subs"]
    assert (list(subs), subs["kept:a"]["offset"]) == (["kept:a", "news"], 1)
    assert reported.events == [("connected", "bob"), ("subscribed", "bob", "kept:a"), ("subscribed", "bob", "news")]
    await service.engine.publisher.publish("kept:a", Publication(data=Raw(b"2")), kept)
    await until(lambda: transport.lines[1:], "the next publication comes")
    assert [line["pub"]["data"] for line in transport.lines[1:]] == [2]


@pytest.mark.parametrize(
    ("channel", "more"),
    [("kept:b", {}), ("shown:a", {}), ("kept:a", {"recover": True, "epoch": "x"}), ("kept:a", {"delta": "fossil"})],
)
async def test_who_only_reads_waits_for_what_must_be_read(
    service: Application, channel: str, more: dict[str, Any]
) -> None:
    for name in ("kept:a", "shown:a", "news"):
        await first_in(service, name)

    transport = reader(service, "news", channel, **more)

    assert transport.lines == []
    await answered(transport, 1)
    assert list(transport.lines[0]["connect"]["subs"]) == ["news", channel]


async def test_who_only_reads_and_is_refused_a_channel_is_in_none(service: Application) -> None:
    await first_in(service, "news")
    transport = reader(service, "news", "closed:a")
    await until(lambda: transport.closed_with, "the client is refused")

    assert transport.closed_with == (3507, "permission denied (channel closed:a)")
    assert service.engine.metrics.subscriptions.total() == 1
