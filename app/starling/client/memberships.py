"""The channels of one client: entering them, leaving them, and what it has in each."""

from collections.abc import Callable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from starling.client.authority import Grant
from starling.engine.broker import StreamPosition
from starling.engine.channels import ChannelOptions, Channels, namespace_of
from starling.engine.engine import Engine
from starling.engine.follower import Joined
from starling.engine.override import ChannelOverride
from starling.engine.receiver import Receiver, TokenFacts
from starling.engine.subscriptions import NOT_COUNTED, Subscriber
from starling.engine.view import View
from starling.protocol.codes import CommandRefused
from starling.protocol.commands import SubscribeRequest
from starling.protocol.messages import ClientInfo
from starling.protocol.tags_filter import TagsFilter


class Membership(Struct, frozen=True):
    """A channel that the client is in, or on its way into."""

    subscriber: Subscriber
    grant: Grant


class Memberships:
    """The channels that one client is in, or on its way into; iterating gives their names.

    Each is counted in the metrics, and shown in presence, for as long. The connection sends the replies and pushes.
    """

    __slots__ = ("_by_channel", "_engine")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_channel: dict[str, Membership] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_channel)

    def options(self, channel: str) -> ChannelOptions | None:
        """The channel's options as they are for this client; None where it is not in it."""
        membership = self._by_channel.get(channel)
        return None if membership is None else membership.grant.options

    def grant(self, channel: str) -> Grant | None:
        """What the client has in a channel; None where it is not in it."""
        membership = self._by_channel.get(channel)
        return None if membership is None else membership.grant

    def filter(self, channel: str) -> TagsFilter | None:
        """What the publications of a channel that the client gets must match; None where it gets all."""
        membership = self._by_channel.get(channel)
        if membership is None:
            return None
        view = membership.subscriber.view
        return membership.grant.filter if view is None else view.filter

    def renew_options(self, channels: Channels) -> list[str]:
        """Take the rights and bounds that `channels` give now; returns the channels whose namespace is gone.

        What the client got when it subscribed (presence, joins and leaves, position) stays until it subscribes anew.
        """
        gone = []
        for channel, membership in self._by_channel.items():
            try:
                current = channels.options(channel)
            except CommandRefused:
                gone.append(channel)
                continue
            held = membership.grant.options
            kept = current.model_copy(update={name: getattr(held, name) for name in ChannelOverride.__struct_fields__})
            self._by_channel[channel] = replace(membership, grant=replace(membership.grant, options=kept))
        return gone

    def renew(self, channel: str, grant: Grant) -> bool:
        """The client stays in a channel by another subscription token, that of `grant`; nothing, if it is not in it.

        False where the new token forces another filter than the one before: then it must subscribe again.
        """
        membership = self._by_channel.get(channel)
        if membership is None:
            return True
        held = membership.grant
        hooked = None if held.hooked is None else replace(held.hooked, info=bytes(grant.info))
        renewed = replace(held, token=grant.token, token_filter=grant.token_filter, hooked=hooked)
        self._by_channel[channel] = replace(membership, grant=renewed)
        return held.token_filter == grant.token_filter

    def refused(self, refuses: Callable[[TokenFacts], bool]) -> list[str]:
        """The channels whose subscription token `refuses` says no to."""
        return [
            channel
            for channel, membership in self._by_channel.items()
            if membership.grant.token is not None and refuses(membership.grant.token)
        ]

    # Entering

    async def enter(
        self,
        subscriber: Subscriber,
        grant: Grant,
        info: ClientInfo,
        since: StreamPosition | None,
        *,
        wanted: TagsFilter | None = None,
    ) -> None:
        """Let the client into a channel, as others may know it by `info`, with what it missed since `since`.

        The subscriber is answered at the moment from which nothing will be missed; one that was not, be it by its own
        refusal, is not in the channel. `wanted` filters the newest publication of a cache channel. Raises
        BrokerUnavailable.
        """
        engine, channel = self._engine, subscriber.channel
        latest = grant.options.force_recovery_mode == "cache"
        self._by_channel[channel] = Membership(subscriber, grant)
        engine.metrics.subscriptions[namespace_of(channel)] += 1
        try:
            await engine.presence.arrive(channel, info, grant.options)
            matches = None if wanted is None else wanted.matches
            await engine.subscriptions.join(subscriber, grant.options, since, latest=latest, matches=matches)
        finally:
            if not subscriber.answered and not subscriber.dropped:
                engine.metrics.subscriptions[namespace_of(channel)] -= 1
                held = self._by_channel.get(channel)
                # By now it may be another's: a client that was refused can be on its way in again.
                if held is not None and held.subscriber is subscriber:
                    del self._by_channel[channel]
                    engine.presence.depart(channel, info.client)

    def enter_live(self, connection: Receiver, channel: str, grant: Grant, view: View | None = None) -> None:
        """Enter at once a channel that this process receives, without history, presence, joins and leaves.

        Its connection has the answer ready.
        """
        subscriber = Subscriber(connection, channel, _answered_already)
        # The reply is the next frame.
        subscriber.frames = connection.sent + 1
        subscriber.view = view
        self._by_channel[channel] = Membership(subscriber, grant)
        self._engine.metrics.subscriptions[namespace_of(channel)] += 1
        self._engine.subscriptions.join_live(subscriber)

    def note_answered(self, channel: str, frames: int) -> None:
        """Note how many `frames` the client had got with its answer, which brought it no content."""
        if (membership := self._by_channel.get(channel)) is not None:
            membership.subscriber.frames = frames

    def note_read(self, channel: str) -> None:
        """Note that the client gets content of the channel in answer to a command; nothing, if it is not in it."""
        if (membership := self._by_channel.get(channel)) is not None:
            membership.subscriber.frames = NOT_COUNTED

    def watch(self, receiver: Receiver, request: SubscribeRequest, options: ChannelOptions) -> None:
        """Have the client get joins and leaves of the channel, where it asked for them or the options force them."""
        if options.join_leave and (request.join_leave or options.force_push_join_leave):
            self._engine.hub.watchers.add(request.channel, receiver)

    # Leaving

    def drop(self, channel: str) -> Membership | None:
        """From now on the client gets nothing more of a channel; None if it is not in it. `leave` does the rest."""
        membership = self._by_channel.pop(channel, None)
        if membership is not None:
            self._engine.metrics.subscriptions[namespace_of(channel)] -= 1
            self._engine.subscriptions.drop(membership.subscriber)
        return membership

    def leave_now(self, dropped: Membership) -> bool:
        """Take a client that was dropped from a channel out of it without waiting; False where `leave` must do it."""
        subscriber = dropped.subscriber
        if not self._engine.subscriptions.leave_now(subscriber.receiver, subscriber.channel):
            return False
        self._engine.presence.depart(subscriber.channel, subscriber.receiver.id)
        return True

    async def leave(self, dropped: Membership) -> None:
        """Take a client that was dropped from a channel out of presence and out of the channel."""
        subscriber = dropped.subscriber
        self._engine.presence.depart(subscriber.channel, subscriber.receiver.id)
        await self._engine.subscriptions.leave(subscriber.receiver, subscriber.channel)

    def leave_all(self) -> None:
        """Take a client that is not let in after all out of every channel, in tasks that the engine owns."""
        for channel in tuple(self._by_channel):
            if (membership := self.drop(channel)) is not None:
                self._engine.tasks.start(self.leave(membership))


def _answered_already(_subscriber: Subscriber, _joined: Joined) -> bool:
    return True
