"""Connections of the client endpoint: one client with its session, its identity and its channels."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

import structlog
from msgspec import Raw
from msgspec.structs import replace

from starling.client.authority import Grant, Handshake, Identity
from starling.client.connection import Connection
from starling.client.memberships import Memberships
from starling.client.read_gate import ReadGates
from starling.engine.channels import ChannelOptions, Channels
from starling.engine.engine import Engine
from starling.engine.hook_request import Request
from starling.engine.receiver import TokenFacts
from starling.engine.stream_chunks import bytes_of
from starling.engine.transport import VANISHED, WRITE_ERROR
from starling.engine.view import ViewEncoder
from starling.protocol import codes
from starling.protocol.codec import Codec
from starling.protocol.codec_json import JSON, JsonPushes
from starling.protocol.codec_protobuf import PROTOBUF, ProtobufPushes
from starling.protocol.codes import CommandRefused, Disconnect, Error, Unsubscribe
from starling.protocol.commands import Command, SubscribeRequest
from starling.protocol.decisions import Decision
from starling.protocol.messages import NO_PAYLOAD, ClientInfo, Frame, Publication, Push, Reply
from starling.protocol.options import SessionLimits
from starling.protocol.session import Session

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.client")

# Commands of a frame between two looks at whether so much is pending that the rest waits: a command that waits takes a
# fraction of the memory of one that is carried out.
COMMANDS_AT_ONCE = 32


class ClientEncoder(ViewEncoder, Protocol):
    """The form of everything that a client reads."""

    def encode_replies(self, replies: list[bytes]) -> Frame:
        """Replies to one client, encoded by its codec, as one frame."""


class Executor(Protocol):
    """Carries out the decisions of sessions; starling.client.dispatcher has it."""

    engine: Engine
    limits: SessionLimits

    def carry_out(self, client: "ClientConnection", decisions: list[Decision]) -> None:
        """Carry out `decisions` in their order."""

    def disconnected(self, client: "ClientConnection", code: int, reason: str) -> None:
        """Release what a client held that is gone now."""


class ClientConnection(Connection):
    """A client of the client endpoint; subclasses name the wire format.

    It passes frames, time and requests of the backend to its session, and what the session decides to the executor.
    """

    __slots__ = (
        "_backlog",
        "_executor",
        "_read_gates",
        "announced",
        "deadline",
        "handshake",
        "identity",
        "memberships",
        "paused",
        "request",
        "session",
        "session_id",
        "session_secret",
        "user_channel",
    )

    codec: ClassVar[Codec]
    sends_pongs: ClassVar[bool] = True
    """Whether the client answers pings; otherwise its transport notices that it is gone."""
    one_way: ClassVar[bool] = False
    """Whether the client sends nothing after its connect command, which names the channels that it wants."""
    own_channels_only: ClassVar[bool] = False
    """Whether it gets publications of these channels alone, whatever its token names and a backend asks for."""
    from_start: bool = False
    """Whether a client that only reads wants all that its channels keep."""
    encoder: ClientEncoder
    stream_encoder: ClassVar["ProtobufStreamPushes | None"] = None
    """What encodes streams of bytes, where that is not `encoder`."""

    def __init__(self, executor: Executor, handshake: Handshake, *, secret: str = "") -> None:
        """`handshake`: what is known of the client at its upgrade.

        `secret`: its commands come by requests of their own that show this, and no pongs do.
        """
        engine = executor.engine
        super().__init__(engine, handshake.user if isinstance(handshake, Identity) else "")
        self._executor = executor
        self.handshake = handshake
        self.identity = Identity()
        # A hook may take longer for one publication than for the next, so the next waits for it.
        self.session = Session(
            executor.limits,
            time.monotonic(),
            publish_in_turn=engine.hooks.sees_publications,
            answers_pings=self.sends_pongs and not secret,
        )
        self.session_id = f"{engine.node.names.getrandbits(64):016x}"
        self.session_secret = f"{self.id}.{secret}" if secret else ""
        """What the requests that bring its commands show, empty where they come over its socket; never in a log."""
        self.memberships = Memberships(engine)
        self.deadline = self.session.deadline
        """When this connection is scheduled to tick."""
        self.paused = False
        """True while the transport does not read, because too many commands are pending."""
        self.user_channel = ""
        """The channel that counts the connections of this user, once this one is counted there."""
        self._read_gates: ReadGates | None = None
        # Commands that may be carried out, once fewer are pending and the client has taken its replies.
        self._backlog: Sequence[Command] = ()
        self.request: Request | None = None
        """What the connection was opened with, kept until the connect command where a hook wants it."""
        self.announced = False
        """True once the lifecycle listener got `connected`; only then it gets `disconnected` and `unsubscribed`."""

    def info(self, chan_info: Raw = NO_PAYLOAD) -> ClientInfo:
        """What others may see of this client."""
        return ClientInfo(self.identity.user, self.id, self.identity.info, chan_info)

    def adopt(self, identity: Identity) -> None:
        """Become `identity`, in the session that its token names, or in one of this connection's own."""
        token = identity.token or TokenFacts(identity.user)
        self.session_id = token.session or self.session_id
        self.identity = replace(identity, client=self.id, token=replace(token, session=self.session_id))

    def move_end(self, expires_at: float | None) -> None:
        """Take the end that a backend sets, in the place of the one that a token or a hook has set."""
        hooked = self.identity.hooked
        unbound = None if hooked is None else replace(hooked, end=None)
        self.identity = replace(self.identity, expires_at=expires_at, hooked=unbound)

    def encode(self, reply: Reply) -> bytes:
        """Encode a reply, push or ping for this client. Raises CommandRefused for one that its format cannot carry."""
        return self.codec.encode(reply)

    def check_grants(self, grants: Mapping[str, Grant]) -> None:
        """Raise CommandRefused where a client that only reads cannot have all of these channels at once."""

    def begin_channel(self, request: SubscribeRequest, grant: Grant) -> bool:
        """Complete the request for a channel of a client that only reads; True where `send_missed` comes next."""
        return False

    async def send_missed(self, request: SubscribeRequest, grant: Grant) -> None:
        """Send a client that only reads what it missed in a channel, as far as no answer could hold it.

        `request` then asks for what follows.
        """

    @property
    def gates(self) -> ReadGates:
        """What the reads for this client go through that may bring much."""
        if self._read_gates is None:
            self._read_gates = ReadGates(closed=self.close_code is not None)
        self._read_gates.transport = self.transport
        return self._read_gates

    async def catch_up(self, frames: Sequence[Frame], left: Callable[[], bool]) -> bool:
        """Queue frames for this client alone, as fast as it reads; False when it has gone, or has `left`."""
        for frame in frames:
            try:
                async with self.gates.reading:
                    if left():
                        return False
                    self.reply(frame)
            except CommandRefused:
                return False
        return self.close_code is None and not left()

    def carry_out(self, decisions: list[Decision]) -> None:
        """Carry out what the session decided."""
        self._executor.carry_out(self, decisions)

    def renew_options(self, channels: Channels) -> None:
        """Take the rights and bounds that `channels` give now; subscriptions of a namespace that is gone end (2500)."""
        for channel in self.memberships.renew_options(channels):
            # After a reconnect the channel would not be there either.
            reason, now = codes.UNSUBSCRIBE_INSUFFICIENT_STATE, time.monotonic()
            self.carry_out(self.session.unsubscribe(channel, reason, now, may_disconnect=False))

    # What transport and time cause

    def on_message(self, message: str | bytes) -> None:
        """Take the commands of one frame."""
        self.count_received(message)
        try:
            self._take(message)
        except Exception:
            log.exception("client_failed", connection_id=self.id)
            fail(self)

    def _take(self, message: str | bytes) -> bool:
        """Have the session take the commands of one frame; False where these are none, which ends the session."""
        commands = self.codec.decode(message, self.session.commands_per_frame)
        if isinstance(commands, Disconnect):
            self.carry_out(self.session.close(commands))
            return False
        frame_tap = self.engine.hub.frame_tap
        if frame_tap is not None:
            frame_tap.received(self, commands)
        self._receive(commands)
        return True

    def _receive(self, commands: list[Command]) -> None:
        """Have the session take `commands` in their order, as far as they need not wait."""
        if self._backlog or len(commands) > COMMANDS_AT_ONCE:
            self._backlog = [*self._backlog, *commands]
            self._work_off()
        else:
            self._execute(commands)

    def _work_off(self) -> None:
        """Have the session take the commands that waited, as far as these need not wait any longer."""
        while self._backlog and not self.paused and not self.transport.replies_wait and self.close_code is None:
            commands, self._backlog = self._backlog[:COMMANDS_AT_ONCE], self._backlog[COMMANDS_AT_ONCE:]
            self._execute(commands)

    def _execute(self, commands: Sequence[Command]) -> None:
        now = time.monotonic()
        decisions: list[Decision] = []
        for command in commands:
            decisions += self.session.receive(command, now)
        self.carry_out(decisions)
        if self.session.busy and not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Go on with the client's commands, of which fewer are pending now."""
        self.paused = False
        self._work_off_safely()
        if not self.paused:
            self.transport.resume_reading()

    def _work_off_safely(self) -> None:
        try:
            self._work_off()
        except Exception:
            log.exception("client_failed", connection_id=self.id)
            fail(self)

    def first_tick(self, now: float) -> float:
        """When the connect command must have come."""
        return self.session.deadline

    def tick(self, now: float) -> float:
        """Let the session do what is due."""
        self.deadline = 0.0
        # What it sends is not read while its replies wait, its pong neither.
        self.session.unread = self.transport.takes_replies()
        try:
            self.carry_out(self.session.tick(now))
        except Exception:
            log.exception("client_failed", connection_id=self.id)
            fail(self)
        self.deadline = self.session.deadline
        return self.deadline

    def on_drained(self) -> None:
        """Go on with the reads and the commands that waited for the client."""
        if self._read_gates is not None:
            self._read_gates.drained()
        self._work_off_safely()

    def on_overflow(self) -> None:
        """Disconnect a client that reads too slowly."""
        self.send_disconnect(codes.DISCONNECT_SLOW)

    def on_shutdown(self) -> None:
        """Disconnect the client, to reconnect to another process."""
        self.send_disconnect(codes.DISCONNECT_SHUTDOWN)

    def on_close(self, code: int, reason: str) -> None:
        """Leave every channel; the connection has ended.

        A client that vanished cannot be sent a code, but logs and webhooks can: they get the protocol's own codes.
        """
        if code == VANISHED:
            gone = codes.DISCONNECT_WRITE_ERROR if reason == WRITE_ERROR else codes.DISCONNECT_CONNECTION_CLOSED
            code, reason = gone.code, gone.reason
        frame_tap = self.engine.hub.frame_tap
        if frame_tap is not None:
            frame_tap.closed(self, code, reason)
        super().on_close(code, reason)
        self._backlog = ()
        if self._read_gates is not None:
            self._read_gates.close()
        self.carry_out(self.session.lost())
        self._executor.disconnected(self, code, reason)

    # What the engine causes

    def refuse(self, reason: Error | Disconnect) -> None:
        """End the connection, because a reply that it must get cannot be encoded for it."""
        self.send_disconnect(reason if isinstance(reason, Disconnect) else codes.DISCONNECT_INTERNAL)

    def lose_state(self, channel: str) -> None:
        """End the subscription with 2500, so that the client subscribes again."""
        self.send_unsubscribe(channel, codes.UNSUBSCRIBE_INSUFFICIENT_STATE)

    def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
        """End the connection, or those of its subscriptions, that depend on a token which `refuses` is true for."""
        token = self.identity.token
        if self.close_code is not None:
            return None
        if token is not None and refuses(token):
            self.send_disconnect(codes.DISCONNECT_INVALID_TOKEN)
            return token
        for channel in self.memberships.refused(refuses):
            self.send_unsubscribe(channel, codes.UNSUBSCRIBE_SERVER)
        return None

    # What a backend causes

    def reads(self, options: ChannelOptions) -> bool:
        """Whether this client can read the data of such channels; no JSON client reads binary data."""
        return options.publication_data_format != "binary" or not self.codec.text

    def send_unsubscribe(self, channel: str, reason: Unsubscribe) -> None:
        """Unsubscribe the client and send it the reason; nothing, if it is not subscribed."""
        self.carry_out(self.session.unsubscribe(channel, reason, time.monotonic()))

    def send_disconnect(self, reason: Disconnect) -> None:
        """Disconnect the client."""
        self.carry_out(self.session.close(reason))


class ProtobufStreamPushes(ProtobufPushes):
    """Encodes pushes of append-only streams of bytes, which Protobuf carries as they are."""

    def encode_push(self, push: Push) -> Frame:
        """One push as a binary frame."""
        return super().encode_push(push if push.pub is None else replace(push, pub=self.publication(push.pub)))

    def publication(self, publication: Publication) -> Publication:
        """The publication with its bytes as they are."""
        return replace(publication, data=Raw(bytes_of(bytes(publication.data))))


class JsonConnection(ClientConnection):
    """A client that reads JSON."""

    __slots__ = ()

    kind = "json"
    codec = JSON
    encoder = JsonPushes()


class ProtobufConnection(ClientConnection):
    """A client that reads Protobuf."""

    __slots__ = ()

    kind = "protobuf"
    codec = PROTOBUF
    encoder = ProtobufPushes()
    stream_encoder = ProtobufStreamPushes()


def ttl_until(expires_at: float | None) -> float | None:
    """Seconds until `expires_at`, in seconds since 1970; None never ends."""
    return None if expires_at is None else expires_at - time.time()


def fail(client: ClientConnection) -> None:
    """Close after a fault of this service: the state of this connection is unknown, that of a new one is not."""
    client.close(codes.DISCONNECT_INTERNAL.code, codes.DISCONNECT_INTERNAL.reason)


def leave_out(client: ClientConnection, *channels: str) -> None:
    """Log server-side subscriptions that are not made, because the client could not read the channels."""
    log.warning(
        "subscriptions_left_out",
        connection_id=client.id,
        channels=channels,
        reason="publication_data_format is binary, and this client reads JSON",
    )
