"""One client of the real-time protocol: carries out what its session decides."""

import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import structlog
from msgspec import Raw
from msgspec.structs import replace

from starling import __version__
from starling.client.authority import Authority, Grant, Identity
from starling.client.connection import Connection
from starling.client.held_transport import HeldTransport
from starling.client.memberships import Membership, Memberships
from starling.client.recovery import recovers_from, subscribe_result
from starling.engine.broker import (
    BrokerUnavailable,
    PublicationTooLarge,
    PublishOptions,
    PublishOutcome,
    StreamPosition,
)
from starling.engine.channels import ChannelOptions
from starling.engine.engine import Engine
from starling.engine.follower import Joined
from starling.engine.rights import Client, Verb, may
from starling.engine.subscriptions import Subscriber
from starling.engine.token_facts import TokenFacts
from starling.engine.transport import WRITE_ERROR, Frame
from starling.protocol import codes
from starling.protocol.codec import Codec
from starling.protocol.codec_json import JsonCodec
from starling.protocol.codec_protobuf import ProtobufCodec
from starling.protocol.codes import CommandRefused, Disconnect, Error, Unsubscribe
from starling.protocol.decisions import (
    Action,
    Authenticate,
    Call,
    Close,
    Decision,
    Deliver,
    EndSubscription,
    History,
    Ping,
    Presence,
    PresenceStats,
    Publish,
    Refresh,
    SubRefresh,
    Subscribe,
    Subscription,
    Write,
)
from starling.protocol.messages import (
    FLAG_REJECT_UNRECOVERED,
    NO_PAYLOAD,
    ClientInfo,
    ConnectResult,
    PresenceResult,
    PresenceStatsResult,
    Publication,
    PublishResult,
    Push,
    Reply,
    RPCResult,
    SubscribeRequest,
    SubscribeResult,
)
from starling.protocol.session import Session, SessionLimits, SessionState

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.realtime")

# What each action is called on the wire; what ends a subscription may have other reasons than a command.
METHODS: dict[type[Action], str] = {
    Authenticate: "connect",
    Subscribe: "subscribe",
    Publish: "publish",
    Presence: "presence",
    PresenceStats: "presence_stats",
    History: "history",
    Call: "rpc",
    Deliver: "send",
    Refresh: "refresh",
    SubRefresh: "sub_refresh",
}


# Commands that may lead to a publication, by themselves or through a hook; each may begin a trace.
TRACED_COMMANDS = frozenset({"publish", "rpc", "send"})

# In the empty namespace, which no client can name: a channel for each user, whose members are its connections.
USER_CHANNELS = ":user:"
# RFC 6455 section 7.1.5: the code of a connection that ended without one.
VANISHED = 1006
JSON = JsonCodec()
PROTOBUF = ProtobufCodec()


class RealtimeConnection(Connection):
    """A client with its session, its identity and its channels; subclasses name the wire format.

    An action of the session runs in a task of its own, unless it can be carried out at once; the session sees to the
    order within a channel.
    """

    __slots__ = (
        "_authority",
        "_deadline",
        "_handshake",
        "_memberships",
        "_paused",
        "_place",
        "_told",
        "identity",
        "session",
        "session_id",
    )

    codec: ClassVar[Codec]

    def __init__(
        self, engine: Engine, authority: Authority, limits: SessionLimits, handshake: Identity | CommandRefused | None
    ) -> None:
        super().__init__(engine, handshake.user if isinstance(handshake, Identity) else "")
        self.identity = Identity()
        # A hook may take longer for one publication than for the next, so the next waits for it.
        self.session = Session(limits, time.monotonic(), publish_in_turn=engine.hooks.sees_publications)
        self.session_id = f"{engine.node.names.getrandbits(64):016x}"
        self._authority = authority
        self._handshake = handshake
        self._memberships = Memberships(engine)
        self._deadline = self.session.deadline
        self._paused = False
        # Where its user's connections are counted, once it is one of them.
        self._place = ""
        # Whether others outside know of this client; then they hear of its end, and of every channel it leaves.
        self._told = False

    def info(self, chan_info: Raw = NO_PAYLOAD) -> ClientInfo:
        """Who this client is, as others may know it."""
        return ClientInfo(self.identity.user, self.id, self.identity.info, chan_info)

    # What the transport and time tell

    def on_message(self, message: str | bytes) -> None:
        """Take the commands of one frame."""
        self.count_received(message)
        try:
            self._take(message)
        except Exception:
            log.exception("client_failed", connection_id=self.id)
            self._fail()

    def _take(self, message: str | bytes) -> None:
        commands = self.codec.decode(message)
        if isinstance(commands, Disconnect):
            self._carry_out(self.session.close(commands))
            return
        if self.engine.hub.tap is not None:
            self.engine.hub.tap.received(self, commands)
        now = time.monotonic()
        decisions: list[Decision] = []
        for command in commands:
            decisions += self.session.receive(command, now)
        self._carry_out(decisions)
        if self.session.busy and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def first_tick(self, now: float) -> float:
        """When the connect command must have come."""
        return self.session.deadline

    def tick(self, now: float) -> float:
        """Let the session do what is due."""
        self._deadline = 0.0
        try:
            self._carry_out(self.session.tick(now))
        except Exception:
            log.exception("client_failed", connection_id=self.id)
            self._fail()
        self._deadline = self.session.deadline
        return self._deadline

    def on_overflow(self) -> None:
        """Cut a client that reads too slowly."""
        self._carry_out(self.session.close(codes.DISCONNECT_SLOW))

    def on_shutdown(self) -> None:
        """Let the client go, to come back to another process."""
        self._carry_out(self.session.close(codes.DISCONNECT_SHUTDOWN))

    def on_close(self, code: int, reason: str) -> None:
        """The conversation has ended: leave every channel.

        A client that vanished cannot be told why, but those who look after it can: with the protocol's own codes.
        """
        if code == VANISHED:
            gone = codes.DISCONNECT_WRITE_ERROR if reason == WRITE_ERROR else codes.DISCONNECT_CONNECTION_CLOSED
            code, reason = gone.code, gone.reason
        if self.engine.hub.tap is not None:
            self.engine.hub.tap.closed(self, code, reason)
        super().on_close(code, reason)
        self._carry_out(self.session.lost())
        if self._place:
            self.engine.presence.depart(self._place, self.id)
        if self._told:
            self.engine.lifecycle.disconnected(self.id, self.user, code, reason)

    def refuse(self, reason: Error | Disconnect) -> None:
        """End the conversation, because what should be told here cannot be."""
        self._carry_out(self.session.close(reason if isinstance(reason, Disconnect) else codes.DISCONNECT_INTERNAL))

    def lose_state(self, channel: str) -> None:
        """Tell the client that what it should have got of a channel is not to be had any more."""
        reason = codes.UNSUBSCRIBE_INSUFFICIENT_STATE
        self._carry_out(self.session.unsubscribe(channel, reason, time.monotonic()))

    # What a backend orders

    def send_subscribe(self, request: SubscribeRequest, grant: Grant) -> None:
        """Enter a channel without the client's asking, with what `grant` gives; nothing, if it is in it."""
        self._carry_out(self.session.subscribe(request, time.monotonic(), grant))

    def send_unsubscribe(self, channel: str, reason: Unsubscribe) -> None:
        """Leave a channel, and tell the client why; nothing, if it is not in it."""
        self._carry_out(self.session.unsubscribe(channel, reason, time.monotonic()))

    def send_disconnect(self, reason: Disconnect) -> None:
        """End the conversation."""
        self._carry_out(self.session.close(reason))

    def send_refresh(self, expires_at: float | None) -> None:
        """Give the connection another end, in seconds since 1970; None never ends."""
        self._carry_out(self.session.refresh(time.monotonic(), ttl=_ttl(expires_at)))

    def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
        """End the conversation, or the subscriptions, that a refused token stands behind."""
        token = self.identity.token
        if self.close_code is not None:
            return None
        if token is not None and refuses(token):
            self.send_disconnect(codes.DISCONNECT_INVALID_TOKEN)
            return token
        for channel in self._memberships.refused(refuses):
            self.send_unsubscribe(channel, codes.UNSUBSCRIBE_SERVER)
        return None

    # What the session decides

    def _carry_out(self, decisions: list[Decision]) -> None:
        replies: list[bytes] = []
        left = iter(decisions)
        for decision in left:
            match decision:
                case Write(reply):
                    try:
                        replies.append(self._encode_reply(reply))
                    except CommandRefused as refusal:
                        self._write(replies)
                        self.refuse(refusal.reason)
                        # Out of the session's hands already, these are nobody else's to carry out.
                        self._carry_out([ending for ending in left if isinstance(ending, EndSubscription)])
                        return
                case Ping():
                    replies.append(self._encode_reply(Reply()))
                case Close(disconnect):
                    self._write(replies)
                    self.close(disconnect.code, disconnect.reason)
                case EndSubscription():
                    self._end_membership(decision)
                case Publish() if not (self.engine.hooks.sees_publications or self.engine.tracer.on):
                    # What it leads to comes last in the list that is being gone through.
                    decisions += self._begin_publish(decision)
                case Authenticate() if (connected := self._connect_at_once(decision)) is not None:
                    decisions += connected
                case Subscribe() if (entered := self._enter_at_once(decision)) is not None:
                    decisions += entered
                case Action():
                    self.engine.tasks.start(self._act(decision, None))
        self._write(replies)
        if self.session.deadline < self._deadline and self.close_code is None:
            self._deadline = self.session.deadline
            self.engine.clock.schedule(self, self._deadline)

    def _end_membership(self, action: EndSubscription) -> None:
        membership = self._memberships.drop(action.channel)
        if membership is not None and self._told and membership.subscriber.answered:
            self.engine.lifecycle.unsubscribed(self.id, self.user, action.channel)
        self.engine.tasks.start(self._act(action, membership))

    def _encode_reply(self, reply: Reply) -> bytes:
        """Encode what goes to this client alone. Raises CommandRefused for what it cannot read."""
        if reply.error is not None:
            self.engine.metrics.errors[reply.error.code] += 1
        if self.engine.hub.tap is not None:
            self.engine.hub.tap.replied(self, reply)
        return self.codec.encode(reply)

    def _write(self, replies: list[bytes]) -> None:
        if replies:
            self.reply(Frame(self.codec.join(replies), text=self.codec.text))
            replies.clear()

    async def _act(self, action: Action, leaving: Membership | None) -> None:
        if (method := METHODS.get(type(action))) is not None:
            self.engine.metrics.commands[method] += 1
        if self.engine.tracer.on and method in TRACED_COMMANDS:
            with self.engine.tracer.command(method, self.id):
                decisions = await self._attempt(action, leaving)
        else:
            decisions = await self._attempt(action, leaving)
        try:
            self._carry_out(decisions)
        except Exception:
            log.exception("client_failed", connection_id=self.id)
            self._fail()
        self._read_on()

    def _answered(self, action: Action) -> bool:
        """Whether the client has its answer already, so that a fault cannot be told as an error any more."""
        if isinstance(action, Authenticate):
            return self.session.state is SessionState.CONNECTED
        return isinstance(action, Subscribe) and action.channel in self.session.subscriptions

    def _fail(self) -> None:
        """End the conversation after a fault of this service: what its state is worth is not known, a new one's is."""
        self.close(codes.DISCONNECT_INTERNAL.code, codes.DISCONNECT_INTERNAL.reason)

    def _read_on(self) -> None:
        if self._paused and not self.session.busy:
            self._paused = False
            self.transport.resume_reading()

    async def _attempt(self, action: Action, leaving: Membership | None) -> list[Decision]:
        """What comes of it, be it a refusal."""
        try:
            return await self._perform(action, leaving)
        except CommandRefused as refusal:
            return self.session.refused(action, refusal.reason, time.monotonic())
        except BrokerUnavailable:
            return self.session.refused(action, codes.ERROR_INTERNAL, time.monotonic())
        except PublicationTooLarge:
            return self.session.refused(action, codes.ERROR_LIMIT_EXCEEDED, time.monotonic())
        except Exception:
            log.exception("command_failed", connection_id=self.id, action=type(action).__name__)
            if self._answered(action):
                return self.session.close(codes.DISCONNECT_INTERNAL)
            return self.session.refused(action, codes.ERROR_INTERNAL, time.monotonic())

    async def _perform(self, action: Action, leaving: Membership | None) -> list[Decision]:
        match action:
            case Authenticate():
                return await self._authenticate(action)
            case Subscribe():
                return await self._subscribe(action)
            case EndSubscription():
                return await self._leave(action, leaving)
            case Publish():
                return await self._publish(action)
            case Presence() | PresenceStats():
                return await self._read_presence(action)
            case History():
                return await self._read_history(action)
            case Call(request=request):
                result = await self.engine.hooks.call(self.info(), request.method, request.data)
                return self.session.answered(action, RPCResult(result), time.monotonic())
            case Deliver(request=request):
                await self.engine.hooks.message(self.info(), request.data)
                return self.session.delivered(action, time.monotonic())
            case Refresh(request=request):
                self._adopt(await self._authority.renew(self.identity, request.token))
                return self.session.refreshed(action, time.monotonic(), ttl=_ttl(self.identity.expires_at))
            case SubRefresh(request=request):
                grant = await self._authority.renew_grant(self.identity, request.channel, request.token)
                self._memberships.renew(request.channel, grant.token)
                ttl = _ttl(grant.expires_at)
                return self.session.sub_refreshed(action, time.monotonic(), ttl=ttl, chan_info=grant.info)
        raise AssertionError(f"no way to perform {action!r}")

    # Letting the client in

    async def _authenticate(self, action: Authenticate) -> list[Decision]:
        self._adopt(await self._authority.identify(action.request, self._handshake))
        self._handshake = None
        told, self.user = self.user, self.identity.user
        if self.close_code is None:
            self.engine.hub.identify(self)
        await self._claim_user_channel()
        data = await self.engine.hooks.connect(self.info(), action.request.data)
        transport = self.transport
        held = HeldTransport(transport)
        self.transport = held
        try:
            subs = await self._enter_all(self.identity.subscriptions, action.request.subs)
            decisions = self._connected(action, data, subs)
        finally:
            self.transport = transport
        for channel, subscription in self.session.subscriptions.items():
            subscription.chan_info = self.identity.subscriptions[channel].info
        self._carry_out(decisions)
        held.release()
        for channel in self._memberships:
            self.engine.presence.announce(channel, self.id)
        self._tell_connected()
        if self.user != told:
            log.info("client_authenticated", connection_id=self.id, user=self.user, channels=len(subs))
        return []

    def _connect_at_once(self, action: Authenticate) -> list[Decision] | None:
        """Let in without a task who is known by the handshake and enters no channel, if nobody is asked; None else."""
        identity, request, engine = self._handshake, action.request, self.engine
        if not isinstance(identity, Identity) or identity.subscriptions or request.token or request.headers:
            return None
        if engine.hooks.sees_clients or engine.options.connections_per_user:
            return None
        self._handshake = None
        engine.metrics.commands["connect"] += 1
        if identity.token is not None and engine.revocations.refuses(identity.token):
            return self.session.refused(action, codes.DISCONNECT_INVALID_TOKEN, time.monotonic())
        self._adopt(identity)
        engine.hub.identify(self)
        decisions = self._connected(action, NO_PAYLOAD, {})
        self._tell_connected()
        return decisions

    def _connected(self, action: Authenticate, data: Raw, subs: dict[str, SubscribeResult]) -> list[Decision]:
        result = ConnectResult(
            client=self.id, version=__version__, data=data, subs=subs, node=self.engine.node.id, session=self.session_id
        )
        return self.session.connected(
            action,
            result,
            time.monotonic(),
            ttl=_ttl(self.identity.expires_at),
            sub_ttls={channel: _ttl(grant.expires_at) for channel, grant in self.identity.subscriptions.items()},
            first_ping=random.uniform(1, self.engine.options.ping_interval),  # noqa: S311 - spreads pings
        )

    async def _claim_user_channel(self) -> None:
        """Count this connection as one of its user's. Raises CommandRefused when the user has as many as it may."""
        most = self.engine.options.connections_per_user
        if not most or not self.user:
            return
        # What this process knows holds too while the broker is away.
        here = sum(1 for other in self.engine.hub.users.get(self.user, ()) if getattr(other, "_place", ""))
        place = USER_CHANNELS + self.user
        if here >= most or not await self.engine.presence.enter(place, self.info(), most):
            raise CommandRefused(codes.DISCONNECT_CONNECTION_LIMIT)
        self._place = place
        if self.close_code is not None:
            self.engine.presence.depart(place, self.id)

    def _tell_connected(self) -> None:
        if self.session.state is not SessionState.CONNECTED:
            return
        self._told = True
        self.engine.lifecycle.connected(self.id, self.user)
        for channel in self._memberships:
            self.engine.lifecycle.subscribed(self.id, self.user, channel)

    def _adopt(self, identity: Identity) -> None:
        """Be `identity` from now on, in the session that its token names, or in one of this connection's own."""
        token = identity.token or TokenFacts(identity.user)
        self.session_id = token.session or self.session_id
        self.identity = replace(identity, token=replace(token, session=self.session_id))

    async def _enter_all(
        self, grants: Mapping[str, Grant], wishes: Mapping[str, SubscribeRequest]
    ) -> dict[str, SubscribeResult]:
        results: dict[str, SubscribeResult] = {}
        try:
            for channel, grant in grants.items():
                request = wishes.get(channel) or SubscribeRequest(channel)

                def answer(joined: Joined, request: SubscribeRequest = request, grant: Grant = grant) -> bool:
                    if self.session.state is not SessionState.CONNECTING:
                        return False
                    results[request.channel] = subscribe_result(request, grant, joined, user=self.user)
                    self._watch(request, grant.options)
                    return True

                request.channel = channel
                subscriber = Subscriber(self, channel, answer)
                since = recovers_from(request, grant, user=self.user)
                await self._memberships.enter(subscriber, grant, self.info(grant.info), since)
        except BaseException:
            self._memberships.leave_all()
            raise
        return results

    # Entering and leaving channels

    async def _subscribe(self, action: Subscribe) -> list[Decision]:
        request = action.request
        if action.server_side:
            grant: Grant = action.terms
        else:
            grant = await self._authority.grant(self.identity, request)
            await self.engine.hooks.subscribe(self.info(grant.info), request.channel, request.data)
        subscriber = Subscriber(self, request.channel, partial(self._answer, action, grant))
        since = recovers_from(request, grant, user=self.user)
        await self._memberships.enter(subscriber, grant, self.info(grant.info), since)
        if subscriber.answered:
            self.engine.presence.announce(request.channel, self.id)
        return []

    def _enter_at_once(self, action: Subscribe) -> list[Decision] | None:
        """Enter without a task a channel that this process hears, where nothing is asked of others; None elsewhere."""
        request, channel, engine = action.request, action.channel, self.engine
        # Until others know of this client, they cannot be told of its channels.
        if not self._told or action.server_side or request.token or engine.hooks.sees_subscriptions:
            return None
        if not engine.subscriptions.hears(channel) or self.session.state is not SessionState.CONNECTED:
            return None
        now = time.monotonic()
        try:
            grant = self._authority.grant_by_options(self.identity, channel)
        except CommandRefused as refusal:
            engine.metrics.commands["subscribe"] += 1
            return self.session.refused(action, refusal.reason, now)
        options = grant.options
        if options.keeps_history or options.presence or options.join_leave:
            return None
        engine.metrics.commands["subscribe"] += 1
        decisions = self.session.subscribed(action, SubscribeResult(data=grant.data or NO_PAYLOAD), now)
        self._memberships.enter_heard(self, channel, grant)
        engine.lifecycle.subscribed(self.id, self.user, channel)
        return decisions

    def _answer(self, action: Subscribe, grant: Grant, joined: Joined) -> bool:
        if self.session.state is not SessionState.CONNECTED:
            return False
        request, now = action.request, time.monotonic()
        if grant.token is not None and self.engine.revocations.refuses(grant.token):
            self._carry_out(self.session.refused(action, codes.ERROR_PERMISSION_DENIED, now))
            return False
        result = subscribe_result(request, grant, joined, user=self.user)
        if request.flag & FLAG_REJECT_UNRECOVERED and result.was_recovering and not result.recovered:
            self._carry_out(self.session.refused(action, codes.ERROR_UNRECOVERABLE_POSITION, now))
            return False
        self._watch(request, grant.options)
        ttl = _ttl(grant.expires_at)
        self._carry_out(self.session.subscribed(action, result, now, ttl=ttl, chan_info=grant.info))
        entered = action.channel in self.session.subscriptions
        if entered:
            self.engine.lifecycle.subscribed(self.id, self.user, action.channel)
        return entered

    def _watch(self, request: SubscribeRequest, options: ChannelOptions) -> None:
        if options.join_leave and (request.join_leave or options.force_push_join_leave):
            self.engine.hub.watchers.add(request.channel, self)

    async def _leave(self, action: EndSubscription, leaving: Membership | None) -> list[Decision]:
        if leaving is not None:
            await self._memberships.leave(leaving)
        return self.session.ended(action, time.monotonic())

    # Publishing and asking

    def _begin_publish(self, action: Publish) -> list[Decision]:
        """Publish without a task of its own, where no hook has a say and no span is made."""
        self.engine.metrics.commands["publish"] += 1
        try:
            options, info = self._publishing(action)
        except CommandRefused as refusal:
            return self.session.refused(action, refusal.reason, time.monotonic())
        outcome = self.engine.publisher.begin(
            action.channel, Publication(data=action.request.data, info=info), options, partial(self._published, action)
        )
        return [] if outcome is None else self._judge(action, outcome)

    def _published(self, action: Publish, outcome: PublishOutcome) -> None:
        self._carry_out(self._judge(action, outcome))
        self._read_on()

    def _judge(self, action: Publish, outcome: PublishOutcome) -> list[Decision]:
        now = time.monotonic()
        if isinstance(outcome, StreamPosition):
            return self.session.answered(action, PublishResult(), now)
        too_large = isinstance(outcome, PublicationTooLarge)
        return self.session.refused(action, codes.ERROR_LIMIT_EXCEEDED if too_large else codes.ERROR_INTERNAL, now)

    async def _publish(self, action: Publish) -> list[Decision]:
        options, info = self._publishing(action)
        data = await self.engine.hooks.publish(info, action.channel, action.request.data)
        await self.engine.publisher.publish(action.channel, Publication(data=data, info=info), options)
        return self.session.answered(action, PublishResult(), time.monotonic())

    def _publishing(self, action: Publish) -> tuple[PublishOptions, ClientInfo]:
        """How the publication is kept and who it is from. Raises CommandRefused."""
        options = self._options(action.channel, action.subscription)
        self._require(Verb.PUBLISH, action, options)
        return options.publish_options(), self.info(
            action.subscription.chan_info if action.subscription else NO_PAYLOAD
        )

    async def _read_presence(self, action: Presence | PresenceStats) -> list[Decision]:
        options = self._options(action.channel, action.subscription)
        if not options.presence:
            raise CommandRefused(codes.ERROR_NOT_AVAILABLE)
        self._require(Verb.PRESENCE, action, options)
        presence = self.engine.presence
        if isinstance(action, Presence):
            here = PresenceResult(await presence.members(action.channel, options))
            return self.session.answered(action, here, time.monotonic())
        stats = await presence.count(action.channel, options)
        counts = PresenceStatsResult(stats.num_clients, stats.num_users)
        return self.session.answered(action, counts, time.monotonic())

    async def _read_history(self, action: History) -> list[Decision]:
        options = self._options(action.channel, action.subscription)
        if not options.keeps_history:
            raise CommandRefused(codes.ERROR_NOT_AVAILABLE)
        self._require(Verb.HISTORY, action, options)
        most = self.engine.options.recovery_limit
        result = await self.engine.history.read(action.channel, options, action.request, most)
        return self.session.answered(action, result, time.monotonic())

    def _require(
        self, verb: Verb, action: Publish | Presence | PresenceStats | History, options: ChannelOptions
    ) -> None:
        """Raise CommandRefused where the client may not do `verb` in the action's channel."""
        client = Client(self.user, subscribed=action.subscription is not None)
        if not may(client, verb, self.engine.channels.facts(action.channel, options)).allowed:
            raise CommandRefused(codes.ERROR_PERMISSION_DENIED)

    def _options(self, channel: str, subscription: Subscription | None) -> ChannelOptions:
        options = self._memberships.options(channel) if subscription is not None else None
        return self.engine.channels.options(channel) if options is None else options


class JsonPushes:
    """Encodes pushes as text frames of JSON."""

    def encode_push(self, push: Push) -> Frame:
        """One push as a text frame."""
        return Frame(JSON.encode(Reply(push=push)), text=True)


class ProtobufPushes:
    """Encodes pushes as binary frames of Protobuf."""

    def encode_push(self, push: Push) -> Frame:
        """One push as a binary frame."""
        return Frame(PROTOBUF.encode(Reply(push=push)), text=False)


class JsonConnection(RealtimeConnection):
    """A client that reads JSON."""

    __slots__ = ()

    kind = "json"
    codec = JSON
    encoder = JsonPushes()


class ProtobufConnection(RealtimeConnection):
    """A client that reads Protobuf."""

    __slots__ = ()

    kind = "protobuf"
    codec = PROTOBUF
    encoder = ProtobufPushes()


def _ttl(expires_at: float | None) -> float | None:
    return None if expires_at is None else expires_at - time.time()
