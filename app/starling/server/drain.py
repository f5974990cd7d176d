"""The drain of a worker: routers notice, the listeners close, clients are disconnected evenly, then the rest ends.

Members of uvicorn's Server that this module uses, each held by a test in tests/server/test_uvicorn_members.py:
`handle_exit`, `on_tick`, `server_state.connections`, `servers`, `should_exit`, `shutdown`, `startup`.
"""

import asyncio
import gc
import os
import random
import time
from collections.abc import Coroutine
from types import FrameType
from typing import Any, cast

import structlog
import uvicorn

from starling.engine.readiness import Unready
from starling.server.client_socket import ClientSocket
from starling.server.drain_rate import DrainRate
from starling.server.options import ServerOptions
from starling.server.service import Service
from starling.server.websocket import StarlingWebSocket

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

# Ctrl+C on a terminal reaches a worker twice, directly and through its master: that is one request.
SAME_REQUEST_SECONDS = 1.0
CHECK_SECONDS = 0.1
PROGRESS_SECONDS = 5.0
# Connections leave no cycles behind, so the collector may come rarely: each time it looks through all of them, and
# messages wait.
COLLECTOR_THRESHOLDS = (50_000, 20, 100)
# For the application's own end, beyond what requests under way are given.
LIFESPAN_SECONDS = 5.0


class DrainServer(uvicorn.Server):
    """A uvicorn server that ends as a worker of this service should."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        options: ServerOptions,
        service: Service,
        master: int,
    ) -> None:
        """`master` is the process without which this one must not live."""
        super().__init__(config)
        self._options = options
        self._readiness = service.readiness
        self._drain_rate_store = service.drain_rate_store
        self._stats = service.drain
        self._master = master
        self._asked_at: float | None = None
        self._hurried = False

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Begin to serve; the objects that exist by then are excluded from garbage collection."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTOR_THRESHOLDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully at the first signal, at once at a later second one."""
        # uvicorn would raise the signal again at the end, and the exit code would report a death by signal.
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        elif time.monotonic() - self._asked_at > SAME_REQUEST_SECONDS:
            self._hurried = True
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Check whether to end; a worker without its master ends too, so that no orphan keeps the port."""
        if self._abandoned:
            log.warning("master_gone")
            self.should_exit = True
        return await super().on_tick(counter)

    @property
    def _abandoned(self) -> bool:
        return os.getppid() != self._master

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Drain, as the module's docstring describes; a second signal ends the waiting."""
        started = time.monotonic()
        self._readiness.hold(Unready.DRAINING)
        log.info(
            "drain_started",
            connections=len(self.server_state.connections),
            seconds=self._options.drain_time,
            drain_rate=self._options.drain_rate,
        )
        await self._unless_hurried(asyncio.sleep(self._options.drain_delay_seconds))
        self._close_listeners(sockets or [])
        await self._unless_hurried(self._disconnect_all())
        limit = self._options.shutdown_seconds + LIFESPAN_SECONDS
        try:
            async with asyncio.timeout(limit):
                await super().shutdown(sockets)
        except TimeoutError:
            log.error("shutdown_incomplete", seconds=limit)  # noqa: TRY400 - a stack adds nothing to the limit
        log.info("drain_ended", seconds=round(time.monotonic() - started, 3), **self._stats.gone)

    async def _unless_hurried(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(step)
        try:
            while not task.done() and not self._hurried and not self._abandoned:
                await asyncio.wait({task}, timeout=CHECK_SECONDS)
            if task.done():
                task.result()
        finally:
            task.cancel()

    def _close_listeners(self, sockets: list[Any]) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()

    async def _disconnect_all(self) -> None:
        """Let requests over HTTP end, and disconnect the WebSockets one after the other in random order."""
        connections = cast("set[Any]", self.server_state.connections)
        waiting: list[ClientSocket | StarlingWebSocket] = []
        for connection in list(connections):
            if isinstance(connection, ClientSocket | StarlingWebSocket):
                waiting.append(connection)
            else:
                connection.shutdown()
        random.shuffle(waiting)
        rate = DrainRate(self._options.drain_time, self._drain_rate_store, self._options.drain_rate)
        try:
            await self._disconnect_at(rate, waiting, connections)
        finally:
            rate.close()
            self._stats.left = 0

    async def _disconnect_at(
        self, rate: DrainRate, waiting: list[ClientSocket | StarlingWebSocket], connections: set[Any]
    ) -> None:
        stats, reported_at = self._stats, time.monotonic()
        while True:
            while waiting and waiting[-1] not in connections:
                waiting.pop()
            stats.left = len(waiting)
            if not waiting:
                return
            if time.monotonic() - reported_at > PROGRESS_SECONDS:
                reported_at = time.monotonic()
                log.info("drain_progress", left=stats.left, **stats.gone)
            going = await rate(len(waiting))
            stats.gone[rate.reason] += going
            log.debug("clients_disconnected", clients=going, reason=rate.reason)
            for _ in range(going):
                waiting.pop().shutdown()
