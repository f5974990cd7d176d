"""What a backend orders, carried out on the connections of one node: which it meets, and what clients got."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.client.authority import Identity
from starling.client.client_connection import JsonConnection
from starling.client.node_commands import (
    DisconnectCommand,
    NodeCommands,
    RefreshCommand,
    SubscribeCommand,
    UnsubscribeCommand,
)
from starling.engine.broker import StreamPosition
from starling.engine.control import NodeCommandRefused
from starling.engine.override import ChannelOverride
from starling.engine.receiver import TokenFacts
from starling.main import Application, build_application
from starling.protocol.codes import Disconnect, Unsubscribe
from starling.protocol.messages import Publication
from starling.settings import load_settings
from tests.support.json_transport import JsonTransport
from tests.support.waiting import DEADLINE, until

CHANNELS = {
    "default": {"allow_subscribe_for_client": True},
    "namespaces": {"kept": {"history_size": 10, "history_ttl": "60s"}, "shown": {"presence": True, "join_leave": True}},
}


class Cluster:
    """A node on memory with its orders, and clients of it."""

    def __init__(self, service: Application) -> None:
        self.service = service
        self.engine = service.engine
        self.commands = NodeCommands(service.engine)

    async def enter(self, user: str, session: str = "") -> tuple[JsonConnection, JsonTransport]:
        """A connected client of `user`."""
        handshake = Identity(user, token=TokenFacts(user, session=session))
        client = JsonConnection(self.service.context.dispatcher, handshake)
        transport = JsonTransport()
        client.open(transport)
        client.on_message('{"id":1,"connect":{}}')
        await until(lambda: any(line.get("id") == 1 for line in transport.lines))
        return client, transport

    async def channels(self, pattern: str) -> dict[str, int]:
        """All channels that match, with the number of their clients."""
        counts, more, missing = await self.commands.channels(pattern)
        assert not more
        assert missing == []
        return counts

    async def publish(self, channel: str, data: bytes) -> StreamPosition:
        """Publish as a backend does."""
        options = self.engine.channels.options(channel).publish_options()
        return await self.engine.publisher.publish(channel, Publication(Raw(data)), options)

    async def subscribe(self, client: JsonConnection, transport: JsonTransport, channel: str) -> None:
        client.on_message(json.dumps({"id": 2, "subscribe": {"channel": channel}}))
        await until(lambda: any(line.get("id") == 2 for line in transport.lines))
        assert "error" not in transport.lines[-1]


@pytest.fixture
async def cluster(tmp_path: Any) -> AsyncIterator[Cluster]:
    channels = tmp_path / "channels.json"
    channels.write_text(json.dumps(CHANNELS))
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": "x" * 32,
        "STARLING_CHANNELS_FILE": str(channels),
        "STARLING_MAX_CHANNELS": "3",
    }
    service = build_application(load_settings(environment), CollectorRegistry())
    await service.engine.start()
    await until(lambda: service.engine.readiness.ready)
    yield Cluster(service)
    await service.engine.stop()


async def test_a_user_is_disconnected_on_all_connections_and_nobody_else(cluster: Cluster) -> None:
    (_, one), (_, two), (_, other) = [await cluster.enter(user) for user in ("alice", "alice", "bob")]

    await cluster.commands.send(DisconnectCommand(user="alice"))

    await until(lambda: one.closed_with and two.closed_with)
    assert one.closed_with == two.closed_with == (3503, "force disconnect")
    assert other.closed_with is None


async def test_a_disconnect_may_name_its_code_and_spare_clients(cluster: Cluster) -> None:
    (kept, kept_transport), (_, gone) = [await cluster.enter("alice") for _ in range(2)]

    await cluster.commands.send(
        DisconnectCommand(user="alice", whitelist=[kept.id], disconnect=Disconnect(4501, "signed out"))
    )

    await until(lambda: gone.closed_with)
    assert gone.closed_with == (4501, "signed out")
    assert kept_transport.closed_with is None


async def test_a_client_or_a_session_can_be_meant_alone(cluster: Cluster) -> None:
    (first, first_transport), (_, second), (third, third_transport) = [
        await cluster.enter("alice", session) for session in ("", "phone", "")
    ]

    await cluster.commands.send(DisconnectCommand(user="alice", session="phone"))
    await cluster.commands.send(DisconnectCommand(user="alice", client=first.id))
    await cluster.commands.send(DisconnectCommand(user="alice", session=third.session_id))
    await until(lambda: first_transport.closed_with and second.closed_with and third_transport.closed_with)


async def test_a_client_of_another_user_is_not_met_by_its_id(cluster: Cluster) -> None:
    bob, transport = await cluster.enter("bob")
    _, alice = await cluster.enter("alice")

    await cluster.commands.send(DisconnectCommand(user="alice", client=bob.id))
    await cluster.commands.send(DisconnectCommand(user="alice"))

    await until(lambda: alice.closed_with)
    assert transport.closed_with is None


async def test_an_ordered_subscription_is_reported_and_delivers(cluster: Cluster) -> None:
    _, transport = await cluster.enter("alice")

    await cluster.commands.send(SubscribeCommand(user="alice", channel="room", data=b'{"welcome":1}'))
    await until(lambda: transport.pushes)
    await cluster.publish("room", b'"hi"')
    await until(lambda: len(transport.pushes) == 2)

    assert transport.pushes[0] == {"channel": "room", "subscribe": {"data": {"welcome": 1}}}
    assert transport.pushes[1]["pub"]["data"] == "hi"


async def test_who_is_in_the_channel_already_gets_nothing(cluster: Cluster) -> None:
    client, transport = await cluster.enter("alice")
    await cluster.subscribe(client, transport, "room")

    await cluster.commands.send(SubscribeCommand(user="alice", channel="room"))
    await cluster.commands.send(SubscribeCommand(user="alice", channel="other"))

    await until(lambda: transport.pushes)
    assert [push["channel"] for push in transport.pushes] == ["other"]


async def test_an_ordered_subscription_delivers_what_was_published_since(cluster: Cluster) -> None:
    positions = [await cluster.publish("kept:a", b"%d" % n) for n in range(4)]
    _, transport = await cluster.enter("alice")

    since = StreamPosition(positions[1].offset, positions[1].epoch)
    await cluster.commands.send(SubscribeCommand(user="alice", channel="kept:a", since=since))
    await until(lambda: len(transport.pushes) >= 3)
    await cluster.publish("kept:a", b"4")
    await until(lambda: len(transport.pushes) == 4)

    subscribe, *publications = transport.pushes
    assert subscribe["subscribe"]["offset"] == 2
    assert [(push["pub"]["offset"], push["pub"]["data"]) for push in publications] == [(3, 2), (4, 3), (5, 4)]


async def test_info_and_overrides_of_an_order_count(cluster: Cluster) -> None:
    alice, _ = await cluster.enter("alice")
    bob, _ = await cluster.enter("bob")

    await cluster.commands.send(SubscribeCommand(user="alice", channel="shown:a", info=b'{"role":"host"}'))
    await cluster.commands.send(
        SubscribeCommand(user="bob", channel="shown:a", override=ChannelOverride(presence=False))
    )
    await cluster.commands.send(SubscribeCommand(user="bob", channel="plain", override=ChannelOverride(presence=True)))

    async def here(channel: str) -> dict[str, bytes]:
        # One of the channels shows only the members whose subscription overrides its options.
        options = cluster.engine.channels.options(channel).overridden(ChannelOverride(presence=True))
        members = await cluster.engine.presence.members(channel, options)
        return {client: bytes(info.chan_info) for client, info in members.items()}

    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and not (await here("shown:a") and await here("plain")):
        await asyncio.sleep(0.01)
    assert await here("shown:a") == {alice.id: b'{"role":"host"}'}
    assert await here("plain") == {bob.id: b""}


async def test_a_subscription_beyond_the_limit_ends_the_connection(cluster: Cluster) -> None:
    _, transport = await cluster.enter("alice")

    for number in range(4):
        await cluster.commands.send(SubscribeCommand(user="alice", channel=f"room-{number}"))

    await until(lambda: transport.closed_with)
    assert transport.closed_with == (3505, "channel limit")


async def test_an_ordered_end_of_a_subscription_is_reported_and_nothing_follows(cluster: Cluster) -> None:
    client, transport = await cluster.enter("alice")
    await cluster.subscribe(client, transport, "room")

    await cluster.commands.send(
        UnsubscribeCommand(user="alice", channel="room", unsubscribe=Unsubscribe(2100, "banned"))
    )
    await until(lambda: transport.pushes)
    await cluster.publish("room", b"1")
    await cluster.commands.send(SubscribeCommand(user="alice", channel="end"))
    await until(lambda: len(transport.pushes) == 2)

    assert transport.pushes[0] == {"channel": "room", "unsubscribe": {"code": 2100, "reason": "banned"}}
    assert transport.pushes[1]["channel"] == "end"


async def test_a_connection_is_given_another_end(cluster: Cluster) -> None:
    _, transport = await cluster.enter("alice")

    await cluster.commands.send(RefreshCommand(user="alice", expire_at=time.time() + 100))
    await until(lambda: transport.pushes)
    await cluster.commands.send(RefreshCommand(user="alice"))
    await until(lambda: len(transport.pushes) == 2)

    first, second = transport.pushes
    assert first["refresh"]["expires"] is True
    assert 95 <= first["refresh"]["ttl"] <= 101
    assert second["refresh"] == {}


async def test_an_expired_connection_is_closed_with_3005(cluster: Cluster) -> None:
    _, transport = await cluster.enter("alice")

    await cluster.commands.send(RefreshCommand(user="alice", expired=True))

    await until(lambda: transport.closed_with)
    assert transport.closed_with == (3005, "connection expired")


async def test_channels_are_counted_by_pattern(cluster: Cluster) -> None:
    for user, channel in (("a", "room-1"), ("b", "room-1"), ("c", "room-2"), ("d", "kept:x"), ("e", "[odd]")):
        _, transport = await cluster.enter(user)
        await cluster.commands.send(SubscribeCommand(user=user, channel=channel))
        await until(lambda transport=transport: transport.pushes)  # type: ignore[misc]

    assert await cluster.channels("*") == {"[odd]": 1, "kept:x": 1, "room-1": 2, "room-2": 1}
    assert await cluster.channels("room-?") == {"room-1": 2, "room-2": 1}
    assert await cluster.channels("room-[13]") == {"room-1": 2}
    assert await cluster.channels("room") == {}
    assert await cluster.channels("[[]odd]") == {"[odd]": 1}


async def test_channels_are_returned_page_by_page_in_the_order_of_their_names(cluster: Cluster) -> None:
    names = [f"room-{number}" for number in range(5)]
    for channel in (*reversed(names), "zoo"):
        _, transport = await cluster.enter(channel)
        await cluster.commands.send(SubscribeCommand(user=channel, channel=channel))
        await until(lambda transport=transport: transport.pushes)  # type: ignore[misc]

    assert await cluster.commands.channels("room-*", 2) == ({"room-0": 1, "room-1": 1}, True, [])
    assert await cluster.commands.channels("room-*", 2, "room-1") == ({"room-2": 1, "room-3": 1}, True, [])
    assert await cluster.commands.channels("room-*", 2, "room-3") == ({"room-4": 1}, False, [])
    assert await cluster.commands.channels("room-*", 5) == (dict.fromkeys(names, 1), False, [])
    assert await cluster.commands.channels("room-*", 2, "room-4") == ({}, False, [])
    # A channel that is gone since the page before is a place in the order all the same.
    assert await cluster.commands.channels("room-*", 1, "room-2-gone") == ({"room-3": 1}, True, [])


async def test_a_page_is_returned_where_all_channels_are_too_many(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starling.client.node_commands.CHANNELS_LIMIT", 1)
    for channel in ("a", "b"):
        _, transport = await cluster.enter(channel)
        await cluster.commands.send(SubscribeCommand(user=channel, channel=channel))
        await until(lambda transport=transport: transport.pushes)  # type: ignore[misc]

    assert await cluster.commands.channels("*", 1) == ({"a": 1}, True, [])
    assert await cluster.commands.channels("*", 1, "a") == ({"b": 1}, False, [])


async def test_too_many_channels_are_refused_instead_of_reported_in_part(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starling.client.node_commands.CHANNELS_LIMIT", 1)
    for user in ("a", "b"):
        _, transport = await cluster.enter(user)
        await cluster.commands.send(SubscribeCommand(user=user, channel=f"room-{user}"))
        await until(lambda transport=transport: transport.pushes)  # type: ignore[misc]

    with pytest.raises(NodeCommandRefused, match="narrower"):
        await cluster.channels("*")
    assert await cluster.channels("room-a") == {"room-a": 1}


async def test_the_chat_room_is_no_channel(cluster: Cluster) -> None:
    client, _ = await cluster.enter("alice")
    await cluster.engine.subscriptions.wait_in(client, ":chat")

    assert await cluster.channels("*") == {}


async def test_a_node_describes_itself(cluster: Cluster) -> None:
    client, transport = await cluster.enter("alice")
    await cluster.enter("alice")
    await cluster.subscribe(client, transport, "room")

    (info,) = cluster.engine.control.nodes()

    assert info.uid == cluster.engine.node.id
    assert (info.num_clients, info.num_users, info.num_subs, info.num_channels) == (2, 1, 1, 1)
