"""The shared drain rate in Redis: one key says when the next turn is free."""

from starling.brokers.redis.calls import Execute, Script


class RedisDrainRate:
    """Implements DrainRateStore with Redis's own clock, so that the clocks of the hosts may differ."""

    def __init__(self, execute: Execute, prefix: str) -> None:
        self._execute = execute
        self._keys = [f"{prefix}:{{drain}}:next_turn".encode()]
        self._script = Script("drain_rate_reserve.lua")

    async def reserve(self, count: int, per_second: float) -> float:
        """Take the next `count` turns; returns the seconds until they begin. Raises BrokerUnavailable."""
        wait = await self._script.run(self._execute, self._keys, round(count / per_second * 1_000_000))
        return wait / 1_000_000 if isinstance(wait, int) else 0.0
