"""The base of every connection of this process, at any endpoint: identity, counters, transport and lifecycle."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import structlog

from starling.engine.allowances import Holder
from starling.engine.engine import Engine
from starling.engine.receiver import PushEncoder, TokenFacts
from starling.engine.transport import Transport
from starling.protocol.messages import Frame

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.connection")


class Connection(ABC):
    """One client. Implements starling.engine.receiver.Receiver and starling.engine.transport.Handler.

    `kind` names its transport in metrics and log lines. Subclasses define what messages and time do.
    """

    __slots__ = (
        "_counted_as",
        "address",
        "close_code",
        "engine",
        "id",
        "opened_at",
        "received",
        "sent",
        "slot",
        "stats",
        "transport",
        "user",
    )

    kind: str
    encoder: PushEncoder

    transport: Transport

    def __init__(self, engine: Engine, user: str) -> None:
        self.engine = engine
        self.stats = engine.metrics.transports[self.kind]
        # An identifier, not a secret.
        self.id = f"{engine.node.names.getrandbits(64):016x}"
        self.user = user
        self.address = ""
        self._counted_as: Holder | None = None
        self.received = 0
        self.sent = 0
        self.slot = -1
        self.opened_at = 0.0
        self.close_code: int | None = None

    # Life

    def open(self, transport: Transport, address: str = "") -> None:
        """Take over `transport`, the socket of the client at `address`."""
        self.transport = transport
        self.address = address
        self.opened_at = asyncio.get_running_loop().time()
        self.stats.opened += 1
        self.stats.now += 1
        self.engine.hub.connections.add(self)
        self.engine.clock.schedule(self, self.first_tick(time.monotonic()))
        log.info(
            "client_connected",
            connection_id=self.id,
            user=self.user,
            transport=self.kind,
            address=address,
            **self.describe(),
        )

    def count(self) -> bool:
        """Count this connection for its user, or its address without one; False where these have as many as may be."""
        limit = self.engine.admission.clients.connections
        if self._counted_as is not None or self.close_code is not None:
            return True
        if limit.full(self.user, self.address):
            return False
        self._counted_as = limit.add(self.user, self.address)
        return True

    def describe(self) -> dict[str, object]:
        """Further fields of this connection's log lines; never a secret."""
        return {}

    def send(self, frame: Frame) -> None:
        """Queue a frame of a fan-out, whose messages and bytes are counted there for all receivers at once."""
        self.sent += 1
        self.transport.send_frame(frame)

    def reply(self, frame: Frame) -> None:
        """Queue a frame for this client alone."""
        self.stats.messages_out += 1
        self.stats.bytes_out += len(frame.payload)
        self.send(frame)

    async def catch_up(self, frames: Sequence[Frame], left: Callable[[], bool]) -> bool:
        """Queue frames for this client alone; False when it has gone, or has `left`."""
        for frame in () if left() else frames:
            self.reply(frame)
        return self.close_code is None and not left()

    def close(self, code: int, reason: str = "") -> None:
        """Close from this side, after everything that was broadcast to this client."""
        self.engine.hub.flush(self)
        self.transport.close(code, reason)

    def count_received(self, message: str | bytes) -> None:
        """Count a message of the client."""
        self.received += 1
        self.stats.messages_in += 1
        self.stats.bytes_in += len(message) if message.isascii() else _size(message)

    # What subclasses define

    @abstractmethod
    def first_tick(self, now: float) -> float:
        """When to call `tick` for the first time, in seconds of `time.monotonic`."""

    @abstractmethod
    def tick(self, now: float) -> float:
        """Do what is due at `now`; return when to tick next."""

    def lose_state(self, channel: str) -> None:  # noqa: B027 - others must get nothing
        """End the subscription to `channel`: publications that the client must get there are no longer available."""

    @abstractmethod
    def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
        """End what depends on a token that `refuses` returns true for; return the token if it was the connection's."""

    # What the transport calls

    @abstractmethod
    def on_message(self, message: str | bytes) -> None:
        """Handle one message."""

    def on_pong(self) -> None:  # noqa: B027 - others are not pinged
        """Note the answer to a WebSocket ping."""

    def on_drained(self) -> None:  # noqa: B027 - others have nothing that waits
        """Note that the client has taken all replies that waited for it."""

    @abstractmethod
    def on_overflow(self) -> None:
        """Disconnect a client that reads too slowly."""

    @abstractmethod
    def on_shutdown(self) -> None:
        """Disconnect the client, because this process stops."""

    def on_close(self, code: int, reason: str) -> None:
        """Note the end of the connection and log it."""
        self.close_code = code
        if self._counted_as is not None:
            self.engine.admission.clients.connections.remove(self._counted_as)
        self.stats.now -= 1
        self.stats.close(code)
        self.engine.hub.forget(self)
        self.engine.clock.remove(self)
        log.info(
            "client_disconnected",
            connection_id=self.id,
            user=self.user,
            transport=self.kind,
            code=code,
            reason=reason,
            received=self.received,
            sent=self.sent,
            seconds=round(asyncio.get_running_loop().time() - self.opened_at, 3),
            **self.describe(),
        )


def _size(message: str | bytes) -> int:
    return len(message.encode()) if isinstance(message, str) else len(message)
