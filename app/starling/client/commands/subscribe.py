"""`subscribe`, and the end of a subscription whatever its reason."""

import time
from functools import partial

from starling.client.authority import Grant
from starling.client.client_connection import ClientConnection, ttl_until
from starling.client.commands.base import CommandHandler, Later, Work
from starling.client.commands.charges import bytes_of_publications, charge_filter, charge_subscription
from starling.client.commands.grants import ChannelGrants, enters_at_once
from starling.client.hook_calls import report_unsubscribed
from starling.client.memberships import Membership
from starling.client.read_gate import RecoveryTurn
from starling.client.recovery import (
    NO_HISTORY,
    joined_now,
    may_bring_much,
    recovers_from,
    rejects_unrecovered,
    subscribe_result,
)
from starling.client.shared_recoveries import SharedRecoveries
from starling.client.views import check_delta, make_view, set_stream_view, set_view, tags_filter
from starling.engine.engine import Engine
from starling.engine.follower import Joined
from starling.engine.subscriptions import Subscriber
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.decisions import Decision, EndSubscription, Subscribe, Write
from starling.protocol.session_core import SessionState


class SubscribeHandler(CommandHandler[Subscribe, Grant | None]):
    """A client is answered at the moment from which it misses nothing in the channel."""

    action = Subscribe
    method = "subscribe"

    def __init__(self, engine: Engine, grants: ChannelGrants, recoveries: SharedRecoveries) -> None:
        self._engine = engine
        self._grants = grants
        self._recoveries = recoveries

    def prepare(self, client: ClientConnection, action: Subscribe) -> Grant | None:
        """What the client gets in the channel; None where keys must be fetched to find out."""
        check_delta(action.request)
        if action.request.tf is not None:
            charge_filter(client, action.request.tf)
        if isinstance(action.terms, Grant):
            return action.terms
        return self._grants.grant_now(client, action.request)

    def try_now(
        self, client: ClientConnection, action: Subscribe, prepared: Grant | None, later: Later
    ) -> list[Work] | None:
        """Enter at once, where nothing is asked of hooks and store, and nothing is waited for at the broker."""
        engine, channel, request = self._engine, action.channel, action.request
        # The lifecycle listener gets events of a client's channels only after the event of its connection.
        if prepared is None or action.server_side or not client.announced or engine.hooks.sees_subscriptions:
            return None
        if client.session.state is not SessionState.CONNECTED or not enters_at_once(action.request, prepared):
            return None
        joined = joined_now(engine, channel, prepared) if prepared.options.keeps_history else NO_HISTORY
        if joined is None:
            return None
        result = subscribe_result(request, prepared, joined, user=client.user)
        view = make_view(client.encoder, request, prepared, result, engine.hub.subscribers.ids)
        if joined is NO_HISTORY and not engine.subscriptions.listen_now(channel):
            return None
        decisions: list[Work] = [*client.session.subscribed(action, result, time.monotonic())]
        client.memberships.enter_live(client, channel, prepared, view)
        engine.lifecycle.subscribed(client.id, client.user, channel, client.address)
        return decisions

    def runs_through(self, client: ClientConnection, action: Subscribe, prepared: Grant | None) -> bool:
        """Where the history is in this process and no hook is asked: a hook may do what needs a task."""
        engine = self._engine
        if prepared is None or engine.hooks.sees_subscriptions or not engine.subscriptions.in_process:
            return False
        return not (prepared.needs_hook or prepared.options.subscribe_proxy or prepared.options.stream)

    async def run(self, client: ClientConnection, action: Subscribe, prepared: Grant | None) -> list[Decision]:
        """Ask the hook, enter the channel, and recover what the client missed."""
        request = action.request
        if prepared is not None and action.server_side:
            grant = prepared
        else:
            grant = await self._grants.grant(client, request, prepared)
        wanted = tags_filter(request, grant)
        since = recovers_from(request, grant, user=client.user)
        turn = RecoveryTurn(client.gates.recovering if may_bring_much(since, grant) else None)
        subscriber = Subscriber(client, request.channel, partial(self._answer, client, action, grant, turn))
        new = not action.server_side and grant.options.keeps_history
        if new:
            self._grants.check_first_use(client, request.channel, grant.options)
        async with turn:
            # Its namespace may have gone while it waited; from here on a reload of the channels finds it.
            self._engine.channels.options(request.channel)
            await client.memberships.enter(subscriber, grant, client.info(grant.info), since, wanted=wanted)
        if new and subscriber.created:
            self._grants.count_first_use(client)
        if subscriber.answered and not subscriber.dropped:
            self._engine.presence.announce(request.channel, client.id)
        return []

    def _answer(
        self,
        client: ClientConnection,
        action: Subscribe,
        grant: Grant,
        turn: RecoveryTurn,
        subscriber: Subscriber,
        joined: Joined,
    ) -> bool:
        """Answer the client, at the moment from which it misses nothing; False where it is not subscribed after all."""
        session = client.session
        if session.state is not SessionState.CONNECTED:
            return False
        request, now = action.request, time.monotonic()
        # It may have been revoked while the hook, the broker or the history was asked.
        if not self._engine.revocations.still_valid(grant.token):
            client.carry_out(session.refused(action, codes.ERROR_PERMISSION_DENIED, now))
            return False
        result = subscribe_result(request, grant, joined, user=client.user)
        if rejects_unrecovered(request, grant, result):
            client.carry_out(session.refused(action, codes.ERROR_UNRECOVERABLE_POSITION, now))
            return False
        size = bytes_of_publications(result.publications) if result.publications else 0
        if not action.server_side:
            session.charge(size, now)
        turn.answered(size)
        ids, patches = self._engine.hub.subscribers.ids, self._recoveries.patches
        set_view(subscriber, client.encoder, request, grant, result, ids, patches)
        set_stream_view(subscriber, client, grant, result)
        if grant.options.stream is None:
            result.publications = self._recoveries.share(action.channel, result.publications)
        client.memberships.watch(client, request, grant.options)
        ttl = ttl_until(grant.expires_at)
        decisions = session.subscribed(
            action,
            result,
            now,
            ttl=ttl,
            chan_info=grant.info,
            refreshable=grant.renewable,
            renewed=bool(grant.options.sub_refresh_proxy) and not grant.renewable,
        )
        if not isinstance(decisions[0], Write):
            # It ended before it began: the token is over, or the client has gone.
            client.carry_out(decisions)
            return False
        client.carry_out(decisions[:1])
        if not _connected(client):
            # The answer itself ended the connection, which ended this subscription or has forgotten it.
            client.carry_out(decisions[1:])
            return False
        # Before the commands that waited for it: one of them may end it, and what the client got must be known.
        lifecycle = self._engine.lifecycle
        lifecycle.subscribed(client.id, client.user, action.channel, client.address)
        empty = not (result.publications or result.data)
        if empty:
            client.memberships.note_answered(action.channel, client.sent)
        # From here on a command that ends it reports that, before one that begins another subscription.
        subscriber.answered = True
        client.carry_out(decisions[1:])
        return True


def _connected(client: ClientConnection) -> bool:
    return client.session.state is SessionState.CONNECTED


class UnsubscribeHandler(CommandHandler[EndSubscription, Membership | None]):
    """Ends a subscription: the client gets nothing more of the channel from the start on."""

    action = EndSubscription

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def prepare(self, client: ClientConnection, action: EndSubscription) -> Membership | None:
        """Cut the channel off; None where the client was not in it."""
        membership = client.memberships.drop(action.channel)
        if membership is not None and action.reason is None:
            charge_subscription(client, membership.grant.options)
        if membership is not None and client.announced and membership.subscriber.answered:
            # Less where the answer itself is not written yet.
            unused = client.sent <= membership.subscriber.frames
            lifecycle = self._engine.lifecycle
            lifecycle.unsubscribed(client.id, client.user, action.channel, client.address, unused=unused)
            report_unsubscribed(self._engine, client, action.channel)
        return membership

    def try_now(
        self, client: ClientConnection, action: EndSubscription, prepared: Membership | None, later: Later
    ) -> list[Work] | None:
        """Finish at once where the broker need not know, because others of this process are in the channel."""
        if prepared is not None and not client.memberships.leave_now(prepared):
            return None
        return [*client.session.ended(action, time.monotonic())]

    async def run(
        self, client: ClientConnection, action: EndSubscription, prepared: Membership | None
    ) -> list[Decision]:
        """Leave the channel."""
        if prepared is None:
            raise CommandRefused(codes.ERROR_INTERNAL)
        await client.memberships.leave(prepared)
        return client.session.ended(action, time.monotonic())
