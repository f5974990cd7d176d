"""Log lines about what the broker refused, in its own words."""

import time
from collections.abc import Callable

import structlog

from starling.engine.broker import BrokerRefused

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

# However many publications are refused, a line comes once in this many seconds.
LOG_SECONDS = 10.0


class BrokerRefusals:
    """Reports publications that the broker refused, rate limited."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds and never goes back."""
        self._clock = clock
        self._logged_at = -LOG_SECONDS
        self._refused = 0

    def report(self, channel: str, refusal: BrokerRefused) -> None:
        """Log one refused publication, or count it towards the next line."""
        self._refused += 1
        now = self._clock()
        if now - self._logged_at >= LOG_SECONDS:
            log.error(
                "publication_refused",
                channel=channel,
                reason=str(refusal),
                refused=self._refused,
                remedy="the broker says why: see docs/redis.md",
            )
            self._refused, self._logged_at = 0, now
