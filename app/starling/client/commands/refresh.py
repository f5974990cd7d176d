"""`refresh` and `sub_refresh`: a new token in the place of the one that a connection or a subscription has."""

import time

from starling.client.authority import Authority, earlier
from starling.client.client_connection import ClientConnection, ttl_until
from starling.client.commands.base import CommandHandler
from starling.client.commands.shown_info import show_info
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
        renewal = await self._authority.renewal(action.request.token)
        # Its verification may take seconds, in which a backend may have set another end.
        before, session, now = client.identity, client.session, time.monotonic()
        client.adopt(renewal(before))
        identity = client.identity
        renewed = [
            channel for channel, grant in identity.subscriptions.items() if grant is not before.subscriptions[channel]
        ]
        for channel in renewed:
            grant = identity.subscriptions[channel]
            session.server_side_renewed(channel, now, ttl=ttl_until(grant.expires_at), chan_info=grant.info)
        other_info = bytes(identity.info) != bytes(before.info)
        await show_info(client, self._presence, client.memberships if other_info else renewed)
        refreshable = not identity.ends_by_hook
        return session.refreshed(action, time.monotonic(), ttl=ttl_until(identity.expires_at), refreshable=refreshable)


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
        held = client.memberships.grant(channel)
        info, end, refreshable = grant.info, grant.expires_at, True
        if held is not None and (hooked := held.hooked) is not None:
            info = action.subscription.chan_info if hooked.info == bytes(info) else info
            end = earlier(end, hooked.end)
            refreshable = hooked.end is None or end != hooked.end
        same_filter = client.memberships.renew(channel, grant)
        await self._presence.update(channel, client.info(info))
        decisions = client.session.sub_refreshed(
            action, time.monotonic(), ttl=ttl_until(end), chan_info=info, refreshable=refreshable
        )
        if same_filter or client.session.subscriptions.get(channel) is not action.subscription:
            return decisions
        # Before the commands that waited for it, which may begin another subscription.
        client.carry_out(decisions[:1])
        client.send_unsubscribe(channel, codes.UNSUBSCRIBE_INSUFFICIENT_STATE)
        return decisions[1:]
