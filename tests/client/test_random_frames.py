"""Random frames of many commands while others publish and a backend acts: a model says what the client must receive."""

import asyncio
import json
import random
from typing import Any

import pytest
from centrifuge import fossil
from msgspec import Struct

from starling.client.node_commands import DisconnectCommand, SubscribeCommand, UnsubscribeCommand
from starling.engine.control import NodeCommand
from starling.main import Application
from starling.protocol.codes import DISCONNECT_FORCE_RECONNECT
from tests.support.frame_clients import FrameClient, Reports, publish, subscribe, unsubscribe
from tests.support.waiting import until

HISTORY = {"history_size": 1000, "history_ttl": "60s", "allow_history_for_subscriber": True, "force_positioning": True}
PRESENCE = {"presence": True, "join_leave": True, "force_push_join_leave": True}
OPEN = {"allow_subscribe_for_client": True, "allow_tags_filter": True, "allow_channel_compaction": True}
CHANNELS: dict[str, Any] = {
    "plain": OPEN,
    "kept": OPEN | HISTORY,
    "patched": OPEN | HISTORY | {"allowed_delta_types": ["fossil"], "delta_publish": True},
    "watched": OPEN | PRESENCE,
    "both": OPEN | HISTORY | PRESENCE,
}
NAMES = [f"{namespace}:a" for namespace in CHANNELS]
WITHOUT_HISTORY = {"plain:a", "watched:a"}
RED = {"key": "color", "cmp": "eq", "val": "red"}
TEXT = "a document that is longer than a patch of it, so that patches are made"
# Far fewer than a recovery may bring.
RECOVERED_AT_MOST = 100
SEED = 17


class Standing(Struct):
    """What the client has in a channel: the form of its last subscription, and the number up to which it has all.

    `early` is the last that was on its way when it subscribed to a channel without history: it may get any of these.
    """

    filtered: bool
    patched: bool
    number: int
    channel_id: int = 0
    base: str = ""
    early: int = 0


class Model:
    """Follows what one client receives, and fails where it is not what was published, in order, once."""

    def __init__(self, client: FrameClient, colors: dict[str, list[str]]) -> None:
        """`colors` are those of the publications of each channel, numbered from 1 on."""
        self.client = client
        self.standings: dict[str, Standing] = {}
        self._colors = colors
        self._asked: dict[int, dict[str, Any]] = {}
        self._read = 0

    def send(self, commands: list[dict[str, Any]]) -> None:
        self._asked |= zip(self.client.send(*commands), commands, strict=True)

    def read(self) -> None:
        """Take what has come. Call it before each publication: what comes later must hold all that follow."""
        lines, self._read = self.client.received[self._read :], len(self.client.received)
        for line in lines:
            asked, push = self._asked.get(line.get("id", 0), {}), line.get("push", {})
            assert line.get("error", {}).get("code") in (None, 105, 112), line
            if "subscribe" in line:
                self._begin(asked["subscribe"], line["subscribe"])
            elif "unsubscribe" in line:
                self.standings.pop(asked["unsubscribe"]["channel"], None)
            elif "subscribe" in push:
                self._begin({"channel": push["channel"]}, push["subscribe"])
            elif "unsubscribe" in push:
                del self.standings[push["channel"]]
            elif "pub" in push:
                self._take_push(push)

    def _begin(self, asked: dict[str, Any], result: dict[str, Any]) -> None:
        channel = asked["channel"]
        assert channel not in self.standings
        # Without history all that is published from now on, and with it all that follows the position.
        number = result.get("offset", 0) if channel not in WITHOUT_HISTORY else len(self._colors[channel])
        standing = Standing("tf" in asked, result.get("delta", False), number, result.get("id", 0))
        self.standings[channel] = standing
        assert result.get("recovered", False) == (asked.get("epoch") == "" and "recover" in asked)
        assert bool(standing.channel_id) == bool(asked.get("flag", 0) & 1)
        for publication in result.get("publications", []):
            self._take(channel, standing, publication)

    def _take_push(self, push: dict[str, Any]) -> None:
        named = {each.channel_id: channel for channel, each in self.standings.items() if each.channel_id}
        channel = push.get("channel") or named[push["id"]]
        standing = self.standings[channel]
        assert push.get("id", 0) == standing.channel_id
        self._take(channel, standing, push["pub"])

    def _take(self, channel: str, standing: Standing, publication: dict[str, Any]) -> None:
        data = publication["data"]
        if standing.patched:
            patch = publication.get("delta")
            standing.base = fossil.apply_delta(standing.base.encode(), data.encode()).decode() if patch else data
            data = json.loads(standing.base)
        number = data["number"]
        if channel in WITHOUT_HISTORY and standing.early < number <= standing.number:
            standing.early = number
            return
        assert number == self._next(channel, standing), (channel, standing, number)
        standing.early = standing.number = number

    def _next(self, channel: str, standing: Standing) -> int | None:
        following = self._colors[channel][standing.number :]
        wanted = (at for at, color in enumerate(following, standing.number + 1) if color == "red")
        return next(wanted, None) if standing.filtered else standing.number + 1

    def complete(self) -> bool:
        """Whether all was received that was published until now."""
        self.read()
        return all(
            self._next(channel, each) in (None, len(self._colors[channel]) + 1)
            for channel, each in self.standings.items()
        )


class World:
    """One client that does anything, another that is in every channel or in none, and the backend."""

    def __init__(self, service: Application, seed: int) -> None:
        self.service = service
        self.random = random.Random(seed)
        self.colors: dict[str, list[str]] = {channel: [] for channel in NAMES}
        self.observer = FrameClient(service, "bob")
        self.model = Model(FrameClient(service, "alice"), self.colors)
        self._markers = 0

    def command(self) -> dict[str, Any]:
        """A command of the client."""
        channel = self.random.choice(NAMES)
        if self.random.random() < 0.5:
            return unsubscribe(channel)
        more: dict[str, Any] = {"tf": RED} if self.random.random() < 0.3 else {}
        more |= {"delta": "fossil"} if channel == "patched:a" and self.random.random() < 0.5 else {}
        more["flag"] = self.random.choice([0, 0, 1, 2, 3])
        if channel not in WITHOUT_HISTORY and self.random.random() < 0.4:
            known, top = self.random.random() < 0.7, len(self.colors[channel])
            missed = self.random.randrange(min(top, RECOVERED_AT_MOST) + 1)
            more |= {"recover": True, "epoch": "" if known else "other", "offset": top - missed}
        elif channel in WITHOUT_HISTORY:
            more["flag"] &= 1
        return subscribe(channel, **more)

    async def publish(self, channel: str) -> None:
        self.model.read()
        self.colors[channel].append(color := self.random.choice(["red", "blue"]))
        await publish(self.service, channel, {"number": len(self.colors[channel]), "text": TEXT}, color=color)

    async def act(self) -> None:
        """Something that happens to the client from outside."""
        channel, connection = self.random.choice(NAMES), self.model.client.connection
        commands: list[NodeCommand] = [
            SubscribeCommand(user="alice", channel=channel),
            UnsubscribeCommand(user="alice", channel=channel),
            DisconnectCommand(user="alice", client=connection.id, disconnect=DISCONNECT_FORCE_RECONNECT),
        ]
        match self.random.randrange(10):
            case 0 | 1 | 2 as number:
                await self.service.engine.control.send(commands[number])
            case 3:
                connection.renew_options(self.service.engine.channels)
            case 4:
                connection.on_close(1000, "")
            case _:
                await self.publish(channel)

    async def round(self) -> None:
        """Frames with events between them, until all is carried out, and what the client then has is right."""
        for _ in range(self.random.randrange(1, 5)):
            self.reconnect()
            self.model.send([self.command() for _ in range(self.random.randrange(1, 13))])
            await self.act()
            if self.random.random() < 0.3:
                await asyncio.sleep(0)
        await self.settle()
        self.reconnect()
        await self.settle()
        for channel in NAMES:
            await self.publish(channel)
        await until(self.model.complete, "all is received")
        self.check()
        # Also of the connections before, one of which may be on its way into a channel yet.
        counted, others = self.service.engine.metrics.subscriptions, self.observer.connection.session.subscriptions
        await until(
            lambda: sum(counted.values()) == len(self.model.standings) + len(others), "what is left counts no more"
        )

    def reconnect(self) -> None:
        client = self.model.client
        if client.transport.closed_with and client.connection.close_code is None:
            client.connection.on_close(*client.transport.closed_with)
        if client.connection.close_code is not None:
            self.model.read()
            self.model = Model(FrameClient(self.service, "alice"), self.colors)

    async def settle(self) -> None:
        """Wait until the commands of the backend have come, and nothing is pending."""
        self._markers += 1
        await publish(self.service, "plain:markers", self._markers)
        await until(lambda: self.observer.got(self._markers), "the commands of the backend have come")
        session = self.model.client.connection.session
        for client in (self.observer, self.model.client):
            client.connection.on_message("{}")  # a pong
        await until(lambda: not session._turns.pending, "nothing is pending")

    def check(self) -> None:
        hub, connection = self.service.engine.hub, self.model.client.connection
        standings = set(self.model.standings)
        assert standings == set(connection.session.subscriptions) == set(connection.memberships)
        for channel in NAMES:
            inside = channel in standings
            assert sum(receiver is connection for receiver in hub.subscribers.of(channel)) == inside
            watching = inside and "join_leave" in CHANNELS[channel.partition(":")[0]]
            # A subscription by the server gets joins and leaves too, as these are forced.
            assert (hub.watchers.group_of(channel, connection) is not None) == watching


@pytest.mark.parametrize("rounds", [12, pytest.param(300, marks=pytest.mark.long)])
@pytest.mark.parametrize("others", [True, False])
async def test_a_client_receives_what_its_last_subscriptions_say_and_leaves_nothing(
    service: Application, reports: Reports, others: bool, rounds: int
) -> None:
    world = World(service, seed=SEED + others)
    await world.observer.carry_out(subscribe("plain:markers"), *map(subscribe, NAMES if others else []))
    for _ in range(rounds):
        await world.round()
        for channel, begins in reports.of.items():
            inside = channel in world.model.standings
            assert begins == [True, False] * (len(begins) // 2) + [True] * inside
    for client in (world.model.client, world.observer):
        client.connection.on_close(1000, "")
    engine, subscriptions = service.engine, service.engine.subscriptions
    await until(lambda: not (subscriptions._streams or subscriptions._locks or engine.presence.clients), "all is left")
    await until(lambda: not set(NAMES) & (engine.hub.subscribers.channels.keys() | engine.hub.watchers.channels.keys()))
    assert not any(engine.metrics.subscriptions.values())
    assert not subscriptions.recent_bytes
    assert not engine.hub.subscribers.ids._ids
    assert not reports.connected_clients
