"""`refresh` and `sub_refresh`: new tokens for a connection and for a subscription."""

import time

from starling.client.authority import Authority
from starling.client.client_connection import ClientConnection, ttl_until
from starling.client.commands.base import CommandHandler
from starling.engine.presence_tracker import PresenceTracker
from starling.protocol import codes
from starling.protocol.decisions import Decision, Refresh, SubRefresh


class RefreshHandler(CommandHandler[Refresh, None]):
    """Replaces the connection's token; the rule is the authority's, which may have to fetch keys."""

    action = Refresh
    method = "refresh"

    def __init__(self, authority: Authority, presence: PresenceTracker) -> None:
        self._authority = authority
        self._presence = presence

    def prepare(self, client: ClientConnection, action: Refresh) -> None:
        """Nothing can be said before the token is verified."""

    async def run(self, client: ClientConnection, action: Refresh, prepared: None) -> list[Decision]:
        """Verify the token and adopt what it says; the info that others see is replaced where it differs."""
        before = client.identity
        client.adopt(await self._authority.renew(before, action.request.token))
        if bytes(client.identity.info) != bytes(before.info):
            for channel, subscription in tuple(client.session.subscriptions.items()):
                await self._presence.update(channel, client.info(subscription.chan_info))
        return client.session.refreshed(action, time.monotonic(), ttl=ttl_until(client.identity.expires_at))


class SubRefreshHandler(CommandHandler[SubRefresh, None]):
    """Replaces a subscription's token; the rule is the authority's, which may have to fetch keys."""

    action = SubRefresh
    method = "sub_refresh"

    def __init__(self, authority: Authority, presence: PresenceTracker) -> None:
        self._authority = authority
        self._presence = presence

    def prepare(self, client: ClientConnection, action: SubRefresh) -> None:
        """Nothing can be said before the token is verified."""

    async def run(self, client: ClientConnection, action: SubRefresh, prepared: None) -> list[Decision]:
        """Verify the token and adopt its end and info; a client that it forces another filter on subscribes again."""
        channel = action.request.channel
        grant = await self._authority.renew_grant(client.identity, channel, action.request.token)
        same_filter = client.memberships.renew(channel, grant)
        await self._presence.update(channel, client.info(grant.info))
        ttl = ttl_until(grant.expires_at)
        decisions = client.session.sub_refreshed(action, time.monotonic(), ttl=ttl, chan_info=grant.info)
        if same_filter:
            return decisions
        client.carry_out(decisions)
        client.send_unsubscribe(channel, codes.UNSUBSCRIBE_INSUFFICIENT_STATE)
        return []
