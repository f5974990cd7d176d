"""The heart of a worker: joins its connections, its hub and its link to the other processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from app.core.admission import Admission
from app.core.broker import (
    Broker,
    BrokerUnavailable,
    LinkState,
    PublicationTooLarge,
    PublishOptions,
    StreamEntry,
    StreamPosition,
)
from app.core.connection import Connection
from app.core.heartbeat import Heartbeat
from app.core.hub import Hub
from app.core.readiness import Readiness, Unready
from app.protocol.messages import ClientInfo, Publication
from app.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.node")

LAG_INTERVAL = 0.1
LAG_TICKS = 10


class Node:
    """One worker's engine. Made before the event loop runs; everything that needs the loop begins in `start`."""

    def __init__(
        self,
        broker: Broker,
        metrics: Metrics,
        readiness: Readiness,
        *,
        ping: int,
        pong: int,
        capacity: int,
        broker_grace: float,
        contact_file: Path | None,
    ) -> None:
        """`ping` and `pong` in seconds; `capacity` connections (0: unbounded); a broker that is away for longer than
        `broker_grace` seconds unreadies this worker (0: never). The first contact of all workers with the broker makes
        `contact_file`; without it this worker is not ready before its own."""
        self.broker = broker
        self.metrics = metrics
        self.readiness = readiness
        self.hub = Hub()
        self.admission = Admission(self.hub, readiness, capacity)
        self._heartbeat = Heartbeat(ping, pong)
        self._broker_grace = broker_grace
        self._contact_file = contact_file
        self._broker_lost_at: float | None = None
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock: asyncio.Task[None] | None = None
        self._taken: list[int] = []

    # Life

    async def start(self) -> None:
        """Begin to connect to the broker and to keep time; returns at once, and readiness tells the rest."""
        self.metrics.sources.append(self._report)
        if self._contact_file is None or not self._contact_file.exists():
            self.readiness.hold(Unready.BROKER_NEVER_REACHED)
        await self.broker.start(self)
        self._clock = asyncio.get_running_loop().create_task(self._keep_time())

    async def stop(self) -> None:
        """Finish what connections had begun, let the broker go and carry the last figures over."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        for task in (self._clock, *self._tasks):
            if task is not None:
                task.cancel()
        await self.broker.stop()
        self.metrics.flush()

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in a task that ends with this node at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Connections

    def opened(self, connection: Connection) -> None:
        """Keep a connection."""
        connection.figures.opened += 1
        connection.figures.now += 1
        self.hub.connections.add(connection)
        self._heartbeat.add(connection)

    def closed(self, connection: Connection, code: int) -> None:
        """Let a connection go."""
        connection.figures.now -= 1
        connection.figures.closed[code] += 1
        self.hub.connections.discard(connection)
        self._heartbeat.remove(connection)

    # Channels

    async def subscribe(self, connection: Connection, channel: str) -> None:
        """Subscribe; on return everything published from now on is delivered.

        Raises BrokerUnavailable when the broker did not acknowledge in time. The subscription then stands all the same
        and is made good when the link returns, unless the caller takes it back with `unsubscribe`.
        """
        async with self._lock(channel):
            if self.hub.subscribe(channel, connection):
                await self.broker.subscribe(channel)

    async def unsubscribe(self, connection: Connection, channel: str) -> None:
        """End a subscription; one that does not exist is no error."""
        async with self._lock(channel):
            if self.hub.unsubscribe(channel, connection):
                await self.broker.unsubscribe(channel)

    async def publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        """Publish to all processes, this one included. Raises BrokerUnavailable and PublicationTooLarge."""
        try:
            position = await self.broker.publish(channel, publication, options)
        except BrokerUnavailable:
            self.metrics.published["failed"] += 1
            raise
        except PublicationTooLarge:
            self.metrics.published["too_large"] += 1
            raise
        self.metrics.published["stored"] += 1
        return position

    @asynccontextmanager
    async def _lock(self, channel: str) -> AsyncIterator[None]:
        """One change of a channel's subscription at a time; locks of idle channels do not stay."""
        lock, users = self._locks.get(channel) or (asyncio.Lock(), 0)
        self._locks[channel] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            users = self._locks[channel][1] - 1
            if users:
                self._locks[channel] = (lock, users)
            else:
                del self._locks[channel]

    # What the broker tells

    def on_publication(self, channel: str, entry: StreamEntry) -> None:
        """Deliver a publication to this process's subscribers."""
        self.hub.broadcast(channel, entry.publication)
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._observe_delivery)
        self._taken.append(entry.publication.time)

    def on_join(self, channel: str, info: ClientInfo) -> None:
        """A client entered a channel."""

    def on_leave(self, channel: str, info: ClientInfo) -> None:
        """A client left a channel."""

    def on_link(self, state: LinkState) -> None:
        """Note the link's state; the first word of it, good or bad, ends the start."""
        self.readiness.tell_broker(state.value)
        if state is LinkState.CONNECTING:
            return
        if state is LinkState.UP:
            self._broker_lost_at = None
            self.readiness.release(Unready.BROKER_NEVER_REACHED)
            self.readiness.release(Unready.BROKER_AWAY)
            if self._contact_file is not None:
                self._contact_file.touch()
        elif self._broker_lost_at is None:
            self._broker_lost_at = time.monotonic()
        self.readiness.release(Unready.STARTING)

    # Time

    async def _keep_time(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            worst = 0.0
            for _ in range(LAG_TICKS):
                before = loop.time()
                await asyncio.sleep(LAG_INTERVAL)
                worst = max(worst, loop.time() - before - LAG_INTERVAL)
            self.metrics.set("starling_event_loop_lag_seconds", worst)
            try:
                self._tick()
            except Exception:
                log.exception("clock_failed")

    def _tick(self) -> None:
        self._heartbeat.tick()
        self.admission.update()
        lost_at = self._broker_lost_at
        if self._broker_grace and lost_at is not None and time.monotonic() - lost_at > self._broker_grace:
            self.readiness.hold(Unready.BROKER_AWAY)
        self.metrics.flush()

    def _observe_delivery(self) -> None:
        now = time.time() * 1000
        for taken in self._taken:
            self.metrics.delivery.observe(max(0.0, (now - taken) / 1000))
        self._taken.clear()

    def _report(self, metrics: Metrics) -> None:
        metrics.set("starling_channels", len(self.hub.channels))
        metrics.set("starling_worker_ready", int(self.readiness.ready))
        metrics.set("starling_worker_draining", int(self.readiness.draining))
