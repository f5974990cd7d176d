"""A client's budget: a burst, refilled at a steady rate."""


class Budget:
    """Counts what was spent and not refilled yet (the generic cell rate algorithm: one time is all it keeps)."""

    __slots__ = ("_forgiven_at", "_rate")

    def __init__(self, rate: float) -> None:
        """`rate` is how many are forgiven each second."""
        self._rate = rate
        self._forgiven_at = 0.0

    def spend(self, now: float, count: int = 1) -> float:
        """Spend `count` at `now`, in seconds; return how many are not forgiven, these included."""
        self._forgiven_at = max(self._forgiven_at, now) + count / self._rate
        return (self._forgiven_at - now) * self._rate

    def unforgiven(self, now: float) -> float:
        """How many are not forgiven at `now`."""
        return max(0.0, (self._forgiven_at - now) * self._rate)

    def afford(self, now: float, most: float) -> bool:
        """Spend one, unless `most` are spent and not forgiven; what is not afforded is not counted."""
        if (max(self._forgiven_at, now) - now) * self._rate + 1 > most + 1e-9:
            return False
        self.spend(now)
        return True
