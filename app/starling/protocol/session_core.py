"""The bookkeeping of a session: its state, turns, budgets and times, and how it ends; the rules are in `session`."""

from collections.abc import Callable
from enum import Enum
from math import inf

from msgspec import Raw

from starling.protocol import codes
from starling.protocol.budget import Budget
from starling.protocol.codec import commands_per_frame
from starling.protocol.codes import Disconnect, Error, Unsubscribe
from starling.protocol.decisions import (
    Action,
    Close,
    Decision,
    EndSubscription,
    Ping,
    Publish,
    RenewConnection,
    RenewSubscription,
    Subscription,
    Write,
)
from starling.protocol.messages import Push, Reply
from starling.protocol.options import SessionLimits
from starling.protocol.turns import Turns

# Seconds between two requests to a backend that gives no answer about a connection or a subscription.
RENEWAL_PAUSE = 5.0
# Bytes of an answer that cost as much of the message budget as one command.
ANSWER_UNIT = 256
# Answers spend up to this many bursts; beyond two of them refused commands end the connection.
ANSWERS_SHARE = 1.5

# What ends the connection where a server-side subscription would end with this code, which the SDK does not repeat.
_DISCONNECT_FOR = {
    codes.UNSUBSCRIBE_EXPIRED.code: codes.DISCONNECT_SUBSCRIPTION_EXPIRED,
    codes.UNSUBSCRIBE_STATE_INVALIDATED.code: codes.DISCONNECT_STATE_INVALIDATED,
}


class SessionState(Enum):
    """Where the conversation stands."""

    OPENED = "opened"
    CONNECTING = "connecting"
    REFUSED = "refused"
    CONNECTED = "connected"
    CLOSED = "closed"


class SessionCore:
    """What every rule of a session uses; see `starling.protocol.session.Session`."""

    __slots__ = (
        "_answers_pings",
        "_connection_ends_at",
        "_errors",
        "_held",
        "_limits",
        "_ping_at",
        "_pong_at",
        "_publish_in_turn",
        "_renew_at",
        "_requests",
        "_stale_at",
        "_subscribing",
        "_subscription_ends_at",
        "_turns",
        "state",
        "subscriptions",
        "unread",
    )

    def __init__(
        self, limits: SessionLimits, now: float, *, publish_in_turn: bool = False, answers_pings: bool = True
    ) -> None:
        """`publish_in_turn`: a publication waits for the outcome of the one before it, as everything else does.

        `answers_pings`: the client sends pongs; otherwise `unread` says after each ping whether it lives.
        """
        self.state = SessionState.OPENED
        self.unread = False
        """Whether the client lives though nothing is read of it, because it still takes replies that wait."""
        self.subscriptions: dict[str, Subscription] = {}
        self._limits = limits
        self._publish_in_turn = publish_in_turn
        self._answers_pings = answers_pings
        self._turns: Turns[Callable[[float], list[Decision]]] = Turns()
        # What waits for the outcome of the connect command.
        self._held: list[Callable[[float], list[Decision]]] | None = None
        self._subscribing = 0
        self._errors: Budget | None = None
        self._requests = Budget(limits.messages_per_second) if limits.messages_per_second else None
        self._stale_at = now + limits.connect_seconds
        self._ping_at = self._pong_at = inf
        self._connection_ends_at = self._subscription_ends_at = self._renew_at = inf

    @property
    def commands_per_frame(self) -> int:
        """How many commands one frame of the client may hold."""
        return commands_per_frame(self._limits.max_channels)

    @property
    def busy(self) -> bool:
        """Whether so much is pending that the client should not be read from for now."""
        return self._turns.pending + len(self._held or ()) >= self._limits.pending

    @property
    def deadline(self) -> float:
        """When `tick` has something to do next, unless something else happens before."""
        state = self.state
        if state is SessionState.CONNECTED:
            return min(
                self._ping_at, self._pong_at, self._connection_ends_at, self._subscription_ends_at, self._renew_at
            )
        return self._stale_at if state is SessionState.OPENED or state is SessionState.REFUSED else inf

    # Timers

    def tick(self, now: float) -> list[Decision]:
        """Do what is due at `now`; `deadline` is when that is."""
        if now < self.deadline:
            return []
        if self.state is not SessionState.CONNECTED:
            return self.close(codes.DISCONNECT_STALE)
        if now >= self._connection_ends_at:
            return self.close(codes.DISCONNECT_EXPIRED)
        if now >= self._pong_at:
            if not (self.busy or self.unread):
                return self.close(codes.DISCONNECT_NO_PONG)
            # The pong may lie in what is not being read.
            self._pong_at = now + self._limits.pong_seconds if self._answers_pings else inf
        decisions = self._end_expired(now) if now >= self._subscription_ends_at else []
        if now >= self._renew_at:
            self._renew_at = inf
            decisions.append(RenewConnection(0))
        if now >= self._ping_at and self.state is SessionState.CONNECTED:
            decisions.append(Ping())
            self._ping_at = now + self._limits.ping_seconds
            self._pong_at = min(self._pong_at, now + self._limits.pong_seconds)
        return decisions

    def _end_expired(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        for subscription in list(self.subscriptions.values()):
            if now >= subscription.expires_at and self.state is SessionState.CONNECTED:
                decisions += self._unsubscribe(subscription.channel, codes.UNSUBSCRIBE_EXPIRED, now)
            elif now >= subscription.renew_at:
                subscription.renew_at = inf
                decisions.append(RenewSubscription(0, subscription))
        ends = (min(subscription.expires_at, subscription.renew_at) for subscription in self.subscriptions.values())
        self._subscription_ends_at = min(ends, default=inf)
        return decisions

    def _set_end(self, subscription: Subscription, ttl: float | None, now: float, *, refreshable: bool = True) -> None:
        subscription.expires_at = self._end_time(ttl, now, grace=refreshable and not subscription.server_side)
        self._subscription_ends_at = min(self._subscription_ends_at, subscription.expires_at)

    def server_side_renewed(self, channel: str, now: float, *, ttl: float | None, chan_info: Raw) -> None:
        """The new token of the connection says this of a channel that it names; nothing, if the client left it."""
        subscription = self.subscriptions.get(channel)
        if subscription is not None and subscription.server_side:
            subscription.chan_info = chan_info
            self._set_end(subscription, ttl, now)

    def _plan_renewal(self, ttl: float | None, now: float) -> None:
        self._renew_at = inf if ttl is None else now + ttl
        self._connection_ends_at = self._renew_at + self._limits.proxy_grace_seconds

    def _plan_sub_renewal(self, subscription: Subscription, ttl: float | None, now: float) -> None:
        subscription.renew_at = inf if ttl is None else now + ttl
        subscription.expires_at = subscription.renew_at + self._limits.proxy_grace_seconds
        self._subscription_ends_at = min(self._subscription_ends_at, subscription.renew_at)

    def _end_time(self, ttl: float | None, now: float, *, grace: bool) -> float:
        return inf if ttl is None else now + ttl + (self._limits.expiry_grace_seconds if grace else 0)

    # Turns

    def _begin(self, action: Action) -> list[Decision]:
        self._turns.begin(action.channel, concurrent=self._is_concurrent(action))
        return [action]

    def _finish(self, action: Action, now: float) -> list[Decision]:
        if self.state is not SessionState.CONNECTED:
            return []
        channel = action.channel
        self._turns.finish(channel, concurrent=self._is_concurrent(action))
        decisions: list[Decision] = []
        while channel is not None and (step := self._turns.next(channel)) is not None:
            decisions += step(now)
        return decisions

    def _is_concurrent(self, action: Action) -> bool:
        return isinstance(action, Publish) and not self._publish_in_turn

    def _in_turn(
        self, channel: str, step: Callable[[float], list[Decision]], now: float, *, concurrent: bool = False
    ) -> list[Decision]:
        if not self._turns.taken(channel, concurrent=concurrent):
            return step(now)
        self._turns.wait(channel, step, concurrent=concurrent)
        return []

    def _hold(self, step: Callable[[float], list[Decision]]) -> None:
        if self._held is None:
            self._held = []
        self._held.append(step)

    def _once_connected(self, step: Callable[[float], list[Decision]], now: float) -> list[Decision]:
        """Take a step of the server, now or once the client is connected; nothing for one that is refused or gone."""
        if self.state is SessionState.CONNECTING:
            self._hold(step)
        return step(now) if self.state is SessionState.CONNECTED else []

    def _forget_pending(self) -> None:
        self._turns.clear()
        self._held = None

    # Endings and refusals

    def close(self, disconnect: Disconnect) -> list[Decision]:
        """End the session: every subscription, then the connection."""
        if self.state is SessionState.CLOSED:
            return []
        return [*self.lost(), Close(disconnect)]

    def lost(self) -> list[Decision]:
        """The connection is gone: end what is left of its subscriptions."""
        self.state = SessionState.CLOSED
        self._forget_pending()
        return self._end_all()

    def _unsubscribe(
        self, channel: str, reason: Unsubscribe, now: float, *, may_disconnect: bool = True
    ) -> list[Decision]:
        subscription = self.subscriptions.get(channel)
        if subscription is None:
            return []
        if may_disconnect and subscription.server_side and reason.resubscribe:
            return self.close(_DISCONNECT_FOR.get(reason.code, codes.DISCONNECT_INSUFFICIENT_STATE))
        return [*self._end(subscription, reason), Write(Reply(push=Push(channel, unsubscribe=reason)))]

    def _end(self, subscription: Subscription, reason: Unsubscribe | None) -> list[Decision]:
        self.subscriptions.pop(subscription.channel, None)
        return self._begin(EndSubscription(0, subscription, reason))

    def _end_all(self) -> list[Decision]:
        ending: list[Decision] = [EndSubscription(0, subscription) for subscription in self.subscriptions.values()]
        self.subscriptions = {}
        return ending

    def _refuse(self, command_id: int, reason: Error | Disconnect, now: float) -> list[Decision]:
        if isinstance(reason, Disconnect):
            return self.close(reason)
        if not command_id:
            return []
        decisions: list[Decision] = [Write(Reply(command_id, error=reason))]
        if not reason.temporary and self._spend_error(now) > self._limits.errors_per_minute:
            decisions += self.close(codes.DISCONNECT_TOO_MANY_ERRORS)
        return decisions

    # Budgets

    def charge(self, size: int, now: float) -> None:
        """Spend of the message budget for an answer of about `size` bytes, as for that many commands.

        Answers leave room for as many refused commands as half the burst, so that they alone never end a connection.
        """
        if self._requests is not None and (count := size // ANSWER_UNIT):
            room = round(ANSWERS_SHARE * self._limits.message_burst - self._requests.unforgiven(now))
            self._requests.spend(now, max(0, min(count, room)))

    def _spend_error(self, now: float) -> float:
        if self._errors is None:
            self._errors = Budget(self._limits.errors_per_minute / 60)
        return self._errors.spend(now)

    def _spend_request(self, now: float) -> Error | Disconnect | None:
        if self._requests is None:
            return None
        unforgiven, burst = self._requests.spend(now), self._limits.message_burst
        if unforgiven <= burst:
            return None
        return codes.ERROR_TOO_MANY_REQUESTS if unforgiven <= 2 * burst else codes.DISCONNECT_TOO_MANY_REQUESTS


def is_over(ttl: float | None) -> bool:
    """Whether an end, in `ttl` seconds, has come; None never ends."""
    return ttl is not None and ttl <= 0


def notice(ttl: float | None, *, refreshable: bool) -> tuple[bool, int]:
    """Whether the client is notified of an end, and in how many seconds it is."""
    if ttl is None or not refreshable:
        return False, 0
    # The schema has a uint32, and an SDK that gets 0 would refresh at once.
    return True, min(max(1, round(ttl)), 2**32 - 1)
