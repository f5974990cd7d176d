"""The probe of a server: whether it delivers a message of this process, over connections that nothing else uses."""

import asyncio
from collections.abc import Awaitable, Callable

from starling.brokers.link import Link, LinkLost
from starling.engine.broker import BrokerUnavailable


async def receives_own_message(
    link: Link, publish: Callable[[str, bytes], Awaitable[None]], channel: str, *, seconds: float
) -> bool:
    """Subscribe `channel` over the fresh `link`, publish once; returns whether it was received within `seconds`."""
    received = asyncio.Event()
    reading: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(seconds):
            await link.open()
            reading = asyncio.create_task(
                link.read(lambda _channel, _message: received.set()), name="broker-probe-read"
            )
            await link.subscribe([channel])
            await publish(channel, b"probe")
            await received.wait()
    except (LinkLost, BrokerUnavailable, TimeoutError):
        return False
    finally:
        # The caller may be cancelled just as this ends, too.
        try:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        finally:
            await link.close()
    return True
