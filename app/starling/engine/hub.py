"""This process's connections and the channels that they receive: the local half of every fan-out."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Protocol, cast

from starling.engine.channels import namespace_of
from starling.engine.fanout import DeliveryTiming, Fanout, Group
from starling.engine.receiver import PushEncoder, Receiver
from starling.engine.unreadable_messages import UnreadableMessages
from starling.engine.user_index import UserIndex
from starling.engine.view import Base, ChannelIds, View
from starling.engine.viewed_channel import Groups, ViewedChannel
from starling.protocol.codes import CommandRefused
from starling.protocol.commands import Command
from starling.protocol.messages import Frame, Publication, Push, Reply
from starling.telemetry.metric_list import DELIVERY_BUCKETS
from starling.telemetry.metrics import Distribution, Metrics
from starling.telemetry.top_channels import ChannelMeter
from starling.telemetry.tracing import Delivery, NoTracer, TraceContext, Tracer


class SubscriberIndex:
    """The receivers of each channel, grouped by the form in which they get it, so that a frame is made once per group.

    Most receivers get the ordinary form of their encoder; a group of others is named by its view.
    """

    def __init__(self, unreadable: UnreadableMessages) -> None:
        self.channels: dict[str, Groups] = {}
        self.ids = ChannelIds()
        self._viewed: dict[str, ViewedChannel] = {}
        self._unreadable = unreadable

    def add(self, channel: str, receiver: Receiver, view: View | None = None, base: Base | None = None) -> bool:
        """Add a receiver; True when it is the channel's first.

        `base` is the newest publication that a receiver with a view of patches has got already.
        """
        groups = self.channels.get(channel)
        first = groups is None
        if groups is None:
            groups = self.channels[channel] = {}
        if view is not None:
            viewed = self._viewed.get(channel)
            if viewed is None:
                viewed = self._viewed[channel] = ViewedChannel(groups, partial(self._unreadable.note, channel=channel))
            viewed.add(receiver, view, base)
            return first
        group = groups.get(receiver.encoder)
        if group is None:
            group = groups[receiver.encoder] = Group(receiver.stats)
        group.add(receiver)
        return first

    def remove(self, channel: str, receiver: Receiver) -> bool:
        """Remove a receiver after writing what is pending for it; True when it was the last. Unknown is no error."""
        groups = self.channels.get(channel)
        if groups is None:
            # A receiver that was about to enter may have been given its number.
            self.ids.forget(channel)
            return False
        key: PushEncoder | View = receiver.encoder
        if (viewed := self._viewed.get(channel)) is not None:
            key = viewed.forget(receiver) or key
            if not viewed.views:
                del self._viewed[channel]
        group = groups.get(key)
        if group is None or receiver not in group.receivers:
            return False
        group.remove(receiver)
        if group.receivers:
            return False
        groups.pop(key, None)
        if groups:
            return False
        self.channels.pop(channel, None)
        self.ids.forget(channel)
        return True

    def of(self, channel: str) -> list[Receiver]:
        """All receivers of a channel."""
        return [receiver for group in self.channels.get(channel, {}).values() for receiver in group]

    def count(self, channel: str) -> int:
        """Number of receivers of a channel."""
        return sum(len(group) for group in self.channels.get(channel, {}).values())

    def group_of(self, channel: str, receiver: Receiver) -> Group | None:
        """The group in which a receiver gets a channel; None where it does not get it."""
        key: PushEncoder | View = receiver.encoder
        if (viewed := self._viewed.get(channel)) is not None:
            key = viewed.views.get(receiver) or key
        group = self.channels.get(channel, {}).get(key)
        return group if group is not None and receiver in group.receivers else None

    def encode(self, push: Push, *, delta: bool = False) -> list[tuple[Group, Frame]]:
        """Make the frame of each group that gets the push; a group whose format cannot carry it gets none.

        `delta`: readers of patches may get it as one. Call `queued` once the frames are queued.
        """
        if (viewed := self._viewed.get(push.channel)) is not None:
            return viewed.encode(push, delta=delta)
        frames = []
        for encoder, group in tuple(self.channels.get(push.channel, {}).items()):
            try:
                frames.append((group, cast("PushEncoder", encoder).encode_push(push)))
            except CommandRefused:
                self._unreadable.note(channel=push.channel)
        return frames

    def queued(self, channel: str) -> None:
        """The frames of the channel's last `encode` are queued for their groups."""
        if (viewed := self._viewed.get(channel)) is not None:
            viewed.prime()


class FrameObserver(Protocol):
    """Observes frames while a capture is on."""

    def received(self, receiver: Receiver, commands: Iterable[Command]) -> None:
        """Commands came from a client."""

    def replied(self, receiver: Receiver, reply: Reply) -> None:
        """A reply, a push or a ping goes to one client."""

    def pushed(self, push: Push, subscribers: SubscriberIndex) -> None:
        """A push goes to all receivers of its channel in `subscribers`."""

    def closed(self, receiver: Receiver, code: int, reason: str) -> None:
        """A client has disconnected."""


class Hub:
    """All connections of this process, the subscribers of channels, and the watchers of joins and leaves."""

    def __init__(self, tracer: Tracer | None = None, delivery: Distribution | None = None) -> None:
        """`delivery` gets the seconds from receiving each publication to writing it; None measures for nobody."""
        self._tracer = tracer or NoTracer()
        self._delivery = delivery or Distribution(DELIVERY_BUCKETS)
        self.received_at: float | None = None
        """When the publication that is broadcast now was received, by `time.monotonic`; None: it is not measured."""
        self.connections: set[Receiver] = set()
        self.unreadable = UnreadableMessages()
        self.subscribers = SubscriberIndex(self.unreadable)
        self.watchers = SubscriberIndex(self.unreadable)
        self.users = UserIndex()
        self.traffic = ChannelMeter()
        self.frame_tap: FrameObserver | None = None
        self._fanout = Fanout()

    @property
    def busy(self) -> bool:
        """Whether a broadcast is not written yet."""
        return self._fanout.busy

    def identify(self, receiver: Receiver) -> None:
        """Index a connection by its user, once that is known."""
        self.users.add(receiver)

    def forget(self, receiver: Receiver) -> None:
        """Remove a connection that has ended."""
        self.connections.discard(receiver)
        self.users.remove(receiver)

    def broadcast(
        self, channel: str, publication: Publication, trace: TraceContext | None = None, *, delta: bool = False
    ) -> None:
        """Queue a publication for all subscribers of this moment; it is written when this tick's work is done.

        `delta`: readers of patches may get it as one.
        """
        push = Push(channel, pub=publication)
        if self.frame_tap is not None:
            self.frame_tap.pushed(push, self.subscribers)
        traced = None if trace is None else self._begin_delivery(channel, publication, trace)
        deliveries = size = 0
        frames = self.subscribers.encode(push, delta=delta)
        timing = self._begin_timing(len(frames))
        for group, frame in frames:
            deliveries += len(group.receivers)
            size += group.count_sent(frame)
            self._fanout.add(group, frame)
            if timing is not None:
                group.time(timing)
            if traced is not None:
                group.trace(traced)
        self.subscribers.queued(channel)
        if traced is not None:
            traced.end()
        self._count_delivery(channel, deliveries, size)

    def _begin_timing(self, groups: int) -> DeliveryTiming | None:
        if self.received_at is None:
            return None
        timing = DeliveryTiming(self.received_at, groups, self._delivery)
        if not groups:
            timing.finish(time.monotonic())
        return timing

    def _begin_delivery(self, channel: str, publication: Publication, trace: TraceContext) -> Delivery | None:
        return self._tracer.fan_out(channel, namespace_of(channel), offset=publication.offset, trace=trace)

    def push_to_watchers(self, push: Push) -> None:
        """Send a join or a leave to the watchers of its channel, after what was published there before."""
        if self.frame_tap is not None:
            self.frame_tap.pushed(push, self.watchers)
        deliveries = size = 0
        for group, frame in self.watchers.encode(push):
            deliveries += len(group.receivers)
            size += group.count_sent(frame)
            # A receiver that reads too slowly is removed while it is written to.
            for receiver in tuple(group):
                if subscribers := self.subscribers.group_of(push.channel, receiver):
                    subscribers.flush(receiver)
                receiver.send(frame)
        self._count_delivery(push.channel, deliveries, size)

    def _count_delivery(self, channel: str, deliveries: int, size: int) -> None:
        if self.traffic.skip:
            self.traffic.skip -= 1
        elif deliveries:
            self.traffic.count(channel, deliveries, size)

    def flush(self, receiver: Receiver) -> None:
        """Write at once what is pending for a connection that is about to end."""
        self._fanout.flush(receiver)

    def report(self, metrics: Metrics) -> None:
        """Set the metric of this process's channels."""
        metrics.set("starling_channels", len(self.subscribers.channels))
        metrics.count("starling_unreadable_messages_total", self.unreadable.count)
