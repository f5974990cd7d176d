"""The heart of a worker: joins its connections, its channels and its link to the other processes."""

import asyncio
import os
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from starling import __version__
from starling.engine.admission import Admission, AdmissionLimits
from starling.engine.broker import (
    Broker,
    BrokerRefused,
    BrokerUnavailable,
    LinkState,
    PublicationTooLarge,
    PublishOptions,
    PublishOutcome,
    StreamEntry,
    StreamPosition,
)
from starling.engine.broker_refusals import BrokerRefusals
from starling.engine.channels import DEFAULT_NAMESPACE, ChannelOptions, Channels, namespace_of
from starling.engine.connection import Connection
from starling.engine.control import CHANNEL as CONTROL_CHANNEL
from starling.engine.control import Control, NodeInfo
from starling.engine.drain_rate import DrainRateStore
from starling.engine.history import History, continues
from starling.engine.hooks import Hooks
from starling.engine.hub import Hub
from starling.engine.lifecycle import Lifecycle, NoLifecycle
from starling.engine.memory import MemoryLimit
from starling.engine.presence import Presence
from starling.engine.presence_tracker import PresenceTracker
from starling.engine.readiness import Readiness, Unready
from starling.engine.revocation import Revocations, RevocationStore
from starling.engine.subscriptions import Subscriptions
from starling.engine.timer_wheel import Wheel
from starling.engine.top_channels import TopChannels
from starling.protocol.codes import ERROR_NOT_AVAILABLE, ERROR_UNRECOVERABLE_POSITION, CommandRefused
from starling.protocol.messages import ClientInfo, HistoryRequest, HistoryResult, Join, Leave, Publication, Push
from starling.telemetry.garbage import GarbageStats
from starling.telemetry.metrics import Metrics, open_files_limit
from starling.telemetry.tracing import NoTracer, Tracer

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.node")

# The rate of a client's messages is looked at after each such part of its burst.
MESSAGE_STEPS = 100
LAG_INTERVAL = 0.1
TURN_SECONDS = 1.0
POSITION_CHECK_SECONDS = 25.0
# A worker that no new link makes hear again ends within so many seconds, so that those of a pod do not end as one.
RETIRE_SECONDS = 10.0
# What the broker has still on its way gets this long before it counts as missed.
IN_FLIGHT_SECONDS = 1.0
# Between tries to read what was missed, once the link is back.
CATCH_UP_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a node behaves. Times in seconds.

    Beyond the limits of `admission` new clients are turned away. A client of the tutorial's doors may send
    `messages_per_second` (0: any number) and `message_burst` at once; sessions of the real-time protocol have limits of
    their own. A broker away for over `broker_grace` unreadies this worker (0: never). The first contact of all workers
    with the broker makes `contact_file`; without it a worker is not ready before its own. At most `recovery_limit`
    publications are recovered or read from history at once. A user may have `connections_per_user` on the real-time
    door (0: any number). Who leaves is told after `presence_leave_delay`, unless the user is back by then.
    """

    ping_interval: int = 25
    pong_timeout: int = 8
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    messages_per_second: float = 0.0
    message_burst: int = 1
    broker_grace: float = 0.0
    contact_file: Path | None = None
    recovery_limit: int = 300
    connections_per_user: int = 0
    presence_leave_delay: float = 0.0


class Node:
    """One worker's engine. Made before the event loop runs; everything that needs the loop begins in `start`."""

    def __init__(
        self,
        broker: Broker,
        history: History | None,
        presence: Presence | None,
        channels: Channels,
        hooks: Hooks,
        metrics: Metrics,
        readiness: Readiness,
        options: NodeOptions,
        revocation_store: RevocationStore | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`history`, `presence`, `revocation_store` are None where the broker keeps none, `tracer` where it is off."""
        self.id = ""
        self.broker = broker
        self.history = history
        self.presence = presence
        self.channels = channels
        self.hooks = hooks
        self.metrics = metrics
        self.readiness = readiness
        self.options = options
        self.retire: Callable[[], None] = lambda: None
        """Ends this worker as SIGTERM does; what makes the process sets it."""
        self.lifecycle: Lifecycle = NoLifecycle()
        """Is told of clients; what makes the process sets another before the start."""
        self.drain_rate_store: DrainRateStore | None = None
        """Where workers that drain take turns; what makes the process sets it."""
        self.names = random.Random()  # noqa: S311 - hides nothing
        self.ping_interval = options.ping_interval
        self.pong_timeout = options.pong_timeout
        self.messages_per_second = options.messages_per_second
        self.message_burst = options.message_burst
        self.message_step = max(1, options.message_burst // MESSAGE_STEPS)
        self.tracer = tracer or NoTracer()
        self.hub = Hub(self.tracer)
        self.subscriptions = Subscriptions(broker, history, self.hub, recovery_limit=options.recovery_limit)
        self.admission = Admission(self.hub, readiness, options.admission, MemoryLimit().share)
        self.presence_tracker = PresenceTracker(
            presence, broker, start_task=self.start_task, leave_delay=options.presence_leave_delay
        )
        self.control = Control(broker, start_task=self.start_task, describe=self.describe)
        self.top_channels = TopChannels(self.hub, self.control)
        self.listeners = {CONTROL_CHANNEL: self.control.on_publication}
        """Who takes what is published in channels that are no client's."""
        self.revocations = Revocations(revocation_store, self.control, self.hub, start_task=self.start_task)
        self.lag_seconds = 0.0
        """The event loop's worst delay of the last second."""
        self._wheel = Wheel(time.monotonic)
        self._garbage = GarbageStats()
        self._started_at = 0.0
        self._broker_lost_at: float | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clocks: list[asyncio.Task[None]] = []
        self._taken: list[int] = []
        self._refusals = BrokerRefusals()

    # Life

    async def start(self) -> None:
        """Begin to connect to the broker and to keep time; returns at once, and readiness tells the rest."""
        # Made here and not before the fork, where all workers would share them.
        self.id = secrets.token_hex(8)
        self.names = random.Random()  # noqa: S311 - hides nothing
        self._started_at = time.monotonic()
        self.tracer.start(self.id)
        self.metrics.sources += [self._report, self._garbage.report]
        self.metrics.name_namespaces((DEFAULT_NAMESPACE, *self.channels.namespaces))
        self._garbage.start()
        contact_file = self.options.contact_file
        if contact_file is None or not contact_file.exists():
            self.readiness.hold(Unready.BROKER_NEVER_REACHED)
        await self.broker.start(self)
        self.lifecycle.start(self.id)
        self.metrics.flush()
        loop = asyncio.get_running_loop()
        works = (
            self._keep_time(),
            self._keep(POSITION_CHECK_SECONDS, self._check_positions),
            self.control.run(self.id),
            self.revocations.run(),
        )
        self._clocks = [loop.create_task(work) for work in works]
        if self.presence is not None:
            self._clocks.append(loop.create_task(self._keep(self.presence.ttl / 3, self.presence_tracker.refresh)))

    async def stop(self) -> None:
        """Finish what connections had begun, let the broker go and carry the last figures over."""
        await self.control.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        for task in (*self._clocks, *self._tasks):
            task.cancel()
        await self.presence_tracker.close()
        await self.lifecycle.stop()
        self.subscriptions.close()
        await self.broker.stop()
        await self.tracer.stop()
        self._garbage.stop()
        self.metrics.flush()

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in a task that ends with this node at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def describe(self) -> NodeInfo:
        """What this node tells the others of itself."""
        return NodeInfo(
            uid=self.id,
            name=f"{socket.gethostname()}_{os.getpid()}",
            version=__version__,
            num_clients=len(self.hub.connections),
            num_users=len(self.hub.users),
            num_subs=self.metrics.subscriptions.total(),
            num_channels=len(self.hub.subscribers.channels),
            uptime=int(self.uptime),
        )

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_at

    # Connections

    def opened(self, connection: Connection) -> None:
        """Keep a connection."""
        connection.stats.opened += 1
        connection.stats.now += 1
        self.hub.connections.add(connection)
        self.schedule(connection, connection.first_tick(time.monotonic()))

    def closed(self, connection: Connection, code: int) -> None:
        """Let a connection go."""
        connection.stats.now -= 1
        connection.stats.close(code)
        self.hub.forget(connection)
        self._wheel.remove(connection)

    def settle(self, connection: Connection) -> None:
        """Write at once what was broadcast to a connection."""
        self.hub.settle(connection)

    def schedule(self, connection: Connection, deadline: float) -> None:
        """Call `connection.tick` at `deadline`, on the clock of `time.monotonic`, or up to a second later."""
        self._wheel.schedule(connection, deadline)

    # Publishing and reading

    def publish(
        self, channel: str, publication: Publication, options: PublishOptions
    ) -> Coroutine[Any, Any, StreamPosition]:
        """Publish to all processes, this one included. Raises BrokerUnavailable and PublicationTooLarge."""
        publish = self._publish_traced if self.tracer.on else self._publish
        return publish(channel, publication, options)

    async def _publish_traced(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        size = len(publication.data)
        with self.tracer.publish(channel, namespace_of(channel), size=size, channels=1) as publishing:
            return await self._publish(channel, publication, replace(options, trace=publishing.trace))

    async def _publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        try:
            position = await self.broker.publish(channel, publication, options)
        except (BrokerUnavailable, PublicationTooLarge) as failure:
            self._count_published(channel, failure)
            raise
        self._count_published(channel, position)
        return position

    def begin_publish(
        self, channel: str, publication: Publication, options: PublishOptions, done: Callable[[PublishOutcome], None]
    ) -> PublishOutcome | None:
        """Publish without waiting: return what became of it, or None, and then `done` is told later."""

        def told(outcome: PublishOutcome) -> None:
            self._count_published(channel, outcome)
            done(outcome)

        outcome = self.broker.begin_publish(channel, publication, options, told)
        if outcome is not None:
            self._count_published(channel, outcome)
        return outcome

    async def publish_all(
        self, publication: Publication, wishes: Sequence[tuple[str, PublishOptions]]
    ) -> list[PublishOutcome]:
        """Publish the same in many channels; returns what became of each, in their order."""
        if not self.tracer.on:
            return await self._publish_all(publication, wishes)
        with self.tracer.publish("", "", size=len(publication.data), channels=len(wishes)) as publishing:
            if publishing.trace is not None:
                wishes = [(channel, replace(options, trace=publishing.trace)) for channel, options in wishes]
            outcomes = await self._publish_all(publication, wishes)
            if failed := [outcome for outcome in outcomes if not isinstance(outcome, StreamPosition)]:
                publishing.fail(type(failed[0]).__name__, len(failed))
            return outcomes

    async def _publish_all(
        self, publication: Publication, wishes: Sequence[tuple[str, PublishOptions]]
    ) -> list[PublishOutcome]:
        outcomes = await self.broker.publish_all(publication, wishes)
        for (channel, _), outcome in zip(wishes, outcomes, strict=True):
            self._count_published(channel, outcome)
        return outcomes

    def _count_published(self, channel: str, outcome: PublishOutcome) -> None:
        failed = "failed" if isinstance(outcome, BrokerUnavailable) else "too_large"
        if isinstance(outcome, BrokerRefused):
            self._refusals.report(channel, outcome)
        result = "stored" if isinstance(outcome, StreamPosition) else failed
        self.metrics.published[namespace_of(channel), result] += 1

    async def read_history(
        self, channel: str, options: ChannelOptions, request: HistoryRequest, most: int | None
    ) -> HistoryResult:
        """Read a part of a channel's stream, at most `most` publications (None: no bound).

        Raises CommandRefused: 108 where there is no history, 112 when what follows `since` is not whole any more.
        """
        if self.history is None or not options.keeps_history:
            raise CommandRefused(ERROR_NOT_AVAILABLE)
        limit = most if request.limit < 0 else request.limit if most is None else min(request.limit, most)
        since = request.since
        after = since.offset if since is not None and not request.reverse else 0
        before = since.offset if since is not None and request.reverse and since.offset else None
        read = await self.history.read(
            channel,
            meta_ttl=options.history_meta_ttl,
            after=after,
            before=before,
            limit=limit,
            newest=request.reverse,
        )
        if since is not None and since.epoch and since.epoch != read.top.epoch:
            raise CommandRefused(ERROR_UNRECOVERABLE_POSITION)
        if since is not None and not request.reverse and limit != 0 and not continues(read, after):
            raise CommandRefused(ERROR_UNRECOVERABLE_POSITION)
        publications = [entry.publication for entry in read.entries]
        if request.reverse:
            publications.reverse()
        return HistoryResult(publications, read.top.epoch, read.top.offset)

    # What the broker tells

    def on_publication(self, channel: str, entry: StreamEntry) -> None:
        """Deliver a publication to this process's subscribers."""
        if (listener := self.listeners.get(channel)) is not None:
            listener(entry.publication)
            return
        self.subscriptions.on(channel, entry)
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._observe_delivery)
        self._taken.append(entry.publication.time)

    def on_join(self, channel: str, info: ClientInfo) -> None:
        """Tell who watches the channel that a client entered."""
        self.hub.tell_watchers(Push(channel, join=Join(info)))

    def on_leave(self, channel: str, info: ClientInfo) -> None:
        """Tell who watches the channel that a client left."""
        self.hub.tell_watchers(Push(channel, leave=Leave(info)))

    def on_link(self, state: LinkState) -> None:
        """Note the link's state; the first word of it, good or bad, ends the start."""
        self.readiness.tell_broker(state.value)
        if state is LinkState.CONNECTING:
            return
        if state is LinkState.UP:
            self.revocations.catch_up()
            if self._broker_lost_at is not None:
                self.start_task(self._catch_up())
                self.start_task(self.presence_tracker.refresh())
            self._broker_lost_at = None
            self.readiness.release(Unready.BROKER_NEVER_REACHED)
            self.readiness.release(Unready.BROKER_UNAVAILABLE)
            if self.options.contact_file is not None:
                self.options.contact_file.touch()
        elif self._broker_lost_at is None:
            self._broker_lost_at = time.monotonic()
        if state is LinkState.DEAF and self._retiring is None:
            self._retiring = asyncio.get_running_loop().create_task(self._retire())
            self._clocks.append(self._retiring)
        self.readiness.release(Unready.STARTING)

    async def _retire(self) -> None:
        """End this worker, unless it hears again by the time that is its turn."""
        seconds = random.uniform(0, RETIRE_SECONDS)  # noqa: S311 - spreads the ends of a pod's workers
        log.error("worker_unresponsive", retires_in_seconds=round(seconds, 3))
        await asyncio.sleep(seconds)
        if self._broker_lost_at is None:
            log.info("worker_responsive_again")
        else:
            log.error("worker_retires", reason="it cannot hear the broker, which serves its other connections")
            self.retire()
        self._retiring = None

    # Time

    async def _keep_time(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            worst, began = 0.0, loop.time()
            while (before := loop.time()) < began + TURN_SECONDS - LAG_INTERVAL / 2:
                await asyncio.sleep(LAG_INTERVAL)
                worst = max(worst, loop.time() - before - LAG_INTERVAL)
            self.lag_seconds = worst
            self.metrics.set("starling_event_loop_lag_seconds", worst)
            try:
                self.hub.traffic.turn(loop.time() - began)
                self._turn(worst)
            except Exception:
                log.exception("clock_failed")

    def _turn(self, lag: float) -> None:
        self._wheel.turn()
        self.admission.observe(lag)
        grace, lost_at = self.options.broker_grace, self._broker_lost_at
        if grace and lost_at is not None and time.monotonic() - lost_at > grace:
            self.readiness.hold(Unready.BROKER_UNAVAILABLE)
        self.metrics.flush()

    async def _keep(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` about every so many seconds, whatever becomes of it once."""
        while True:
            await asyncio.sleep(seconds * random.uniform(0.8, 1.0))  # noqa: S311 - spreads load
            try:
                await work()
            except Exception:
                log.exception("periodic_work_failed", work=work.__name__)

    async def _check_positions(self) -> None:
        try:
            await self.subscriptions.check(in_flight=IN_FLIGHT_SECONDS)
        except BrokerUnavailable:
            log.info("positions_not_checked", reason="the broker does not answer")

    async def _catch_up(self) -> None:
        """Read what the link missed while it was lost: soon, even if the broker is not quite itself yet."""
        for pause in CATCH_UP_PAUSES:
            try:
                await self.subscriptions.check(in_flight=0)
            except BrokerUnavailable:
                await asyncio.sleep(pause)
            else:
                return
        log.warning("positions_not_checked", reason="the broker does not answer since its link is back")

    def _observe_delivery(self) -> None:
        now = time.time() * 1000
        for taken in self._taken:
            self.metrics.delivery.observe(max(0.0, (now - taken) / 1000))
        self._taken.clear()

    def _report(self, metrics: Metrics) -> None:
        metrics.set("starling_channels", len(self.hub.subscribers.channels))
        metrics.set("starling_worker_ready", int(self.readiness.ready))
        metrics.set("starling_worker_draining", int(self.readiness.draining))
        metrics.set("starling_memory_used_ratio", self.admission.memory_share)
        metrics.set("starling_presence_clients", self.presence_tracker.clients)
        metrics.set("starling_connections_capacity", self.options.admission.connections or open_files_limit())
        self._report_streams(metrics)
        for result, total in self.tracer.spans.items():
            metrics.count("starling_trace_spans_total", total, result)
        metrics.set("starling_revocations_in_force", len(self.revocations))
        revoked = self.revocations.stats
        for kind, total in revoked.ordered.items():
            metrics.count("starling_revocations_total", total, kind)
        metrics.count("starling_revoked_connections_total", revoked.ended)
        for delay in revoked.take_delays():
            metrics.observe("starling_revocation_seconds", delay)

    def _report_streams(self, metrics: Metrics) -> None:
        metrics.set("starling_stream_recent_bytes", self.subscriptions.recent_bytes)
        stats = self.subscriptions.stats
        for namespace in (DEFAULT_NAMESPACE, *self.channels.namespaces):
            streams = stats[namespace]
            metrics.count("starling_stream_heals_total", streams.heals, namespace)
            metrics.count("starling_stream_healed_total", streams.healed, namespace)
            metrics.count("starling_stream_resets_total", streams.resets, namespace)
            metrics.count("starling_recoveries_total", streams.recovered, namespace, "recovered")
            metrics.count("starling_recoveries_total", streams.unrecovered, namespace, "refused")
            for delay in streams.take_healed_delays():
                metrics.delivery.observe(delay)
        metrics.count("starling_stream_join_reads_total", sum(each.join_reads for each in stats.values()))
        metrics.count("starling_recoveries_from_memory_total", sum(each.from_memory for each in stats.values()))
