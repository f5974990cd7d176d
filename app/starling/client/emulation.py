"""Sessions whose commands come by requests: those of this process, and the way of a request to another node's."""

import hmac
from enum import Enum
from typing import Protocol

import msgspec
from msgspec import Struct

from starling.client.session_memory import SessionMemory
from starling.engine.broker import BrokerUnavailable, PublicationTooLarge
from starling.engine.control import GONE_SECONDS, NodeCommand, NodeCommandRefused
from starling.engine.engine import Engine


class Forwarding(Enum):
    """What became of the commands of a request."""

    TAKEN = "taken"
    GONE = "gone"
    """There is no such session."""
    MALFORMED = "malformed"
    """They are no commands, or not in the session's format, which ends the session as on any transport."""
    TOO_LARGE = "too_large"
    """They are more than the way between nodes carries."""
    BUSY = "busy"
    """Too much of the session waits; the client may try again."""
    FLOOD = "flood"
    """The address has sent commands of too many unknown sessions."""
    UNAVAILABLE = "unavailable"
    """The session's node cannot be asked now."""


class EmulatedSession(Protocol):
    """A session of this process whose commands come by requests."""

    id: str
    session_secret: str

    def on_request(self, data: str | bytes) -> Forwarding:
        """Take the commands of one request: text of JSON lines, or Protobuf."""


class EmulatedCommands(NodeCommand):
    """Commands of the session with this secret: `text` of JSON lines, or Protobuf in `binary`."""

    session: str
    text: str = ""
    binary: bytes = b""


class EmulatedOutcome(Struct):
    """What became of them there."""

    outcome: Forwarding


class EmulatedSessions:
    """The sessions of this process, by the identifier of their connection."""

    def __init__(self, engine: Engine, *, alone: bool) -> None:
        """`alone`: the broker joins no other process."""
        self._node = engine.node
        self._control = engine.control
        self._alone = alone
        self._sessions: dict[str, EmulatedSession] = {}
        self._elsewhere = SessionMemory()
        self._control.on_command(EmulatedCommands, self._carry_out)

    def add(self, session: EmulatedSession) -> None:
        """Have `session` get the commands that show its secret."""
        self._sessions[session.id] = session

    def remove(self, session: EmulatedSession) -> None:
        """Forget a session that has ended."""
        self._sessions.pop(session.id, None)

    def is_here(self, node: str) -> bool:
        """Whether the sessions of `node` are those of this process."""
        return node == self._node.id

    def deliver(self, secret: str, data: str | bytes) -> Forwarding:
        """Give commands to a session of this process."""
        session = self._sessions.get(secret.partition(".")[0])
        # In constant time: how much of a secret was right must not show.
        if session is None or not hmac.compare_digest(session.session_secret.encode(), secret.encode()):
            return Forwarding.GONE
        return session.on_request(data)

    async def forward(self, node: str, secret: str, data: str | bytes, address: str) -> Forwarding:
        """Give commands that came from `address` to a session of another node."""
        if self._alone:
            return Forwarding.UNAVAILABLE
        known, memory = self._control.is_known(node), self._elsewhere
        if (not known and self._node.uptime > GONE_SECONDS) or memory.is_gone(node, secret):
            return Forwarding.GONE
        if not memory.may_ask(node, secret, address):
            return Forwarding.FLOOD
        outcome = await self._ask(node, secret, data, known=known)
        if outcome is Forwarding.TAKEN:
            memory.note_found(node, secret)
        elif outcome is Forwarding.GONE:
            memory.note_gone(node, secret, address)
        return outcome

    async def _ask(self, node: str, secret: str, data: str | bytes, *, known: bool) -> Forwarding:
        text, binary = (data, b"") if isinstance(data, str) else ("", data)
        try:
            answer = await self._control.ask_node(node, EmulatedCommands(secret, text, binary))
        except PublicationTooLarge:
            return Forwarding.TOO_LARGE
        except (BrokerUnavailable, NodeCommandRefused):
            return Forwarding.UNAVAILABLE
        if answer is None:
            return Forwarding.UNAVAILABLE if known else Forwarding.GONE
        return msgspec.json.decode(answer, type=EmulatedOutcome).outcome

    def _carry_out(self, command: EmulatedCommands) -> EmulatedOutcome:
        return EmulatedOutcome(self.deliver(command.session, command.text or command.binary))
