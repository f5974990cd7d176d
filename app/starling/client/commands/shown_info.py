"""What others see of a client that has another info from now on."""

from collections.abc import Iterable

from starling.client.client_connection import ClientConnection
from starling.engine.presence_tracker import PresenceTracker


async def show_info(client: ClientConnection, presence: PresenceTracker, channels: Iterable[str]) -> None:
    """Show the info that a client has now in these of its channels, also in those that it is on its way into."""
    for channel in tuple(channels):
        subscription = client.session.subscriptions.get(channel)
        if subscription is not None:
            await presence.update(channel, client.info(subscription.chan_info))
        elif (grant := client.memberships.grant(channel)) is not None:
            await presence.update(channel, client.info(grant.info))
