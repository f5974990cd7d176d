"""Asks hooks whether a connection, or a subscription, goes on at its end; the client notices nothing."""

import time

import structlog
from msgspec.structs import replace

from starling.client.client_connection import ClientConnection, ttl_until
from starling.client.commands.base import CommandHandler
from starling.client.commands.shown_info import show_info
from starling.client.hook_calls import shown_to_hooks
from starling.engine.hooks import Hooks, RefreshDecision
from starling.engine.presence_tracker import PresenceTracker
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Disconnect
from starling.protocol.decisions import Decision, RenewConnection, RenewSubscription
from starling.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.client")


class RenewHandler(CommandHandler[RenewConnection, None]):
    """Asks about a connection; without an answer it is asked again, and the connection goes on for its grace."""

    action = RenewConnection

    def __init__(self, hooks: Hooks, presence: PresenceTracker, metrics: Metrics) -> None:
        self._hooks = hooks
        self._presence = presence
        self._metrics = metrics

    def prepare(self, client: ClientConnection, action: RenewConnection) -> None:
        """Nothing can be said before the backend answers."""

    async def run(self, client: ClientConnection, action: RenewConnection, prepared: None) -> list[Decision]:
        """Ask, and adopt the new end and info."""
        session = client.session
        try:
            decision = await self._hooks.refresh(shown_to_hooks(client))
        except CommandRefused as refused:
            if isinstance(refused.reason, Disconnect):
                return session.close(refused.reason)
            self._metrics.unanswered_renewals["connection"] += 1
            log.warning(
                "renewal_unanswered", connection_id=client.id, remedy="see why the refresh proxy gives no answer"
            )
            return session.renewed(time.monotonic(), answered=False)
        if decision is None or decision.expired:
            return session.close(codes.DISCONNECT_EXPIRED)
        before = client.identity.info
        info = before if decision.info is None else decision.info
        client.adopt(replace(client.identity, info=info, expires_at=decision.expires_at))
        if bytes(info) != bytes(before):
            await show_info(client, self._presence, client.memberships)
        return session.renewed(time.monotonic(), ttl=ttl_until(decision.expires_at))


class RenewSubHandler(CommandHandler[RenewSubscription, None]):
    """Asks about a subscription; without an answer it is asked again, and the subscription goes on for its grace."""

    action = RenewSubscription

    def __init__(self, hooks: Hooks, presence: PresenceTracker, metrics: Metrics) -> None:
        self._hooks = hooks
        self._presence = presence
        self._metrics = metrics

    def prepare(self, client: ClientConnection, action: RenewSubscription) -> None:
        """Nothing can be said before the backend answers."""

    async def run(self, client: ClientConnection, action: RenewSubscription, prepared: None) -> list[Decision]:
        """Ask, and adopt the new end and info."""
        session, subscription = client.session, action.subscription
        channel = subscription.channel
        try:
            decision = await self._hooks.sub_refresh(shown_to_hooks(client, subscription.chan_info), channel)
        except CommandRefused as refused:
            if isinstance(refused.reason, Disconnect):
                return session.close(refused.reason)
            self._metrics.unanswered_renewals["subscription"] += 1
            return session.renewed(time.monotonic(), subscription=subscription, answered=False)
        if session.subscriptions.get(channel) is not subscription:
            # It ended meanwhile, and the client may have another one that nobody asked about.
            return []
        decision = decision or RefreshDecision(expired=True)
        if decision.expired:
            return session.unsubscribe(channel, codes.UNSUBSCRIBE_EXPIRED, time.monotonic())
        info = subscription.chan_info if decision.info is None else decision.info
        if bytes(info) != bytes(subscription.chan_info):
            await self._presence.update(channel, client.info(info))
        ttl = ttl_until(decision.expires_at)
        return session.renewed(time.monotonic(), ttl=ttl, subscription=subscription, chan_info=info)
