"""The drain rate that all processes share: the contract of the store that gives them turns."""

from typing import Protocol


class DrainRateStore(Protocol):
    """Gives turns one after the other over all processes: a generic cell rate algorithm without a burst."""

    async def reserve(self, count: int, per_second: float) -> float:
        """Take the next `count` turns of all processes; returns the seconds from now until they begin.

        They last `count / per_second` seconds, in which no other process has a turn. Unused turns are lost. Raises
        BrokerUnavailable; the turns may be taken even so.
        """
