"""One client of this process: its transport, its figures and the work its messages cause."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, Protocol

import structlog

from starling.engine.token_facts import TokenFacts
from starling.engine.transport import Frame, Transport
from starling.protocol.budget import Budget
from starling.protocol.codes import Disconnect, Error
from starling.protocol.messages import Push
from starling.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.connection")

# Messages of one client that may wait for the one before them; reading stops there, so TCP holds the sender back.
INBOX_LIMIT = 32


class Owner(Protocol):
    """What a connection needs of the node that holds it."""

    metrics: Metrics
    names: random.Random
    """Names clients: each process has its own, which nothing else seeds."""
    ping_interval: int
    pong_timeout: int
    messages_per_second: float
    message_burst: int
    message_step: int

    def opened(self, connection: "Connection") -> None:
        """The connection is open: count it, keep it, ping it."""

    def closed(self, connection: "Connection", code: int) -> None:
        """The connection has ended: let it go."""

    def settle(self, connection: "Connection") -> None:
        """Write at once what was broadcast to the connection."""

    def schedule(self, connection: "Connection", deadline: float) -> None:
        """Call `connection.tick` at `deadline`, in seconds of the node's clock, or up to a second later."""

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in a task that the node owns."""


class Connection:
    """One client. Doors subclass it: `receive` takes a message, `begin` and `end` frame its life.

    What `begin`, `receive` and `end` return runs one after the other, in the order the client caused it; a connection
    without work under way has no task. `kind` is the name its figures and log lines go by.
    """

    __slots__ = (
        "_alive",
        "_budget",
        "_inbox",
        "_look_at",
        "_pinged",
        "_working",
        "close_code",
        "id",
        "opened_at",
        "owner",
        "received",
        "sent",
        "slot",
        "stats",
        "token",
        "transport",
        "user",
    )

    kind: str
    slow_code = 1013
    shutdown_code = 1012
    no_pong_code = 1008

    transport: Transport

    def __init__(self, owner: Owner, user: str) -> None:
        self.owner = owner
        self.stats = owner.metrics.transports[self.kind]
        # A name, not a secret.
        self.id = f"{owner.names.getrandbits(64):016x}"
        self.user = user
        self.token: TokenFacts | None = None
        self.received = 0
        self.sent = 0
        self.slot = -1
        self._alive = True
        self._pinged = False
        self.opened_at = 0.0
        self.close_code: int | None = None
        self._working = False
        self._inbox: deque[str | bytes] | None = None
        self._budget: Budget | None = None
        # How many messages there may be before their rate is looked at: not at each one, which would cost.
        self._look_at: float = owner.message_step if owner.messages_per_second else inf

    # What doors define

    @staticmethod
    def encode(push: Push) -> Frame:
        """Make the frame that clients of this kind get for a push. Raises CommandRefused for what they cannot read."""
        raise NotImplementedError

    def begin(self) -> Coroutine[Any, Any, None] | None:
        """Start of the conversation, before the first message."""
        return None

    def receive(self, message: str | bytes) -> Coroutine[Any, Any, None] | None:
        """One message of the client."""
        raise NotImplementedError

    def end(self) -> Coroutine[Any, Any, None] | None:
        """End of the conversation, after the last message was dealt with."""
        return None

    # Life

    def open(self, transport: Transport, address: str = "") -> None:
        """Take over `transport`, which stands from now on for this client at `address`."""
        self.transport = transport
        self.opened_at = asyncio.get_running_loop().time()
        self.owner.opened(self)
        log.info(
            "client_connected",
            connection_id=self.id,
            user=self.user,
            transport=self.kind,
            address=address,
            **self.describe(),
        )
        self._run(self.begin())

    def describe(self) -> dict[str, object]:
        """What log lines say of this client beside its id; never a secret."""
        return {}

    def send(self, frame: Frame) -> None:
        """Queue a frame of a fan-out, which counts it in the figures for all at once."""
        self.sent += 1
        self.transport.send_frame(frame)

    def reply(self, frame: Frame) -> None:
        """Queue a frame that is for this client alone."""
        self.stats.messages_out += 1
        self.stats.bytes_out += len(frame.payload)
        self.send(frame)

    def reply_text(self, text: str) -> None:
        """Queue a text message that is for this client alone."""
        self.reply(Frame(text.encode(), text=True))

    def close(self, code: int, reason: str = "") -> None:
        """End the conversation from this side, after everything that was broadcast to it."""
        self.owner.settle(self)
        self.transport.close(code, reason)

    def refuse(self, reason: Error | Disconnect) -> None:
        """End the conversation, because what should be told here cannot be."""
        self.close(1011, "internal server error")

    def first_tick(self, now: float) -> float:
        """When to look at this client for the first time: within a ping interval, spread evenly."""
        return now + random.uniform(0, self.owner.ping_interval)  # noqa: S311 - spreads pings, hides nothing

    def tick(self, now: float) -> float:
        """Ask for a sign of life, or give the client up that gave none; returns when to look again."""
        if not self._pinged:
            self._pinged, self._alive = True, False
            self.transport.ping()
            return now + self.owner.pong_timeout
        self._pinged = False
        if not self._alive:
            self.close(self.no_pong_code, "no pong")
        return now + self.owner.ping_interval - self.owner.pong_timeout

    def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
        """End what lives by a token that `refuses` is true for; returns the token if it was the whole conversation."""
        if self.token is None or self.close_code is not None or not refuses(self.token):
            return None
        self.close(1008, "the token was revoked")
        return self.token

    def lose_state(self, channel: str) -> None:
        """What this client should have got of `channel` is not to be had any more; doors with history tell it."""

    # What the transport tells

    def on_message(self, message: str | bytes) -> None:
        """Deal with a message now, or after those before it."""
        self.count_received(message)
        if self.received >= self._look_at and self._floods():
            return
        if not self._working:
            self._run(self.receive(message))
            return
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(message)
        if len(self._inbox) == INBOX_LIMIT:
            self.transport.pause_reading()

    def on_pong(self) -> None:
        """The client lives."""
        self._alive = True

    def on_overflow(self) -> None:
        """Cut a client that reads too slowly, before it costs more than its share."""
        self.close(self.slow_code, "slow")

    def on_shutdown(self) -> None:
        """Let the client go, to come back to another process."""
        self.close(self.shutdown_code, "shutdown")

    def on_close(self, code: int, reason: str) -> None:
        """The conversation has ended; what it had begun is finished first."""
        self.close_code = code
        self.owner.closed(self, code)
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
        if not self._working:
            self._run(self.end(), last=True)

    def count_received(self, message: str | bytes) -> None:
        """Note a message, which is a sign of life too."""
        self._alive = True
        self.received += 1
        self.stats.messages_in += 1
        self.stats.bytes_in += len(message) if message.isascii() else _size(message)

    def _floods(self) -> bool:
        """Whether the last messages were too many; then the client is let go, for these doors have no other answer."""
        owner = self.owner
        self._look_at = self.received + owner.message_step
        if self._budget is None:
            self._budget = Budget(owner.messages_per_second)
        if self._budget.spend(time.monotonic(), owner.message_step) <= owner.message_burst:
            return False
        self.owner.metrics.refuse("message_rate")
        self.close(1008, "too many messages")
        return True

    # Work in the order it was caused

    def _run(self, work: Coroutine[Any, Any, None] | None, *, last: bool = False) -> None:
        if work is not None:
            self._working = True
            self.owner.start_task(self._work(work, last=last))

    async def _work(self, work: Coroutine[Any, Any, None] | None, *, last: bool) -> None:
        while True:
            if work is not None:
                try:
                    await work
                except Exception:
                    log.exception("client_work_failed", connection_id=self.id, **self.describe())
                    self.close(1011, "internal server error")
            if last:
                break
            if self._inbox:
                if len(self._inbox) == INBOX_LIMIT and self.close_code is None:
                    self.transport.resume_reading()
                work = self.receive(self._inbox.popleft())
            elif self.close_code is not None:
                work, last = self.end(), True
            else:
                break
        self._inbox = None
        self._working = False


def _size(message: str | bytes) -> int:
    return len(message.encode()) if isinstance(message, str) else len(message)
