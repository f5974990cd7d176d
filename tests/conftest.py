"""What holds for tests of every layer: the servers that they may use, and that no callback raises under them."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.services import PostgresServer, RedisServer

pytest_plugins = ["tests.support.run.plugin"]

# A busy machine makes examples slow, which says nothing of what they test.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of this test's own, empty and running; the test may harm it."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_installation() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests, because making its files takes seconds; use `postgres_server` instead."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_server(postgres_installation: PostgresServer) -> PostgresServer:
    """A running PostgreSQL; the test may harm it, the next one finds it running again."""
    postgres_installation.thaw()
    if not postgres_installation.running:
        postgres_installation.start()
    return postgres_installation


@pytest.fixture(autouse=True)
def no_callback_raises(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a timer or a callback raises reaches no test: the event loop logs it and goes on."""
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    assert [
        text for text in map(logging.LogRecord.getMessage, records) if text.startswith("Exception in callback")
    ] == []
