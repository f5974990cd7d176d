"""The presence contract: who is in a channel, over all processes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from starling.engine.options import PresenceOptions
from starling.protocol.messages import ClientInfo
from starling.protocol.shared_values import SharedMembers

DEFAULT_TTL = PresenceOptions().presence_ttl_seconds


@dataclass(frozen=True, slots=True)
class PresenceCounts:
    """How many clients are in a channel, and how many users they are of; all anonymous clients are one user."""

    num_clients: int
    num_users: int


class TooManyPresent(Exception):
    """More clients are in the channel than an answer may hold."""


class PresenceStore(Protocol):
    """Keeps who is in which channel, by client id.

    An entry lives for `ttl` seconds after it was last added or refreshed, so what a crashed process left behind goes by
    itself. Every method raises BrokerUnavailable within the broker's time; what a write did is then unknown, and it may
    be repeated without harm.
    """

    ttl: float

    async def add(self, channel: str, info: ClientInfo) -> bool:
        """Add a client; True when its user was not in the channel before."""

    async def enter(self, channel: str, info: ClientInfo, most: int) -> bool:
        """Add a client where fewer than `most` others are; False, and nothing done, where there are as many."""

    async def refresh(self, entries: Mapping[str, Collection[ClientInfo]]) -> None:
        """Keep the clients of many channels alive, in batches; an entry that is gone is made again."""

    async def remove(self, entries: Mapping[str, Collection[ClientInfo]]) -> dict[str, set[str]]:
        """Take clients out of many channels, in batches; returns for each channel which of their users are gone.

        A user is gone with the last of its clients, whichever process that belongs to.
        """

    async def put(self, channel: str, info: ClientInfo, seconds: float) -> bool:
        """Show a client for `seconds`, without refreshes; True when it was not in the channel before."""

    async def end(self, channel: str, info: ClientInfo, left: float | None) -> ClientInfo | None:
        """Take a client out that has `left` seconds at most (None: however many); returns it as it was shown.

        None, and nothing done, where it is not there or has longer. Of several that ask, one gets it.
        """

    async def get(self, channel: str, most: int | None = None, max_bytes: int | None = None) -> SharedMembers:
        """The clients in a channel, by client id. Raises TooManyPresent beyond `most` clients or `max_bytes`."""

    async def stats(self, channel: str) -> PresenceCounts:
        """How many are in a channel; costs the same whatever the number."""
