"""The presence contract: who is in a channel, over all processes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from app.protocol.messages import ClientInfo


@dataclass(frozen=True, slots=True)
class PresenceStats:
    """How many clients are in a channel, and how many different users they are of."""

    num_clients: int
    num_users: int


class Presence(Protocol):
    """Keeps who is in which channel. An entry lives for the store's ttl unless it is refreshed, so that what a crashed
    process left behind goes by itself. Every method raises BrokerUnavailable.
    """

    ttl: float

    async def add(self, channel: str, info: ClientInfo) -> bool:
        """Add a client, or refresh it; True when its user was not in the channel before."""

    async def refresh(self, entries: Mapping[str, Collection[ClientInfo]]) -> None:
        """Keep many entries alive at once, in batches; an entry that is gone is made again."""

    async def remove(self, channel: str, info: ClientInfo) -> bool:
        """Take a client out; True when its user is not in the channel any more."""

    async def get(self, channel: str) -> dict[str, ClientInfo]:
        """Who is in a channel, by client id."""

    async def stats(self, channel: str) -> PresenceStats:
        """How many are in a channel; costs the same whatever the number."""
