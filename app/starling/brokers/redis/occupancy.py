"""Occupancy in Redis: every call of a holder is one atomic script, which also finds holders that are gone."""

from collections.abc import Sequence

from starling.brokers.redis.calls import Execute, Script
from starling.engine.broker import BrokerUnavailable
from starling.engine.occupancy import LEASE_SHARE, OccupancyChange
from starling.engine.presence import DEFAULT_TTL

# When the whole cluster is gone for longer, what became empty is not reported any more.
_KEEP_MILLISECONDS = 24 * 3600 * 1000


class RedisOccupancy:
    """Implements starling.engine.occupancy.OccupancyStore."""

    def __init__(self, execute: Execute, prefix: str, ttl: float = DEFAULT_TTL) -> None:
        """`ttl` in seconds."""
        self.ttl = ttl
        self._execute = execute
        self._prefix = prefix
        self._change = Script("occupancy_change.lua")

    async def change(
        self, holder: str, number: int, *, enter: Sequence[str] = (), leave: Sequence[str] = ()
    ) -> OccupancyChange | None:
        """Hold, leave and stay alive, as the contract says. Raises BrokerUnavailable."""
        names = ("leases", "holders", "revision", f"answer:{holder}", f"channels:{holder}")
        # One slot for all, because one script looks over all channels of a holder.
        keys = [f"{self._prefix}:{{occupancy}}:{name}".encode() for name in names]
        channels = [channel.encode() for channel in (*enter, *leave)]
        found = await self._change.run(
            self._execute,
            keys,
            holder,
            number,
            max(1, round(self.ttl * LEASE_SHARE * 1000)),
            _KEEP_MILLISECONDS,
            len(enter),
            *channels,
            size=sum(map(len, channels)),
        )
        match found:
            case None:
                return None
            case [list(occupied), list(vacated), bytes(revision), int(more)]:
                return OccupancyChange(_texts(occupied), _texts(vacated), int(revision), more=more == 1)
        raise BrokerUnavailable("the occupancy script answered in another form than it should")


def _texts(channels: list[object]) -> list[str]:
    return [channel.decode() for channel in channels if isinstance(channel, bytes)]
