"""What tests of the engine share: one on the broker in memory, started and ready."""

from collections.abc import AsyncIterator

import pytest

from starling.engine.engine import Engine
from tests.support.engines import memory_engine, started


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with started(memory_engine()) as engine:
        yield engine
