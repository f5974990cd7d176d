"""Publications that wait while the broker is unavailable, at the request of their backend."""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starling.engine.broker import BrokerUnavailable

Answer = TypeVar("Answer")

# Requests of one worker that may wait at once; each holds its body.
WAITING_LIMIT = 1000
PAUSE_SECONDS = 0.25


def waiting_key() -> str:
    """An idempotency key for a publication that has none: it will be tried again, and must be published once."""
    return f"waiting-{secrets.token_hex(12)}"


class Waiting:
    """Tries again while the broker is away."""

    def __init__(self) -> None:
        self._now = 0

    async def until_stored(self, publish: Callable[[], Awaitable[Answer]], seconds: float) -> Answer:
        """Publish, trying again for `seconds`. Raises BrokerUnavailable then, or at once where too many wait.

        `publish` raises BrokerUnavailable for what may or may not be stored: it must bring an idempotency key.
        """
        end = time.monotonic() + seconds
        try:
            return await publish()
        except BrokerUnavailable:
            if not seconds or self._now >= WAITING_LIMIT:
                raise
        self._now += 1
        try:
            while True:
                # Jitter: the publications that wait are not sent to the broker all at once.
                await asyncio.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
                try:
                    return await publish()
                except BrokerUnavailable:
                    if time.monotonic() >= end:
                        raise
        finally:
            self._now -= 1
