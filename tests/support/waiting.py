"""Waiting in a test for what will come."""

import asyncio
from collections.abc import Callable

# Seconds that a test waits for a condition before it fails; generous, because machines are busy.
DEADLINE = 60.0


async def until(holds: Callable[[], object], what: str = "it holds", deadline: float = DEADLINE) -> None:
    """Wait until `holds()`; fail with `what` after `deadline` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while not holds():
        if loop.time() > end:
            raise AssertionError(f"waited {deadline:g} s in vain: {what}")
        await asyncio.sleep(0.01)
