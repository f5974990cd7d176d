"""Log lines about what the broker refused, in its own words."""

import time
from collections.abc import Callable

import structlog

from starling.engine.broker import BrokerRefused

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

# However many calls are refused, a line of each event comes once in this many seconds.
LOG_SECONDS = 10.0


class _LimitedLine:
    """An event of the log, written once in a while with the number of refusals since the last line."""

    def __init__(self, event: str, clock: Callable[[], float]) -> None:
        self._event = event
        self._clock = clock
        self._logged_at = -LOG_SECONDS
        self._refused = 0

    def add(self, refusal: BrokerRefused, **where: str) -> None:
        self._refused += 1
        now = self._clock()
        if now - self._logged_at >= LOG_SECONDS:
            log.error(
                self._event,
                **where,
                reason=str(refusal),
                refused=self._refused,
                remedy="the broker says why: see docs/redis.md",
            )
            self._refused, self._logged_at = 0, now


class BrokerRefusals:
    """Reports publications and other calls that the broker refused, rate limited, each refusal once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds and never goes back."""
        self._publications = _LimitedLine("publication_refused", clock)
        self._calls = _LimitedLine("call_refused", clock)

    def report(self, channel: str, refusal: BrokerRefused) -> None:
        """Log one refused publication, or count it towards the next line."""
        refusal.reported = True
        self._publications.add(refusal, channel=channel)

    def report_call(self, call: str, failure: Exception, channel: str = "") -> None:
        """Log what else was refused, such as the command or the method `call`; nothing for any other failure."""
        if isinstance(failure, BrokerRefused) and not failure.reported:
            failure.reported = True
            self._calls.add(failure, call=call, channel=channel)
