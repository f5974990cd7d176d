"""Connections that handle one message after the other: the base of the tutorial endpoints' connections."""

import random
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from math import inf

import structlog

from starling.client.connection import Connection
from starling.engine.engine import Engine
from starling.engine.receiver import TokenFacts
from starling.engine.transport import Transport
from starling.protocol.budget import Budget
from starling.protocol.messages import Frame

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.connection")

# Messages of one client that may wait for the one before them; reading stops there, so TCP slows the sender down.
INBOX_LIMIT = 32
# The rate of a client's messages is checked after each such part of its burst.
MESSAGE_STEPS = 100

# Close codes (RFC 6455 section 7.4.1, and the IANA registry for those above 1011).
UNSUPPORTED_DATA = 1003
POLICY = 1008
INTERNAL = 1011
SHUTDOWN = 1012
SLOW = 1013


class SequentialConnection(Connection):
    """A connection whose subclasses define `begin`, `receive` and `end`.

    The coroutines that these return run one after the other, in the order the client caused them; a connection without
    work under way has no task. `token` is the token that it was opened with, None in developer mode.
    """

    __slots__ = ("_alive", "_budget", "_check_at", "_inbox", "_pinged", "_working", "token")

    def __init__(self, engine: Engine, user: str, token: TokenFacts | None = None) -> None:
        super().__init__(engine, user)
        self.token = token
        self._alive = True
        self._pinged = False
        self._working = False
        self._inbox: deque[str | bytes] | None = None
        self._budget: Budget | None = None
        # The number of messages after which their rate is checked next: not at each one, which would cost.
        self._check_at: float = self._message_step if engine.options.messages_per_second else inf

    @property
    def _message_step(self) -> int:
        return max(1, self.engine.options.message_burst // MESSAGE_STEPS)

    # What subclasses define

    def begin(self) -> Coroutine[object, None, None] | None:
        """Work at the start, before the first message."""
        return None

    @abstractmethod
    def receive(self, message: str | bytes) -> Coroutine[object, None, None] | None:
        """Work for one message of the client."""

    def end(self) -> Coroutine[object, None, None] | None:
        """Work at the end, after the last message was handled."""
        return None

    # Life

    def open(self, transport: Transport, address: str = "") -> None:
        """Take over `transport` and begin."""
        super().open(transport, address)
        if self.count():
            self._run(self.begin())
        else:
            self.close(POLICY, "connection limit")

    def reply_text(self, text: str) -> None:
        """Queue a text message for this client alone."""
        self.reply(Frame(text.encode(), text=True))

    def first_tick(self, now: float) -> float:
        """Within a ping interval, so that pings spread evenly."""
        return now + random.uniform(0, self.engine.options.ping_seconds)  # noqa: S311 - spreads pings

    def tick(self, now: float) -> float:
        """Ping the client, or close with 1008 if it did not answer the last ping."""
        options = self.engine.options
        if not self._pinged:
            self._pinged, self._alive = True, False
            self.transport.ping()
            return now + options.pong_seconds
        self._pinged = False
        if not self._alive and not self.transport.takes_replies():
            self.close(POLICY, "no pong")
        return now + options.ping_seconds - options.pong_seconds

    def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
        """Close with 1008 if the token is refused now."""
        if self.token is None or self.close_code is not None or not refuses(self.token):
            return None
        self.close(POLICY, "the token was revoked")
        return self.token

    # What the transport calls

    def on_message(self, message: str | bytes) -> None:
        """Handle a message now, or after those before it."""
        self._alive = True
        self.count_received(message)
        if self.received >= self._check_at and self._floods():
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
        """Note the answer to a ping."""
        self._alive = True

    def on_overflow(self) -> None:
        """Close with 1013."""
        self.close(SLOW, "slow")

    def on_shutdown(self) -> None:
        """Close with 1012."""
        self.close(SHUTDOWN, "shutdown")

    def on_close(self, code: int, reason: str) -> None:
        """Note the end; work under way finishes first."""
        super().on_close(code, reason)
        if not self._working:
            self._run(self.end(), last=True)

    def _floods(self) -> bool:
        """Whether the last messages were too many; then close with 1008, the only answer these endpoints have."""
        options, step = self.engine.options, self._message_step
        self._check_at = self.received + step
        if self._budget is None:
            self._budget = Budget(options.messages_per_second)
        if self._budget.spend(time.monotonic(), step) <= options.message_burst:
            return False
        self.engine.metrics.refuse("message_rate")
        self.close(POLICY, "too many messages")
        return True

    # Work in the order it was caused

    def _run(self, work: Coroutine[object, None, None] | None, *, last: bool = False) -> None:
        if work is not None:
            self._working = True
            self.engine.tasks.start(self._work(work, last=last))

    async def _work(self, work: Coroutine[object, None, None] | None, *, last: bool) -> None:
        while True:
            if work is not None:
                try:
                    await work
                except Exception:
                    log.exception("client_work_failed", connection_id=self.id, **self.describe())
                    self.close(INTERNAL, "internal server error")
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
