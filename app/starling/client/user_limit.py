"""The limit of connections that one user may have on the client endpoint, over all processes."""

from collections import Counter

from starling.client.client_connection import ClientConnection
from starling.engine.presence_tracker import PresenceTracker
from starling.protocol import codes
from starling.protocol.codes import CommandRefused

# In the empty namespace, which no client can name: a channel for each user, whose members are its connections.
USER_CHANNELS = ":user:"


class UserLimit:
    """Counts connections by user in presence, where all processes see them; `most` 0 is no limit."""

    def __init__(self, presence: PresenceTracker, most: int) -> None:
        self.on = most > 0
        """Whether there is a limit."""
        self._presence = presence
        self._most = most
        self._here: Counter[str] = Counter()

    async def claim(self, client: ClientConnection) -> None:
        """Count a connection as one of its user's. Raises CommandRefused when the user has as many as it may."""
        if not self.on or not client.user:
            return
        channel = USER_CHANNELS + client.user
        # The count of this process holds while the broker is away, too.
        full = self._here[channel] >= self._most
        if full or not await self._presence.enter(channel, client.info(), self._most):
            raise CommandRefused(codes.DISCONNECT_CONNECTION_LIMIT)
        client.user_channel = channel
        self._here[channel] += 1
        if client.close_code is not None:
            self.release(client)

    def release(self, client: ClientConnection) -> None:
        """Count a connection no more; nothing, if it is not counted."""
        channel, client.user_channel = client.user_channel, ""
        if channel:
            self._presence.depart(channel, client.id)
            self._here[channel] -= 1
            if not self._here[channel]:
                del self._here[channel]
