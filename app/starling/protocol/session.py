"""The rules of one conversation, without I/O: the session decides, the connection acts.

    OPENED ──connect──► CONNECTING ──connected──► CONNECTED
      │                     │                         │
      │                     └──an error──► REFUSED    │
      │ 3501, 3502               3501, 3502 │         │ close, lost, expiry, no pong, too much
      └───────────────────────► CLOSED ◄────┴─────────┘

OPENED waits for a `connect` command and takes nothing else. While CONNECTING, further commands are held. REFUSED has
answered `connect` with an error, and the client is to hang up. A closed session decides nothing more.

`receive`, `tick`, the outcomes of actions and the commands of the server all return decisions (protocol.decisions),
to be carried out in their order. Commands of one channel wait until the action before them has its outcome; different
channels, calls and refreshes do not wait for each other. While the session is `busy`, nothing more should be read.

Times are seconds on one clock of the caller's choice that never goes back; a `ttl` is in seconds from now.
"""

from collections.abc import Mapping
from functools import partial
from math import ceil, inf
from types import MappingProxyType

from msgspec import Raw

from starling.protocol import codes
from starling.protocol.codes import Disconnect, Error, Unsubscribe
from starling.protocol.commands import (
    REQUIRED_FIELDS,
    ChannelRequest,
    Command,
    ConnectRequest,
    HistoryRequest,
    PingRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    Request,
    RPCRequest,
    SendRequest,
    SubRefreshRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)
from starling.protocol.decisions import (
    Action,
    Authenticate,
    Call,
    Decision,
    Deliver,
    EndSubscription,
    History,
    Presence,
    PresenceStats,
    Publish,
    Query,
    Refresh,
    ServerTerms,
    SubRefresh,
    Subscribe,
    Subscription,
    Write,
)
from starling.protocol.messages import (
    NO_PAYLOAD,
    ConnectResult,
    HistoryResult,
    PingResult,
    PresenceResult,
    PresenceStatsResult,
    PublishResult,
    Push,
    RefreshPush,
    RefreshResult,
    Reply,
    RPCResult,
    SubRefreshResult,
    SubscribePush,
    SubscribeResult,
    UnsubscribeResult,
)
from starling.protocol.session_core import RENEWAL_PAUSE, SessionCore, SessionState, is_over, notice

NO_ENDS: Mapping[str, float | None] = MappingProxyType({})
QueryResult = PublishResult | PresenceResult | PresenceStatsResult | HistoryResult | RPCResult


class Session(SessionCore):
    """One client's conversation: who may say what when, and what follows from it."""

    __slots__ = ()

    # Commands of the client

    def receive(self, command: Command, now: float) -> list[Decision]:
        """Take one command of the client."""
        if self.state is SessionState.CLOSED:
            return []
        requests = command.requests()
        if self.state is SessionState.REFUSED or len(requests) > 1:
            return self.close(codes.DISCONNECT_BAD_REQUEST)
        if not requests:
            return self._pong(command.id, now)
        request = requests[0]
        nameless = command.id == 0 and not isinstance(request, SendRequest)
        if nameless or isinstance(request, ConnectRequest) != (self.state is SessionState.OPENED):
            return self.close(codes.DISCONNECT_BAD_REQUEST)
        excess = self._spend_request(now)
        if excess is not None:
            # Without an id the client cannot get an error reply.
            return self._refuse(command.id, excess if command.id else codes.DISCONNECT_TOO_MANY_REQUESTS, now)
        if self.state is SessionState.CONNECTING:
            self._hold(partial(self._dispatch, command.id, request))
            return []
        return self._dispatch(command.id, request, now)

    def _pong(self, command_id: int, now: float) -> list[Decision]:
        if command_id or self.state is SessionState.OPENED:
            return self.close(codes.DISCONNECT_BAD_REQUEST)
        asked = self._pong_at < inf
        self._pong_at = inf
        if not asked and self._spend_request(now) is not None:
            return self.close(codes.DISCONNECT_TOO_MANY_REQUESTS)
        return []

    def _dispatch(self, command_id: int, request: Request, now: float) -> list[Decision]:
        if not all(getattr(request, name) for name in REQUIRED_FIELDS.get(type(request), ())):
            return self._refuse(command_id, codes.ERROR_BAD_REQUEST, now)
        match request:
            case ConnectRequest():
                self.state = SessionState.CONNECTING
                return self._begin(Authenticate(command_id, request))
            case PingRequest():
                return [Write(Reply(command_id, ping=PingResult()))]
            case SendRequest():
                return self._begin(Deliver(0, request))
            case RPCRequest():
                return self._begin(Call(command_id, request))
            case RefreshRequest():
                return self._begin(Refresh(command_id, request))
            case _:
                step = partial(self._dispatch_in_channel, command_id, request)
                concurrent = isinstance(request, PublishRequest) and not self._publish_in_turn
                return self._in_turn(request.channel, step, now, concurrent=concurrent)

    def _dispatch_in_channel(self, command_id: int, request: ChannelRequest, now: float) -> list[Decision]:
        subscription = self.subscriptions.get(request.channel)
        match request:
            case SubscribeRequest():
                if request.type:
                    return self._refuse(command_id, codes.ERROR_NOT_AVAILABLE, now)
                return self._subscribe(Subscribe(command_id, request), now)
            case UnsubscribeRequest():
                ending = self._end(subscription, None) if subscription is not None else []
                return [*ending, Write(Reply(command_id, unsubscribe=UnsubscribeResult()))]
            case PublishRequest():
                if request.type:
                    return self._refuse(command_id, codes.ERROR_NOT_AVAILABLE, now)
                return self._begin(Publish(command_id, request, subscription))
            case PresenceRequest():
                return self._begin(Presence(command_id, request, subscription))
            case PresenceStatsRequest():
                return self._begin(PresenceStats(command_id, request, subscription))
            case HistoryRequest():
                return self._begin(History(command_id, request, subscription))
            case SubRefreshRequest():
                if subscription is None:
                    return self._refuse(command_id, codes.ERROR_PERMISSION_DENIED, now)
                return self._begin(SubRefresh(command_id, request, subscription))

    def _subscribe(self, action: Subscribe, now: float) -> list[Decision]:
        if action.channel in self.subscriptions:
            return self._refuse(action.id, codes.ERROR_ALREADY_SUBSCRIBED, now)
        if len(self.subscriptions) + self._subscribing >= self._limits.max_channels:
            # What the server wants on its own nobody would take back, so it ends the connection.
            limit = codes.DISCONNECT_CHANNEL_LIMIT if action.server_side else codes.ERROR_LIMIT_EXCEEDED
            return self._refuse(action.id, limit, now)
        self._subscribing += 1
        return self._begin(action)

    # Outcomes of actions, one for each

    def connected(
        self,
        action: Authenticate,
        result: ConnectResult,
        now: float,
        *,
        ttl: float | None = None,
        sub_ttls: Mapping[str, float | None] = NO_ENDS,
        refreshable: bool = True,
        renewed: bool = False,
        first_ping: float | None = None,
    ) -> list[Decision]:
        """The client is known and stands in the channels of `result.subs`; the session adds expiry and pings.

        `ttl` None never ends; `sub_ttls` are the same of channels that end before the connection. A connection that
        the client cannot refresh is not notified of its end and gets no grace; `renewed`: a backend is asked at its end
        whether it goes on. `first_ping` is in seconds from now, at most the interval: it spreads the pings of clients
        that connect together. What others see of the client in those channels is set on `subscriptions` afterwards.
        """
        entered = {
            channel: _subscription(channel, sub, NO_PAYLOAD, server_side=True) for channel, sub in result.subs.items()
        }
        if self.state is SessionState.CLOSED:
            return [EndSubscription(0, subscription) for subscription in entered.values()]
        self.subscriptions = entered
        if len(entered) > self._limits.max_channels:
            return self.close(codes.DISCONNECT_CHANNEL_LIMIT)
        if is_over(ttl):
            return [*self._end_all(), *self.refused(action, codes.ERROR_EXPIRED, now)]
        self.state = SessionState.CONNECTED
        for channel, subscription in entered.items():
            self._set_end(subscription, sub_ttls.get(channel), now)
        self._connection_ends_at = self._end_time(ttl, now, grace=refreshable)
        if renewed:
            self._plan_renewal(ttl, now)
        self._ping_at = now + (self._limits.ping_seconds if first_ping is None else first_ping)
        result.expires, result.ttl = notice(ttl, refreshable=refreshable)
        result.ping, result.pong = ceil(self._limits.ping_seconds), self._answers_pings
        decisions = [Write(Reply(action.id, connect=result)), *self._finish(action, now)]
        held, self._held = self._held, None
        for step in held or ():
            if self.state is SessionState.CONNECTED:
                decisions += step(now)
        return decisions

    def subscribed(
        self,
        action: Subscribe,
        result: SubscribeResult,
        now: float,
        *,
        ttl: float | None = None,
        chan_info: Raw = NO_PAYLOAD,
        refreshable: bool = True,
        renewed: bool = False,
    ) -> list[Decision]:
        """The client is in the channel. Where the session was closed meanwhile, it has to leave again.

        A subscription that the client cannot refresh is not notified of its end and gets no grace; `renewed`: a backend
        is asked at its end whether it goes on.
        """
        subscription = _subscription(action.channel, result, chan_info, server_side=action.server_side)
        if self.state is not SessionState.CONNECTED:
            return [EndSubscription(0, subscription)]
        self._subscribing -= 1
        if is_over(ttl):
            ending = self._end(subscription, None)
            return [*ending, *self._refuse(action.id, codes.ERROR_EXPIRED, now), *self._finish(action, now)]
        self.subscriptions[action.channel] = subscription
        self._set_end(subscription, ttl, now, refreshable=refreshable)
        if renewed:
            self._plan_sub_renewal(subscription, ttl, now)
        if action.server_side:
            push = SubscribePush(result.recoverable, result.epoch, result.offset, result.positioned, result.data)
            replies: list[Decision] = [Write(Reply(push=Push(action.channel, subscribe=push)))]
            replies += [Write(Reply(push=Push(action.channel, pub=missed))) for missed in result.publications]
        else:
            result.expires, result.ttl = notice(ttl, refreshable=refreshable)
            replies = [Write(Reply(action.id, subscribe=result))]
        return [*replies, *self._finish(action, now)]

    def answered(self, action: Query, result: QueryResult, now: float) -> list[Decision]:
        """The query was carried out, with this result."""
        if self.state is not SessionState.CONNECTED:
            return []
        reply = Reply(action.id)
        setattr(reply, action.reply_field, result)
        return [Write(reply), *self._finish(action, now)]

    def delivered(self, action: Deliver, now: float) -> list[Decision]:
        """The application has what the client sent."""
        return self._finish(action, now)

    def ended(self, action: EndSubscription, now: float) -> list[Decision]:
        """Nothing of the subscription is left, and the client may enter the channel again."""
        return self._finish(action, now)

    def refreshed(self, action: Refresh, now: float, *, ttl: float | None, refreshable: bool = True) -> list[Decision]:
        """The new token is good for `ttl` seconds; None never ends. For `refreshable` see `connected`."""
        if self.state is not SessionState.CONNECTED:
            return []
        if is_over(ttl):
            return self.refused(action, codes.ERROR_EXPIRED, now)
        self._connection_ends_at = self._end_time(ttl, now, grace=refreshable)
        result = RefreshResult()
        result.expires, result.ttl = notice(ttl, refreshable=refreshable)
        return [Write(Reply(action.id, refresh=result)), *self._finish(action, now)]

    def sub_refreshed(
        self,
        action: SubRefresh,
        now: float,
        *,
        ttl: float | None,
        chan_info: Raw = NO_PAYLOAD,
        refreshable: bool = True,
    ) -> list[Decision]:
        """The subscription's new token is good for `ttl` seconds; None never ends. `refreshable`: see `subscribed`."""
        if self.state is not SessionState.CONNECTED:
            return []
        if is_over(ttl):
            return self.refused(action, codes.ERROR_EXPIRED, now)
        action.subscription.chan_info = chan_info
        self._set_end(action.subscription, ttl, now, refreshable=refreshable)
        result = SubRefreshResult(*notice(ttl, refreshable=refreshable))
        return [Write(Reply(action.id, sub_refresh=result)), *self._finish(action, now)]

    def refused(self, action: Action, reason: Error | Disconnect, now: float) -> list[Decision]:
        """The action was not carried out. An error answers the command; a disconnect ends the session."""
        if self.state is SessionState.CLOSED:
            return []
        if isinstance(action, Subscribe):
            self._subscribing -= 1
        if isinstance(action, Authenticate):
            self.state = SessionState.REFUSED
            self._stale_at = now + self._limits.connect_seconds
            self._forget_pending()
        return [*self._refuse(action.id, reason, now), *self._finish(action, now)]

    # Commands of the server

    def subscribe(self, request: SubscribeRequest, now: float, terms: ServerTerms | None = None) -> list[Decision]:
        """Subscribe the client on behalf of the server; a push notifies it. Nothing, if it is subscribed already.

        `terms` are returned with the Subscribe. Publications in the result follow the push one by one.
        """
        action = Subscribe(0, request, server_side=True, terms=terms)
        return self._once_connected(partial(self._in_turn, request.channel, partial(self._subscribe, action)), now)

    def unsubscribe(
        self, channel: str, reason: Unsubscribe, now: float, *, may_disconnect: bool = True
    ) -> list[Decision]:
        """Unsubscribe the client at once, with the reason. Nothing, if it is not subscribed.

        The SDK does not repeat server-side subscriptions: with a `reason` that requires it, the client is
        disconnected with the corresponding code, and reconnects. Without `may_disconnect` such a subscription ends,
        and the client stays connected.
        """
        step = partial(self._unsubscribe, channel, reason, may_disconnect=may_disconnect)
        if channel in self.subscriptions:
            return step(now)
        return self._once_connected(partial(self._in_turn, channel, step), now)

    def refresh(self, now: float, *, ttl: float | None) -> list[Decision]:
        """Change when the connection expires, in `ttl` seconds or never, and notify the client."""
        if self.state is not SessionState.CONNECTED:
            return []
        if is_over(ttl):
            return self.close(codes.DISCONNECT_EXPIRED)
        self._connection_ends_at = self._end_time(ttl, now, grace=True)
        return [Write(Reply(push=Push(refresh=RefreshPush(*notice(ttl, refreshable=True)))))]

    def renewed(
        self,
        now: float,
        *,
        ttl: float | None = None,
        subscription: Subscription | None = None,
        chan_info: Raw = NO_PAYLOAD,
        answered: bool = True,
    ) -> list[Decision]:
        """A backend lets the connection, or `subscription`, go on for `ttl` seconds; None never ends.

        Not `answered`: no backend said anything, and it is asked again until the grace is over.
        """
        if self.state is not SessionState.CONNECTED:
            return []
        if subscription is not None:
            if self.subscriptions.get(subscription.channel) is not subscription:
                return []
            if not answered:
                subscription.renew_at = now + RENEWAL_PAUSE
                self._subscription_ends_at = min(self._subscription_ends_at, subscription.renew_at)
                return []
            if is_over(ttl):
                return self.unsubscribe(subscription.channel, codes.UNSUBSCRIBE_EXPIRED, now)
            subscription.chan_info = chan_info
            self._plan_sub_renewal(subscription, ttl, now)
        elif not answered:
            self._renew_at = now + RENEWAL_PAUSE
        elif is_over(ttl):
            return self.close(codes.DISCONNECT_EXPIRED)
        else:
            self._plan_renewal(ttl, now)
        return []


def _subscription(channel: str, result: SubscribeResult, chan_info: Raw, *, server_side: bool) -> Subscription:
    return Subscription(
        channel, server_side, chan_info, result.epoch, result.offset, result.recoverable, result.positioned
    )
