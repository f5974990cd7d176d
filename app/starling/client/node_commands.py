"""The commands of backends to connections, which every node executes on the connections that it holds."""

import heapq
import re
import time
from fnmatch import translate

import msgspec
from msgspec import Raw, Struct

from starling.client.authority import Grant
from starling.client.client_connection import ClientConnection, leave_out, ttl_until
from starling.engine.broker import StreamPosition
from starling.engine.control import Control, NodeCommand, NodeCommandRefused
from starling.engine.engine import Engine
from starling.engine.override import NO_OVERRIDE, ChannelOverride
from starling.engine.stream_reader import PUBLICATIONS
from starling.protocol.codes import DISCONNECT_FORCE_NO_RECONNECT, UNSUBSCRIBE_SERVER, Disconnect, Unsubscribe
from starling.protocol.commands import SubscribeRequest
from starling.protocol.messages import NO_PAYLOAD
from starling.protocol.tags_filter import ForcedFilterNode, compile_filter

# A node with more channels than this asks for a narrower pattern instead of answering with megabytes.
CHANNELS_LIMIT = 100_000


class ConnectionCommand(NodeCommand):
    """A command to the connections of `user` (empty: the anonymous ones), or of these only one `client` or `session`.

    Those in `whitelist`, by client id, are spared.
    """

    user: str = ""
    client: str = ""
    session: str = ""
    whitelist: list[str] = msgspec.field(default_factory=list)


class DisconnectCommand(ConnectionCommand):
    """Close the connections, as `disconnect` says."""

    disconnect: Disconnect = DISCONNECT_FORCE_NO_RECONNECT


class SubscribeCommand(ConnectionCommand):
    """Enter them in `channel`, from `since` on where that is given.

    `info` is shown to others in the channel, `data` goes to the client, `override` sets options of the channel for
    these subscriptions (engine.channels.Override). `expire_at` is their end in seconds since 1970; None never ends.
    `server_tags_filter`: they get only publications whose tags match it.
    """

    channel: str = ""
    info: bytes = b""
    data: bytes = b""
    override: ChannelOverride = NO_OVERRIDE
    since: StreamPosition | None = None
    expire_at: float | None = None
    server_tags_filter: ForcedFilterNode | None = None


class UnsubscribeCommand(ConnectionCommand):
    """Unsubscribe them from `channel`, and send them the reason."""

    channel: str = ""
    unsubscribe: Unsubscribe = UNSUBSCRIBE_SERVER


class RefreshCommand(ConnectionCommand):
    """Give the connections another end, in seconds since 1970; None never ends, `expired` is at once."""

    expire_at: float | None = None
    expired: bool = False


class ChannelsCommand(NodeCommand):
    """Return the channels that match `pattern`: `*` any text, `?` one character, `[ab]` one of these.

    Only those whose names follow `after`, and the first `limit` of these in the order of their names; 0: all.
    """

    pattern: str = "*"
    limit: int = 0
    after: str = ""


class ChannelCounts(Struct):
    """How many clients of a node are in each channel."""

    channels: dict[str, int]


class NodeCommands:
    """Sends commands to all nodes, and executes those that reach this one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._control: Control = engine.control
        self._control.on_command(DisconnectCommand, self._disconnect)
        self._control.on_command(SubscribeCommand, self._subscribe)
        self._control.on_command(UnsubscribeCommand, self._unsubscribe)
        self._control.on_command(RefreshCommand, self._refresh)
        self._control.on_command(ChannelsCommand, self._channels)

    async def send(self, command: ConnectionCommand) -> None:
        """Have every node carry it out. Raises BrokerUnavailable and PublicationTooLarge."""
        await self._control.send(command)

    async def channels(self, pattern: str, limit: int = 0, after: str = "") -> tuple[dict[str, int], bool, list[str]]:
        """How many clients are in each channel that matches `pattern`, over all nodes that answer in time, by name.

        Of the channels whose names follow `after` these are the first `limit` (0: all), whether there are more, and the
        names of nodes that did not answer.
        Raises BrokerUnavailable, and NodeCommandRefused when there are too many channels to return.
        """
        counts: dict[str, int] = {}
        # One more than wanted shows whether there are more.
        asked = ChannelsCommand(pattern, limit + 1 if limit else 0, after)
        known = {info.uid: info.name for info in self._control.nodes()}
        answers = await self._control.ask(asked)
        for answer in answers.values():
            for channel, clients in msgspec.json.decode(answer, type=ChannelCounts).channels.items():
                # A node of an earlier version returns all channels.
                if channel > after:
                    counts[channel] = counts.get(channel, 0) + clients
        ordered = sorted(counts.items())
        missing = sorted(name for uid, name in known.items() if uid not in answers)
        return dict(ordered[: limit or None]), bool(limit) and len(ordered) > limit, missing

    def _chosen(self, command: ConnectionCommand) -> list[ClientConnection]:
        return [
            connection
            for connection in self._engine.hub.users.of(command.user)
            if isinstance(connection, ClientConnection)
            and (not command.client or connection.id == command.client)
            and (not command.session or connection.session_id == command.session)
            and connection.id not in command.whitelist
        ]

    def _disconnect(self, command: DisconnectCommand) -> None:
        for connection in self._chosen(command):
            connection.send_disconnect(command.disconnect)

    def _subscribe(self, command: SubscribeCommand) -> None:
        options = self._engine.channels.options(command.channel).overridden(command.override)
        grant = Grant(
            options,
            info=_payload(command.info),
            data=_payload(command.data),
            expires_at=command.expire_at,
            recover=command.since is not None,
            filter=None if command.server_tags_filter is None else compile_filter(command.server_tags_filter),
        )
        for connection in self._chosen(command):
            if connection.own_channels_only:
                continue
            request = SubscribeRequest(command.channel)
            if command.since is not None:
                request.recover, request.offset, request.epoch = True, command.since.offset, command.since.epoch
            if connection.reads(grant.options):
                connection.carry_out(connection.session.subscribe(request, time.monotonic(), grant))
            else:
                leave_out(connection, request.channel)

    def _unsubscribe(self, command: UnsubscribeCommand) -> None:
        for connection in self._chosen(command):
            connection.send_unsubscribe(command.channel, command.unsubscribe)

    def _refresh(self, command: RefreshCommand) -> None:
        for connection in self._chosen(command):
            connection.move_end(command.expire_at)
            ttl = ttl_until(0.0 if command.expired else command.expire_at)
            connection.carry_out(connection.session.refresh(time.monotonic(), ttl=ttl))

    def _channels(self, command: ChannelsCommand) -> ChannelCounts:
        fits = re.compile(translate(command.pattern)).match
        counts: dict[str, int] = {}
        for channel, groups in self._engine.hub.subscribers.channels.items():
            # The chat's room and the like are no channels of the real-time protocol.
            if not channel.startswith(":") and channel > command.after and fits(channel):
                counted = sum(len(group) for form, group in groups.items() if form is not PUBLICATIONS)
                if counted:
                    counts[channel] = counted
        if command.limit:
            counts = {channel: counts[channel] for channel in heapq.nsmallest(command.limit, counts)}
        elif len(counts) > CHANNELS_LIMIT:
            raise NodeCommandRefused(f"over {CHANNELS_LIMIT} channels fit this pattern: give a narrower one")
        return ChannelCounts(counts)


def _payload(data: bytes) -> Raw:
    return Raw(data) if data else NO_PAYLOAD
