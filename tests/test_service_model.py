"""Any sequence of what clients and a backend may do, against a model of a page: hub, broker and recovery as one.

The whole service stands here but for its sockets: node, hub, streams, memory broker and sessions are the real ones.
Clients are the protocol over a transport of the test's, because what is wrong between these parts is easier found in
hundreds of small conversations than over sockets.
"""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
import structlog
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.client.client_connection import JsonConnection
from starling.main import Application, build_application
from starling.protocol.codes import UNSUBSCRIBE_SERVER
from starling.protocol.messages import Frame, Publication
from starling.settings import load_settings
from tests.support.json_transport import JsonTransport
from tests.support.virtual_time import VirtualTimeLoop

KEPT = {"few": 3, "many": 1000}
"""How many publications the channels of each namespace with history keep."""
CHANNELS = ("few:a", "many:a", "many:b", "plain:a")
CHANNELS_FILE = json.dumps(
    {
        "namespaces": {"plain": {}}
        | {name: {"history_size": size, "history_ttl": "1h", "force_recovery": True} for name, size in KEPT.items()}
    }
)


class Wire(JsonTransport):
    """The transport of one client, which must stay open."""

    def send_frame(self, frame: Frame) -> None:
        assert self.closed_with is None, "written after the close"
        super().send_frame(frame)

    def ping(self) -> None:
        raise AssertionError("the real-time endpoint pings in its own language")


@dataclass
class ModelChannel:
    """What was published in a channel, one number each; the newest `kept` of them can be recovered."""

    kept: int
    published: list[int] = field(default_factory=list)
    bottom: int = 0
    """This many of them are gone, whether trimmed or removed."""

    def publish(self, number: int) -> None:
        self.published.append(number)
        self.bottom = max(self.bottom, len(self.published) - self.kept)


@dataclass(eq=False)
class Client:
    """One user with a page: what it holds of each channel outlives its connections."""

    wire: Wire
    connection: JsonConnection
    next_id: int = 1
    subscribing: dict[int, str] = field(default_factory=dict)
    """The channel of each subscribe command, by its id."""
    got: dict[str, list[int]] = field(default_factory=dict)
    """What the client has seen of a channel since it last began there."""
    wanted: dict[str, list[int]] = field(default_factory=dict)
    """The same, as the model has it."""
    positions: dict[str, tuple[int, str]] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    replies: list[dict[str, Any]] = field(default_factory=list)
    put_out: list[str] = field(default_factory=list)
    """Channels that the client was notified of leaving."""


class Conversations(RuleBasedStateMachine):
    """Clients that come, go and return, and publications of both sides."""

    clients = Bundle("clients")
    channels: ClassVar = st.sampled_from(CHANNELS)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.stack = contextlib.AsyncExitStack()
        self.everyone: list[Client] = []
        self.number = 0
        self.model = {channel: ModelChannel(KEPT.get(channel.split(":")[0], 0)) for channel in CHANNELS}
        self.service: Application = self.runner.run(self._start())

    async def _start(self) -> Application:
        path = Path(self.stack.enter_context(tempfile.TemporaryDirectory())) / "channels.json"
        path.write_text(CHANNELS_FILE)
        service = build_application(
            load_settings({"STARLING_DEV": "true", "STARLING_CHANNELS_FILE": str(path)}), CollectorRegistry()
        )
        await self.stack.enter_async_context(service.asgi.router.lifespan_context(service.asgi))
        return service

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    # What clients do

    @rule(target=clients)
    def come(self) -> Client:
        wire, connection = self._connect()
        client = Client(wire, connection)
        self.everyone.append(client)
        self._say(client, {"connect": {}})
        return client

    @rule(client=clients)
    def lose_the_connection_and_return(self, client: Client) -> None:
        self._lose(client)
        client.wire, client.connection = self._connect()
        self._say(client, {"connect": {}})

    @rule(client=consumes(clients))
    def go(self, client: Client) -> None:
        self._lose(client)
        self.everyone.remove(client)

    @rule(client=clients, channel=channels)
    def subscribe(self, client: Client, channel: str) -> None:
        if channel not in client.live:
            self._subscribe(client, channel)

    @rule(client=clients, channel=channels)
    def unsubscribe(self, client: Client, channel: str) -> None:
        self._say(client, {"unsubscribe": {"channel": channel}})
        client.live.discard(channel)

    @rule(client=clients, channel=channels)
    def publish(self, client: Client, channel: str) -> None:
        self._say(client, {"publish": {"channel": channel, "data": self._published(channel)}})

    @rule(client=clients, channel=channels, count=st.integers(2, 5))
    def publish_several_in_one_frame(self, client: Client, channel: str, count: int) -> None:
        self._say(client, *({"publish": {"channel": channel, "data": self._published(channel)}} for _ in range(count)))

    @rule(client=clients, channel=channels)
    def leave_and_return_in_one_frame(self, client: Client, channel: str) -> None:
        if channel in client.live:
            client.live.discard(channel)
            self._subscribe(client, channel, before=[{"unsubscribe": {"channel": channel}}])

    # What a backend does

    @rule(channel=channels, count=st.integers(1, 6))
    def publish_from_outside(self, channel: str, count: int) -> None:
        async def work() -> None:
            for _ in range(count):
                publication = Publication(Raw(b"%d" % self._published(channel)))
                options = self.service.engine.channels.options(channel).publish_options()
                await self.service.engine.publisher.publish(channel, publication, options)

        self._run(work())

    @rule(channel=st.sampled_from([channel for channel in CHANNELS if not channel.startswith("plain")]))
    def remove_the_history(self, channel: str) -> None:
        options = self.service.engine.channels.options(channel)
        self._run(self.service.engine.history.remove(channel, options))
        self.model[channel].bottom = len(self.model[channel].published)

    @rule(client=clients, channel=channels)
    def put_out_of_a_channel(self, client: Client, channel: str) -> None:
        async def work() -> None:
            client.connection.send_unsubscribe(channel, UNSUBSCRIBE_SERVER)

        self._run(work())
        assert client.put_out == ([channel] if channel in client.live else [])
        client.put_out.clear()
        client.live.discard(channel)

    # What must hold

    @invariant()
    def every_client_has_what_it_should(self) -> None:
        for client in self.everyone:
            assert client.wire.closed_with is None
            for channel in client.wanted:
                assert client.got[channel] == client.wanted[channel], channel

    @invariant()
    def the_hub_holds_who_is_live_and_nobody_else(self) -> None:
        hub = self.service.engine.hub
        assert len(hub.connections) == len(self.everyone)
        live = {channel for client in self.everyone for channel in client.live}
        assert set(hub.subscribers.channels) == live

    # How it is done

    def _connect(self) -> tuple[Wire, JsonConnection]:
        wire = Wire()
        connection = JsonConnection(self.service.context.dispatcher, None)

        async def begin() -> None:
            connection.open(wire)

        self._run(begin())
        return wire, connection

    def _lose(self, client: Client) -> None:
        async def end() -> None:
            client.connection.on_close(1006, "")

        self._run(end())
        client.live.clear()

    def _subscribe(self, client: Client, channel: str, before: Sequence[dict[str, Any]] = ()) -> None:
        """Subscribe, from where the client stood if it was there before; the model says what becomes of it."""
        model = self.model[channel]
        request: dict[str, Any] = {"channel": channel}
        recoverable = False
        if model.kept and channel in client.positions:
            offset, epoch = client.positions[channel]
            request |= {"recover": True, "offset": offset, "epoch": epoch}
            recoverable = offset >= model.bottom
        if recoverable:
            client.wanted[channel] += model.published[offset:]
        else:
            client.wanted[channel] = []
        client.live.add(channel)
        result = self._say(client, *before, {"subscribe": request})[-1]["subscribe"]
        assert result.get("recovered", False) is recoverable
        # Who recovers moves on from where it stood with each publication; everybody else stands at the top.
        top = len(model.published) if model.kept else 0
        assert result.get("offset", 0) == (offset if recoverable else top)

    def _say(self, client: Client, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        """Send commands in one frame; returns their replies in order, of which none may be an error."""
        numbered = [{"id": client.next_id + index} | command for index, command in enumerate(commands)]
        client.next_id += len(commands)
        client.subscribing |= {
            command["id"]: command["subscribe"]["channel"] for command in numbered if "subscribe" in command
        }

        async def send() -> None:
            client.connection.on_message("\n".join(map(json.dumps, numbered)))

        self._run(send())
        replies, client.replies = client.replies, []
        assert [reply["id"] for reply in replies] == [command["id"] for command in numbered]
        assert not [reply for reply in replies if "error" in reply]
        return replies

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, let all that follows from it come to rest, and let every client read."""

        async def rest() -> None:
            await work
            await asyncio.sleep(0.05)

        self.runner.run(rest())
        for client in self.everyone:
            lines, client.wire.lines = client.wire.lines, []
            for line in lines:
                self._read(client, line)

    def _read(self, client: Client, message: dict[str, Any]) -> None:
        if push := message.get("push"):
            if "unsubscribe" in push:
                client.put_out.append(push["channel"])
            else:
                self._take(client, push["channel"], push["pub"])
            return
        client.replies.append(message)
        if (result := message.get("subscribe")) is not None:
            channel = client.subscribing.pop(message["id"])
            if not result.get("recovered"):
                client.got[channel] = []
            for publication in result.get("publications", ()):
                self._take(client, channel, publication)
            client.positions[channel] = (result.get("offset", 0), result.get("epoch", ""))

    def _take(self, client: Client, channel: str, publication: dict[str, Any]) -> None:
        client.got[channel].append(publication["data"])
        if offset := publication.get("offset"):
            client.positions[channel] = (offset, client.positions[channel][1])

    def _published(self, channel: str) -> int:
        """The next number, which the model takes for published in a channel."""
        self.number += 1
        self.model[channel].publish(self.number)
        for client in self.everyone:
            if channel in client.live:
                client.wanted[channel].append(self.number)
        return self.number


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of log lines report nothing here."""
    with structlog.testing.capture_logs():
        yield


TestConversations = Conversations.TestCase
TestConversations.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
