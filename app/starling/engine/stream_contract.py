"""What a stream needs: its subscribers, the hub, its options; and what it counts."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from starling.engine.broker import StreamEntry
from starling.engine.follower import Joined

# Data in one answer to a client, beyond the first publication: it must fit into what may wait for a client.
ANSWER_BYTES = 768 * 1024


class Joining(Hashable, Protocol):
    """What a stream needs of a subscriber."""

    def reply(self, joined: Joined) -> bool:
        """Write the answer; False when the subscriber has gone meanwhile. Never waits."""

    def unsubscribe(self) -> None:
        """Unsubscribe a subscriber that was answered but is not live yet: 2500, insufficient state."""


S = TypeVar("S", bound=Joining)

S_contra = TypeVar("S_contra", bound=Joining, contravariant=True)


class Live(Protocol[S_contra]):
    """What a stream needs of the hub: the subscribers that get every publication at once."""

    def broadcast(self, channel: str, entry: StreamEntry) -> None:
        """Hand a publication to every live subscriber of the channel."""

    def enter(self, channel: str, subscriber: S_contra) -> None:
        """Make a subscriber live: it gets the next publication."""

    def unsubscribe_all(self, channel: str) -> None:
        """Unsubscribe every live subscriber: 2500, insufficient state."""


@dataclass(slots=True)
class StreamStats:
    """Counted over streams of a process. `resets` are gaps that the store could not fill.

    `from_memory` are recoveries without the store. `healed_delays` are the seconds from noticing a gap to delivering
    each publication of it.
    """

    heals: int = 0
    healed: int = 0
    resets: int = 0
    join_reads: int = 0
    recovered: int = 0
    unrecovered: int = 0
    from_memory: int = 0
    healed_delays: list[float] = field(default_factory=list)

    def take_healed_delays(self) -> list[float]:
        """The delays since this was last called."""
        delays, self.healed_delays = self.healed_delays, []
        return delays


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a channel is followed. Times in seconds, 0: for ever.

    `history_size` and `history_meta_ttl` are those that publications are kept with. `recovery_limit` and
    `recovery_bytes` bound what a returning client gets; keep the bytes under the write limit of a connection, or the
    answer itself makes its client a slow one.
    """

    history_size: int
    history_meta_ttl: float
    recovery_limit: int
    recovery_bytes: int = ANSWER_BYTES
