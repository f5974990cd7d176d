"""The services that one Starling builds: a new one for each time that it runs, since a service runs once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from starling.embed.routes import OwnRoutes
from starling.main import Application


class BuiltService(NamedTuple):
    """A service, with the routes that it answers."""

    built: Application
    routes: OwnRoutes


class ServiceRuns:
    """The service of each event loop in which a Starling runs; outside of them the one that runs next, or ran last."""

    def __init__(self, first: BuiltService, build: Callable[[], BuiltService]) -> None:
        """`build` makes the next ones."""
        self._latest = first
        self._build = build
        self._begun = False
        self._running: dict[asyncio.AbstractEventLoop, BuiltService] = {}

    @property
    def current(self) -> BuiltService:
        """The service of the running event loop."""
        if not self._running:
            return self._latest
        try:
            return self._running.get(asyncio.get_running_loop(), self._latest)
        except RuntimeError:
            return self._latest

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run a service in this event loop; where one runs already, nothing is done."""
        loop = asyncio.get_running_loop()
        if loop in self._running:
            yield
            return
        if self._begun:
            before, self._latest = self._latest, self._build()
            self._latest.built.registered_hooks.take_over(before.built.registered_hooks)
        self._begun = True
        service = self._running[loop] = self._latest
        try:
            async with service.built.running():
                yield
        finally:
            del self._running[loop]
