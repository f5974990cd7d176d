"""The dispatcher of sessions' decisions: writes, closes, and the actions, each by the handler of its command.

Counting, tracing, mapping errors to answers and reading on happen here, once for all commands.
"""

import time
from collections.abc import Iterable, Sequence
from functools import partial

import structlog

from starling.client.client_connection import ClientConnection, fail
from starling.client.commands.base import AnyHandler, Outcome, Step, Work
from starling.client.hook_calls import report_disconnected
from starling.client.refusals import CommandRefusals
from starling.client.user_limit import UserLimit
from starling.engine.broker import BrokerUnavailable, PublicationTooLarge
from starling.engine.engine import Engine
from starling.engine.transport import NO_CLOSE_FRAME
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Disconnect, Error
from starling.protocol.decisions import (
    Action,
    Authenticate,
    Close,
    Decision,
    EndSubscription,
    Ping,
    Subscribe,
    Write,
)
from starling.protocol.messages import Reply
from starling.protocol.options import SessionLimits
from starling.protocol.session_core import SessionState

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.client")


# An action that runs once the replies before it are queued.
Begun = tuple[AnyHandler, Action, object]

# Ends of a connect command that count as failed attempts of an address: bad and expired tokens, and none.
UNAUTHENTICATED = frozenset({codes.DISCONNECT_INVALID_TOKEN.code, codes.ERROR_TOKEN_EXPIRED.code})


class Dispatcher:
    """Implements starling.client.client_connection.Executor with one handler for each kind of action."""

    def __init__(
        self,
        engine: Engine,
        limits: SessionLimits,
        commands: Iterable[AnyHandler],
        user_limit: UserLimit,
        refusals: CommandRefusals,
    ) -> None:
        self.engine = engine
        self.limits = limits
        self._commands = {command.action: command for command in commands}
        self._user_limit = user_limit
        self._metrics = engine.metrics
        self._tracer = engine.tracer
        self._refusals = refusals

    def carry_out(self, client: ClientConnection, decisions: Sequence[Work]) -> None:
        """Carry out `decisions` in their order; what an action leads to comes after all of them."""
        replies: list[bytes] = []
        begun: list[Begun] = []
        work: list[Work] = [*decisions]
        # What is added while the list is worked off comes after all of it.
        for at, decision in enumerate(work):
            if isinstance(decision, Write):
                try:
                    if encoded := self._encode(client, decision.reply):
                        replies.append(encoded)
                except CommandRefused as refusal:
                    self._write(client, replies)
                    client.refuse(refusal.reason)
                    # The session has forgotten these subscriptions already, so they must still be ended here.
                    work[at + 1 :] = [ending for ending in work[at + 1 :] if isinstance(ending, EndSubscription)]
            elif isinstance(decision, Action):
                work += self._begin(client, decision, begun)
            elif isinstance(decision, Ping):
                replies.append(self._encode(client, Reply()))
            elif isinstance(decision, Close):
                self._write(client, replies)
                disconnect = decision.disconnect
                silent = disconnect.code == codes.DISCONNECT_CONNECTION_CLOSED.code
                client.close(NO_CLOSE_FRAME if silent else disconnect.code, disconnect.reason)
            else:
                work += self._take(client, decision)
        self._write(client, replies)
        for command, action, prepared in begun:
            self.engine.tasks.start_here(self._run(client, command, action, prepared))
        deadline = client.session.deadline
        if deadline < client.deadline and client.close_code is None:
            client.deadline = deadline
            self.engine.clock.schedule(client, deadline)

    def disconnected(self, client: ClientConnection, code: int, reason: str) -> None:
        """Release what a client held that is gone now, and report its end."""
        self._user_limit.release(client)
        if client.announced:
            self.engine.lifecycle.disconnected(client.id, client.user, code, reason, client.address)
            report_disconnected(self.engine, client, code, reason)

    def _take(self, client: ClientConnection, step: Step) -> list[Decision]:
        """Run a step of a handler; a fault in it ends the connection."""
        try:
            step()
        except Exception:
            log.exception("client_failed", connection_id=client.id)
            return client.session.close(codes.DISCONNECT_INTERNAL)
        return []

    # Writing

    def _encode(self, client: ClientConnection, reply: Reply) -> bytes:
        """Encode a reply to one client; empty for a publication that its format cannot carry.

        Raises CommandRefused for another reply that it cannot carry.
        """
        if reply.error is not None:
            self._metrics.errors[reply.error.code] += 1
        if (frame_tap := self.engine.hub.frame_tap) is not None:
            frame_tap.replied(client, reply)
        try:
            return client.encode(reply)
        except CommandRefused:
            if reply.push is not None and reply.push.pub is not None:
                self.engine.hub.unreadable.note(channel=reply.push.channel)
                return b""
            if not (count := client.codec.leave_out_unreadable(reply)):
                raise
            self.engine.hub.unreadable.note(count, connection_id=client.id)
            return client.encode(reply)

    def _write(self, client: ClientConnection, replies: list[bytes]) -> None:
        if replies:
            client.reply(client.encoder.encode_replies(replies))
            replies.clear()

    # Actions

    def _begin(self, client: ClientConnection, action: Action, begun: list[Begun]) -> Sequence[Work]:
        """Carry an action out at once, or begin to: then what it leads to is carried out later.

        What runs through is added to `begun`.
        """
        command = self._commands[type(action)]
        if command.method:
            self._metrics.commands[command.method] += 1
        try:
            prepared = command.prepare(client, action)
            if not (command.traced and self._tracer.on):
                later = partial(self._finish, client, action)
                if (decisions := command.try_now(client, action, prepared, later)) is not None:
                    return decisions
        except Exception as error:  # noqa: BLE001 - mapped to the answer, and logged where it is a fault
            return self._answer(client, action, error)
        if command.runs_through(client, action, prepared) and not self._tracer.on:
            # After the replies that are collected now, and the work that is left.
            begun.append((command, action, prepared))
        else:
            self.engine.tasks.start(self._run(client, command, action, prepared))
        return []

    async def _run(self, client: ClientConnection, command: AnyHandler, action: Action, prepared: object) -> None:
        outcome: Outcome
        try:
            if command.traced and self._tracer.on:
                with self._tracer.command(command.method, client.id):
                    outcome = await command.run(client, action, prepared)
            else:
                outcome = await command.run(client, action, prepared)
        except Exception as error:  # noqa: BLE001 - mapped to the answer, and logged where it is a fault
            outcome = error
        self._finish(client, action, outcome)

    def _finish(self, client: ClientConnection, action: Action, outcome: Outcome) -> None:
        try:
            self.carry_out(client, self._answer(client, action, outcome) if isinstance(outcome, Exception) else outcome)
        except Exception:
            log.exception("client_failed", connection_id=client.id)
            fail(client)
        _read_on(client)

    def _answer(self, client: ClientConnection, action: Action, error: Exception) -> list[Decision]:
        """What a client gets for an action that failed."""
        reason = _reason(error)
        call = self._commands[type(action)].method or type(action).__name__.lower()
        self.engine.refusals.report_call(call, error, getattr(action, "channel", None) or "")
        if isinstance(action, Authenticate) and reason is not None and reason.code in UNAUTHENTICATED:
            self.engine.admission.clients.failed_connects.spend(client.address)
        if reason is None:
            log.error("command_failed", connection_id=client.id, action=type(action).__name__, exc_info=error)
            if _answered(client, action):
                # An error cannot be reported for a command that has its answer already.
                return client.session.close(codes.DISCONNECT_INTERNAL)
        reason = self._refusals.report(client, action, reason or codes.ERROR_INTERNAL)
        return client.session.refused(action, reason, time.monotonic())


def _reason(error: Exception) -> Error | Disconnect | None:
    """The answer that an error means; None for a fault of this service."""
    if isinstance(error, CommandRefused):
        return error.reason
    if isinstance(error, BrokerUnavailable):
        return codes.ERROR_INTERNAL
    if isinstance(error, PublicationTooLarge):
        return codes.ERROR_LIMIT_EXCEEDED
    return None


def _answered(client: ClientConnection, action: Action) -> bool:
    if isinstance(action, Authenticate):
        return client.session.state is SessionState.CONNECTED
    return isinstance(action, Subscribe) and action.channel in client.session.subscriptions


def _read_on(client: ClientConnection) -> None:
    """Let a client's transport read again, once few enough of its commands are pending."""
    if client.paused and not client.session.busy:
        client.read_on()
