"""What tests of the engine share: one on the broker in memory, started and ready."""

from collections.abc import AsyncIterator, Callable

import pytest

from starling.brokers.broadcast import BroadcastBroker
from starling.brokers.open import open_broker
from starling.engine.engine import Engine
from tests.support.engines import memory_engine, started
from tests.support.local_server import LocalServer
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with started(memory_engine()) as engine:
        yield engine


@pytest.fixture(params=["local", pytest.param("redis", marks=pytest.mark.processes)])
def new_broker(request: pytest.FixtureRequest) -> Callable[[], BroadcastBroker]:
    """Makes brokers of nodes that meet at one server: in this process, and at a Redis."""
    if request.param == "local":
        return LocalServer().broker
    redis: RedisServer = request.getfixturevalue("redis_server")
    return lambda: open_broker(redis.url, timeout=DEADLINE)
