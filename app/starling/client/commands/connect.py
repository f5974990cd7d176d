"""`connect`: makes the client known and subscribes it to the channels of its token."""

import asyncio
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from msgspec import Raw
from msgspec.structs import replace

from starling import __version__
from starling.client.authority import Authority, Grant, Identity, guesses
from starling.client.client_connection import ClientConnection, leave_out, ttl_until
from starling.client.commands.base import CommandHandler, Later, Work
from starling.client.commands.charges import bytes_of_publications
from starling.client.commands.grants import ChannelGrants
from starling.client.held_transport import HeldTransport
from starling.client.hook_calls import completed, hook_request, keep_headers, shown_to_hooks
from starling.client.read_gate import RecoveryTurn
from starling.client.recovery import joined_now, may_bring_much, recovers_from, subscribe_result
from starling.client.shared_recoveries import SharedRecoveries
from starling.client.user_limit import UserLimit
from starling.client.views import check_delta, make_view, set_stream_view, set_view, tags_filter
from starling.engine.engine import Engine
from starling.engine.follower import Joined
from starling.engine.subscriptions import Subscriber
from starling.engine.view import View
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.commands import ConnectRequest, SubscribeRequest
from starling.protocol.decisions import Authenticate, Decision
from starling.protocol.messages import NO_PAYLOAD, ConnectResult, SubscribeResult
from starling.protocol.session_core import SessionState

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.client")


class ConnectHandler(CommandHandler[Authenticate, Identity | None]):
    """A client is connected once it is known, allowed, and subscribed to the channels that its token names."""

    action = Authenticate
    method = "connect"

    def __init__(
        self,
        engine: Engine,
        authority: Authority,
        user_limit: UserLimit,
        recoveries: SharedRecoveries,
        grants: ChannelGrants,
    ) -> None:
        self._engine = engine
        self._authority = authority
        self._user_limit = user_limit
        self._recoveries = recoveries
        self._grants = grants

    def prepare(self, client: ClientConnection, action: Authenticate) -> Identity | None:
        """Who the client is; None where keys must be fetched, or a hook be asked, to find out."""
        for request in action.request.subs.values():
            check_delta(request)
        if self._engine.hooks.authenticates and not self._authority.brings_token(action.request, client.handshake):
            return None
        return self._authority.identify_now(action.request, client.handshake)

    def try_now(
        self, client: ClientConnection, action: Authenticate, prepared: Identity | None, later: Later
    ) -> list[Work] | None:
        """Connect at once a client without server-side subscriptions, where no hook and no limit has a say.

        One that only reads enters the channels of its request too, if it can do so without waiting.
        """
        if prepared is None or prepared.subscriptions or self._engine.hooks.sees_clients or self._user_limit.on:
            return None
        grants: dict[str, Grant] = {}
        joined: dict[str, Joined] = {}
        if client.one_way and action.request.subs:
            requested = self._grants.requested_now(client, prepared, action.request)
            for channel, grant in (requested or {}).items():
                if (position := joined_now(self._engine, channel, grant)) is None:
                    return None
                joined[channel] = position
            if requested is None:
                return None
            grants = requested
        known = self._adopt(client, prepared)
        keep_headers(client, action.request, self._engine.hooks)
        subs = self._enter_now(client, action.request, grants, joined)
        decisions = self._connected(client, action, NO_PAYLOAD, subs)
        # After the reply, which a fault of the listener must not suppress, and before subscriptions are reported.
        return [*decisions[:1], partial(self._announce, client, known, channels=len(subs)), *decisions[1:]]

    async def run(self, client: ClientConnection, action: Authenticate, prepared: Identity | None) -> list[Work]:
        """Connect with all that there may be: keys to fetch, a limit, a hook, server-side subscriptions."""
        request = action.request
        known, data = await self._identify(client, request, prepared)
        if client.one_way:
            await self._grants.grant_requested(client, request)
        identity = client.identity
        transport = client.transport
        held = HeldTransport(transport, client.on_overflow)
        client.transport = held
        try:
            subs = await self._enter_all(client, identity.subscriptions, request.subs)
            decisions = self._connected(client, action, data, subs)
        finally:
            client.transport = transport
        for channel, subscription in client.session.subscriptions.items():
            subscription.chan_info = identity.subscriptions[channel].info
        announce = partial(self._announce, client, known, channels=len(subs))
        if client.session.state is not SessionState.CONNECTED:
            # What was held is not for a client that is not let in.
            return [*decisions, announce]
        client.carry_out(decisions[:1])
        held.release()
        # Before the commands that waited: they may enter channels, and leave these.
        return [announce, partial(client.carry_out, decisions[1:])]

    async def _identify(
        self, client: ClientConnection, request: ConnectRequest, prepared: Identity | None
    ) -> tuple[str, Raw]:
        """Find out who the client is, by its token or by a hook, within all limits.

        Returns the user that was known from the handshake, and the hook's data for the client.
        """
        hooks = self._engine.hooks
        if hooks.authenticates and not self._authority.brings_token(request, client.handshake):
            decision = await hooks.connect(shown_to_hooks(client), hook_request(client, request, hooks), request.data)
            if decision.user is None:
                # Anonymous, where that is allowed.
                identity = await self._authority.identify(request, client.handshake)
            else:
                identity = self._authority.accepted(decision)
            known = self._adopt(client, _readable(client, identity))
            await self._user_limit.claim(client)
            return known, decision.data
        handshake = client.handshake
        identity = prepared or await self._authority.identify(request, handshake)
        known = self._adopt(client, _readable(client, identity))
        await self._user_limit.claim(client)
        if not hooks.sees_clients:
            keep_headers(client, request, hooks)
            return known, NO_PAYLOAD
        shown = shown_to_hooks(client, has_token=self._authority.brings_token(request, handshake))
        decision = await hooks.connect(shown, hook_request(client, request, hooks), request.data)
        if decision.user is not None:
            more = completed(client.identity, self._authority.accepted(decision), decision)
            client.adopt(_readable(client, more))
        return known, decision.data

    def _adopt(self, client: ClientConnection, identity: Identity) -> str:
        """Have the client be `identity`; return the user that was known from the handshake."""
        client.adopt(identity)
        if guesses(client.handshake, identity):
            self._engine.admission.clients.failed_connects.spend(client.address)
        client.handshake = None
        known, client.user = client.user, identity.user
        if not client.count():
            raise CommandRefused(codes.DISCONNECT_CONNECTION_LIMIT)
        if client.close_code is None:
            self._engine.hub.identify(client)
        return known

    def _connected(
        self, client: ClientConnection, action: Authenticate, data: Raw, subs: dict[str, SubscribeResult]
    ) -> list[Decision]:
        identity = client.identity
        result = ConnectResult(
            client=client.id,
            version=__version__,
            data=data,
            subs=subs,
            node=self._engine.node.id,
            session=client.session_secret or client.session_id,
            resume=identity.resume,
        )
        return client.session.connected(
            action,
            result,
            time.monotonic(),
            ttl=ttl_until(identity.expires_at),
            sub_ttls={channel: ttl_until(grant.expires_at) for channel, grant in identity.subscriptions.items()},
            refreshable=identity.renewable and not (identity.ends_by_hook or client.one_way),
            renewed=identity.renewed_by_hook,
            first_ping=random.uniform(1, self._engine.options.ping_seconds),  # noqa: S311 - spreads pings
        )

    def _announce(self, client: ClientConnection, known: str, *, channels: int) -> None:
        """Report the client and its channels, once it has its answer; log a user that the upgrade did not name."""
        if client.session.state is SessionState.CONNECTED:
            client.announced = True
            lifecycle = self._engine.lifecycle
            lifecycle.connected(client.id, client.user, client.address)
            for channel in client.memberships:
                self._engine.presence.announce(channel, client.id)
                lifecycle.subscribed(client.id, client.user, channel, client.address)
        if client.user != known:
            log.info("client_authenticated", connection_id=client.id, user=client.user, channels=channels)

    def _enter_now(
        self,
        client: ClientConnection,
        request: ConnectRequest,
        grants: dict[str, Grant],
        joined: Mapping[str, Joined],
    ) -> dict[str, SubscribeResult]:
        """Enter the channels of a client that only reads, where it stands already."""
        if not grants:
            return {}
        client.check_grants(grants)
        client.identity = replace(client.identity, subscriptions=grants)
        results: dict[str, SubscribeResult] = {}
        views: dict[str, View | None] = {}
        for channel, grant in grants.items():
            subscribe = request.subs[channel]
            client.begin_channel(subscribe, grant)
            result = results[channel] = subscribe_result(subscribe, grant, joined[channel], user=client.user)
            views[channel] = make_view(client.encoder, subscribe, grant, result, self._engine.hub.subscribers.ids)
        for channel, view in views.items():
            client.memberships.enter_live(client, channel, grants[channel], view)
        return results

    async def _enter_all(
        self, client: ClientConnection, grants: Mapping[str, Grant], requests: Mapping[str, SubscribeRequest]
    ) -> dict[str, SubscribeResult]:
        """Enter the channels together, so that they share the round trips to the broker; the results in their order."""
        results: dict[str, SubscribeResult] = {}
        entering = []
        for channel, grant in grants.items():
            request = requests.get(channel) or SubscribeRequest(channel)
            request.channel = channel
            entering.append(self._enter(client, grant, request, results))
        try:
            await _all_of(entering)
        except BaseException:
            client.memberships.leave_all()
            raise
        return {channel: results[channel] for channel in grants if channel in results}

    async def _enter(
        self, client: ClientConnection, grant: Grant, request: SubscribeRequest, results: dict[str, SubscribeResult]
    ) -> None:
        """Enter one channel, and put what the client is answered for it into `results`."""
        wanted = tags_filter(request, grant)

        def answer(subscriber: Subscriber, joined: Joined) -> bool:
            if client.session.state is not SessionState.CONNECTING:
                return False
            result = results[request.channel] = subscribe_result(request, grant, joined, user=client.user)
            turn.answered(bytes_of_publications(result.publications))
            ids, patches = self._engine.hub.subscribers.ids, self._recoveries.patches
            set_view(subscriber, client.encoder, request, grant, result, ids, patches)
            set_stream_view(subscriber, client, grant, result)
            if grant.options.stream is None:
                result.publications = self._recoveries.share(request.channel, result.publications)
            if not client.own_channels_only:
                client.memberships.watch(client, request, grant.options)
            return True

        if client.one_way and client.begin_channel(request, grant):
            await client.send_missed(request, grant)
        subscriber = Subscriber(client, request.channel, answer)
        since = recovers_from(request, grant, user=client.user)
        turn = RecoveryTurn(client.gates.recovering if may_bring_much(since, grant) else None)
        async with turn:
            if not self._engine.channels.knows(request.channel):
                # Its namespace has gone while it waited: the client connects without it.
                return
            await client.memberships.enter(subscriber, grant, client.info(grant.info), since, wanted=wanted)
        if client.one_way and subscriber.created and grant.options.keeps_history:
            self._grants.count_first_use(client)


async def _all_of(entering: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Return when all are done; raise what the first of them raised."""
    if len(entering) == 1:
        await entering[0]
        return
    for outcome in await asyncio.gather(*entering, return_exceptions=True):
        if outcome is not None:
            raise outcome


def _readable(client: ClientConnection, identity: Identity) -> Identity:
    """`identity` without the channels that the client cannot read."""
    unreadable = [channel for channel, grant in identity.subscriptions.items() if not client.reads(grant.options)]
    if not unreadable:
        return identity
    leave_out(client, *unreadable)
    kept = {channel: grant for channel, grant in identity.subscriptions.items() if channel not in unreadable}
    return replace(identity, subscriptions=kept)
