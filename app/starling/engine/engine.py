"""The engine of one worker: every part that connections, the server API and the broker share, built in one place."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from starling.engine.admission import Admission, ClientLimits
from starling.engine.allowances import AddressBudgets, Budgets, ConnectionLimit
from starling.engine.append_store import AppendStore
from starling.engine.append_streams import COUNT_SECONDS, SWEEP_SECONDS, AppendStreams
from starling.engine.broker import Broker
from starling.engine.broker_refusals import BrokerRefusals
from starling.engine.channels import DEFAULT_NAMESPACE, Channels
from starling.engine.clock import Clock, Periodic
from starling.engine.control import Control
from starling.engine.history import HistoryReader, HistoryStore
from starling.engine.hooks import Hooks, NoHooks
from starling.engine.hub import Hub
from starling.engine.lifecycle import Lifecycle, NoLifecycle
from starling.engine.link_watch import LinkWatch
from starling.engine.memory import MemoryLimit
from starling.engine.node import Node
from starling.engine.options import EngineOptions
from starling.engine.presence import PresenceStore
from starling.engine.presence_tracker import PresenceTracker
from starling.engine.publisher import Publisher
from starling.engine.readiness import Readiness
from starling.engine.revocation import Revocations, RevocationStore
from starling.engine.stream_reader import StreamReaders
from starling.engine.subscriptions import EventRouter, Subscriptions
from starling.engine.tasks import Tasks
from starling.telemetry.garbage import GarbageStats
from starling.telemetry.metrics import Metrics
from starling.telemetry.top_channels import ChannelMeter
from starling.telemetry.tracing import NoTracer, Tracer

POSITION_CHECK_SECONDS = 25.0


class BrokerWithStores(Broker, Protocol):
    """A broker with the stores that it keeps; None for a store that it does not have."""

    @property
    def history(self) -> HistoryStore | None:
        """Where streams are read."""

    @property
    def append_streams(self) -> AppendStore | None:
        """Where append-only streams are kept."""

    @property
    def presence(self) -> PresenceStore | None:
        """Where presence is kept."""

    @property
    def revocations(self) -> RevocationStore | None:
        """Where revocations are kept."""

    def report(self, metrics: Metrics) -> None:
        """Set the metrics of the link."""

    def take_overflowed(self) -> Mapping[str, int]:
        """Return the messages that overflow dropped since the last call, by channel."""


class EngineLife:
    """Starts and stops the parts of an engine in their order. What needs the event loop begins in `start`."""

    def __init__(
        self,
        broker: BrokerWithStores,
        events: EventRouter,
        link_watch: LinkWatch,
        garbage: GarbageStats,
    ) -> None:
        self._broker = broker
        self._events = events
        self._link_watch = link_watch
        self._garbage = garbage
        self._running: list[asyncio.Task[None]] = []

    async def start(self, engine: "Engine") -> None:
        """Start `engine`; see `Engine.start`."""
        engine.node.begin()
        engine.tracer.start(engine.node.id)
        engine.metrics.name_namespaces((DEFAULT_NAMESPACE, *engine.channels.namespaces))
        self._garbage.start()
        self._link_watch.begin()
        await self._broker.start(self._events)
        engine.lifecycle.start(engine.node.id)
        engine.metrics.flush()
        engine.clock.start()
        loop = asyncio.get_running_loop()
        works = (engine.control.run(engine.node.id), engine.revocations.run())
        self._running = [loop.create_task(work) for work in works]

    async def stop(self, engine: "Engine") -> None:
        """Stop `engine`; see `Engine.stop`."""
        await engine.control.stop()
        engine.clock.stop()
        self._link_watch.stop()
        await engine.tasks.stop()
        for task in self._running:
            task.cancel()
        await engine.presence.close()
        await engine.lifecycle.stop()
        engine.subscriptions.close()
        await self._broker.stop()
        await engine.tracer.stop()
        self._garbage.stop()
        engine.metrics.flush()


@dataclass(frozen=True, slots=True)
class Engine:
    """One worker's engine, built before the event loop runs; nothing in it is replaced afterwards."""

    options: EngineOptions
    node: Node
    channels: Channels
    hooks: Hooks
    lifecycle: Lifecycle
    hub: Hub
    publisher: Publisher
    refusals: BrokerRefusals
    subscriptions: Subscriptions
    history: HistoryReader
    append_streams: AppendStreams
    stream_readers: StreamReaders
    presence: PresenceTracker
    control: Control
    revocations: Revocations
    admission: Admission
    readiness: Readiness
    clock: Clock
    tasks: Tasks
    metrics: Metrics
    tracer: Tracer
    _life: EngineLife

    async def start(self) -> None:
        """Begin to connect to the broker and to keep time; returns at once, and `readiness` has the rest."""
        await self._life.start(self)

    async def stop(self) -> None:
        """Finish what connections have begun, stop the broker and flush the metrics a last time."""
        await self._life.stop(self)


def build_engine(
    broker: BrokerWithStores,
    channels: Channels,
    metrics: Metrics,
    options: EngineOptions | None = None,
    *,
    hooks: Hooks | None = None,
    lifecycle: Lifecycle | None = None,
    tracer: Tracer | None = None,
    retire: Callable[[], None] = lambda: None,
) -> Engine:
    """Build a worker's engine; nothing needs a running event loop before `Engine.start`.

    `hooks`, `lifecycle` and `tracer` are off where they are None. `retire` ends this worker as SIGTERM does; it is
    called when the broker link stays unresponsive.
    """
    options = options or EngineOptions()
    tracer = tracer or NoTracer()
    readiness, tasks, hub = Readiness(), Tasks(), Hub(tracer, metrics.delivery)
    node = Node(hub, metrics)
    control = Control(broker, start_task=tasks.start, describe=node.describe)
    subscriptions = Subscriptions(broker, broker.history, hub, recovery_limit=options.recovery_limit)
    append_streams = AppendStreams(broker.append_streams, channels, tasks.start)
    presence = PresenceTracker(
        broker.presence, broker, start_task=tasks.start, leave_delay=options.presence_leave_delay_seconds
    )
    revocations = Revocations(broker.revocations, control, hub, start_task=tasks.start)
    clients = ClientLimits(
        first_uses=Budgets(options.first_use_rate, options.new_channel_burst),
        connections=ConnectionLimit(options.worker_connections_per_user, options.worker_connections_per_address),
        failed_connects=AddressBudgets(options.failed_connects_per_minute / 60, options.failed_connects_per_minute),
    )
    admission = Admission(hub, readiness, options, MemoryLimit().share, clients)
    link_watch = LinkWatch(
        readiness,
        subscriptions,
        revocations,
        presence,
        tasks,
        grace=options.ready_requires_broker_seconds,
        contact_file=options.contact_file,
        retire=retire,
    )
    clock = Clock(
        tasks,
        each_second=(
            lambda turn: hub.traffic.turn(turn.seconds),
            lambda turn: admission.observe(turn.lag),
            link_watch.each_second,
            lambda _: metrics.flush(),
        ),
        periodic=(
            Periodic(POSITION_CHECK_SECONDS, link_watch.check_positions),
            Periodic(SWEEP_SECONDS, append_streams.sweep),
            Periodic(COUNT_SECONDS, append_streams.count_open),
            *([Periodic(broker.presence.ttl / 3, presence.refresh)] if broker.presence is not None else []),
        ),
    )
    events = EventRouter(
        subscriptions, hub, listeners=control.listeners, on_link=link_watch.on_link, arrival=clock.arrival
    )
    garbage, refusals = GarbageStats(), BrokerRefusals()
    namespaces = (DEFAULT_NAMESPACE, *channels.namespaces)
    metrics.sources += [
        broker.report,
        lambda _: _count_overflow(broker, hub.traffic),
        hub.report,
        readiness.report,
        admission.report,
        presence.report,
        partial(subscriptions.report, namespaces),
        partial(append_streams.report, namespaces),
        revocations.report,
        clock.report,
        garbage.report,
        partial(_report_spans, tracer),
    ]
    return Engine(
        options=options,
        node=node,
        channels=channels,
        hooks=hooks or NoHooks(),
        lifecycle=lifecycle or NoLifecycle(),
        hub=hub,
        publisher=Publisher(broker, metrics, tracer, refusals),
        refusals=refusals,
        subscriptions=subscriptions,
        history=HistoryReader(broker.history),
        append_streams=append_streams,
        stream_readers=StreamReaders(subscriptions),
        presence=presence,
        control=control,
        revocations=revocations,
        admission=admission,
        readiness=readiness,
        clock=clock,
        tasks=tasks,
        metrics=metrics,
        tracer=tracer,
        _life=EngineLife(broker, events, link_watch, garbage),
    )


def _count_overflow(broker: BrokerWithStores, traffic: ChannelMeter) -> None:
    for channel, messages in broker.take_overflowed().items():
        traffic.count_dropped(channel, messages)


def _report_spans(tracer: Tracer, metrics: Metrics) -> None:
    for result, total in tracer.spans.items():
        metrics.count("starling_trace_spans_total", total, result)
