"""This process's connections and who of them listens to what: the local half of every fan-out."""

from collections.abc import Callable, Iterable
from typing import Protocol

from starling.engine.channels import namespace_of
from starling.engine.connection import Connection
from starling.engine.fanout import Fanout, Group
from starling.engine.transport import Frame
from starling.protocol.codes import CommandRefused
from starling.protocol.messages import Command, Publication, Push, Reply
from starling.telemetry.top_channels import ChannelMeter
from starling.telemetry.tracing import Delivery, NoTracer, TraceContext, Tracer

Encode = Callable[[Push], Frame]


class SubscriberIndex:
    """Who listens to each channel, grouped by how they encode, so that a frame is made once a group."""

    def __init__(self) -> None:
        self.channels: dict[str, dict[Encode, Group]] = {}

    def add(self, channel: str, connection: Connection) -> bool:
        """Add a listener; True when it is the channel's first."""
        groups = self.channels.get(channel)
        first = groups is None
        if groups is None:
            groups = self.channels[channel] = {}
        group = groups.get(connection.encode)
        if group is None:
            group = groups[connection.encode] = Group(connection.stats)
        group.add(connection)
        return first

    def remove(self, channel: str, connection: Connection) -> bool:
        """Take a listener out, with what it is owed; True when it was the channel's last. Unasked is no error."""
        groups = self.channels.get(channel)
        group = groups.get(connection.encode) if groups else None
        if groups is None or group is None or connection not in group.connections:
            return False
        group.remove(connection)
        if group.connections:
            return False
        groups.pop(connection.encode, None)
        if groups:
            return False
        self.channels.pop(channel, None)
        return True

    def of(self, channel: str) -> list[Connection]:
        """Everyone who listens to a channel."""
        return [connection for group in self.channels.get(channel, {}).values() for connection in group]

    def count(self, channel: str) -> int:
        """How many listen to a channel."""
        return sum(len(group) for group in self.channels.get(channel, {}).values())

    def encode(self, push: Push) -> list[tuple[Group, Frame]]:
        """Make the frame of each group that listens to the push's channel; who cannot read it is refused."""
        frames = []
        for encode, group in tuple(self.channels.get(push.channel, {}).items()):
            try:
                frames.append((group, encode(push)))
            except CommandRefused as refusal:
                for connection in tuple(group):
                    connection.refuse(refusal.reason)
        return frames


class FrameObserver(Protocol):
    """Looks at frames while somebody traces them."""

    def received(self, connection: Connection, commands: Iterable[Command]) -> None:
        """Commands came from a client."""

    def replied(self, connection: Connection, reply: Reply) -> None:
        """A reply, a push or a ping goes to one client."""

    def pushed(self, push: Push, audience: SubscriberIndex) -> None:
        """A push goes to everybody in `audience` who listens to its channel."""

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        """A client has gone."""


class Hub:
    """All connections of this process, the subscribers of channels, and those who are told who comes and goes."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or NoTracer()
        self.connections: set[Connection] = set()
        self.subscribers = SubscriberIndex()
        self.watchers = SubscriberIndex()
        self.users: dict[str, set[Connection]] = {}
        self.traffic = ChannelMeter()
        self.tap: FrameObserver | None = None
        self._fanout = Fanout()

    def identify(self, connection: Connection) -> None:
        """Note whose connection this is, now that it is known."""
        self.users.setdefault(connection.user, set()).add(connection)

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if (of_user := self.users.get(connection.user)) is not None:
            of_user.discard(connection)
            if not of_user:
                del self.users[connection.user]

    def broadcast(self, channel: str, publication: Publication, trace: TraceContext | None = None) -> None:
        """Owe a publication to everyone who subscribes here now; it is written when this tick's work is done."""
        push = Push(channel, pub=publication)
        if self.tap is not None:
            self.tap.pushed(push, self.subscribers)
        traced = None if trace is None else self._begin_delivery(channel, publication, trace)
        deliveries = size = 0
        for group, frame in self.subscribers.encode(push):
            deliveries += (listeners := len(group.connections))
            size += (sent := len(frame.payload) * listeners)
            group.stats.messages_out += listeners
            group.stats.bytes_out += sent
            self._fanout.add(group, frame)
            if traced is not None:
                group.trace(traced)
        if traced is not None:
            traced.end()
        if self.traffic.skip:
            self.traffic.skip -= 1
        elif deliveries:
            self.traffic.count(channel, deliveries, size)

    def _begin_delivery(self, channel: str, publication: Publication, trace: TraceContext) -> Delivery | None:
        return self._tracer.fan_out(channel, namespace_of(channel), offset=publication.offset, trace=trace)

    def tell_watchers(self, push: Push) -> None:
        """Hand a join or a leave to those who watch its channel, after what was published there before."""
        if self.tap is not None:
            self.tap.pushed(push, self.watchers)
        groups = self.subscribers.channels.get(push.channel, {})
        deliveries = size = 0
        for group, frame in self.watchers.encode(push):
            deliveries += len(group)
            size += len(frame.payload) * len(group)
            group.stats.messages_out += len(group)
            group.stats.bytes_out += len(frame.payload) * len(group)
            # Whoever reads too slowly leaves as it is written to.
            for connection in tuple(group):
                if subscribers := groups.get(connection.encode):
                    subscribers.settle(connection)
                connection.send(frame)
        if self.traffic.skip:
            self.traffic.skip -= 1
        elif deliveries:
            self.traffic.count(push.channel, deliveries, size)

    def settle(self, connection: Connection) -> None:
        """Write at once what a connection is owed: its end comes next."""
        self._fanout.settle(connection)
