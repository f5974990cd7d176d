"""Services that a test starts and ends while its clients live on in the same event loop."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from prometheus_client import CollectorRegistry

from starling.engine.lifecycle import Lifecycle
from starling.main import build_application
from starling.settings import load_settings
from tests.support.running import SECRET, Starling
from tests.support.waiting import DEADLINE


@asynccontextmanager
async def serving(
    channels_file: str, settings: Mapping[str, str] | None = None, *, in_place_of: Starling | None = None
) -> AsyncIterator[Starling]:
    """A service of the test's own, on the port of one that has ended if so wanted; the clients here can go on."""
    place = {"STARLING_PORT": str(in_place_of.port)} if in_place_of is not None else {}
    service = Starling(
        {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_CHANNELS_FILE": channels_file,
            "STARLING_DRAIN_SECONDS": "0",
            **(settings or {}),
            **place,
        }
    )
    service.port = int(service.environment["STARLING_PORT"])
    await asyncio.to_thread(service.__enter__)
    try:
        yield service
    finally:
        await asyncio.to_thread(service.__exit__, None, None, None)


@dataclass(frozen=True)
class Place:
    """Where a service listens."""

    url: str


@asynccontextmanager
async def serving_here(channels_file: str, lifecycle: Lifecycle | None = None) -> AsyncIterator[Place]:
    """The service in this event loop and on an ordinary ASGI server, with a lifecycle listener of the test's own."""
    settings = load_settings({"STARLING_TOKEN_HMAC_SECRET": SECRET, "STARLING_CHANNELS_FILE": channels_file})
    application = build_application(settings, CollectorRegistry(), lifecycle=lifecycle).asgi
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=0, log_config=None))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(DEADLINE):
        while not server.started:
            await asyncio.sleep(0.01)
    try:
        yield Place("ws://{}:{}".format(*server.servers[0].sockets[0].getsockname()))
    finally:
        server.should_exit = True
        await serving
