"""Engines on the broker in memory, for tests below the web layer: no FastAPI, no environment."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from starling.brokers.memory.broker import MemoryBroker
from starling.engine.channels_document import parse_channels
from starling.engine.engine import BrokerWithStores, Engine, build_engine
from starling.engine.options import EngineOptions
from starling.telemetry.metrics import Metrics
from tests.support.waiting import until


def memory_engine(
    channels: Mapping[str, Any] | None = None,
    options: EngineOptions | None = None,
    *,
    broker: BrokerWithStores | None = None,
    **parts: Any,
) -> Engine:
    """An engine that is not started yet; `channels` None allows everything, as developer mode does."""
    return build_engine(
        broker or MemoryBroker(),
        parse_channels(channels, developer=channels is None),
        Metrics(CollectorRegistry()),
        options,
        **parts,
    )


@asynccontextmanager
async def started(engine: Engine) -> AsyncIterator[Engine]:
    """The engine, ready, until the context ends."""
    await engine.start()
    try:
        await until(lambda: engine.readiness.ready, "the engine is ready")
        yield engine
    finally:
        await engine.stop()
