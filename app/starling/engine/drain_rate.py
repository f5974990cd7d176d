"""The pace that all processes share: a contract over a store that each of them asks for its turn."""

from typing import Protocol


class DrainRateStore(Protocol):
    """Gives turns one after the other, whoever asks: a generic cell rate algorithm without a burst."""

    async def reserve(self, count: int, per_second: float) -> float:
        """Take the next `count` turns of all processes; returns the seconds from now until they begin.

        They last `count / per_second` seconds, and nobody else has a turn then. Turns that are not used are lost.
        Raises BrokerUnavailable, and then they may be taken all the same.
        """
