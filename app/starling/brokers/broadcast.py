"""A broker over any backend: what its link brings is queued, and one pump task turns it into BrokerEvents calls."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Coroutine, Sequence

import structlog
from broadcaster import BroadcastBackend, Event

from starling.brokers import envelope
from starling.brokers.envelope import JoinEvent, MalformedEnvelope
from starling.brokers.link import LinkStats
from starling.clocks import wall_milliseconds
from starling.engine.append_store import AppendStore
from starling.engine.broker import (
    BrokerEvents,
    BrokerUnavailable,
    LinkState,
    PublicationTooLarge,
    PublishOptions,
    PublishOutcome,
    PublishRequest,
    StreamEntry,
    StreamPosition,
)
from starling.engine.history import HistoryStore
from starling.engine.occupancy import OccupancyStore
from starling.engine.presence import PresenceStore
from starling.engine.revocation import RevocationStore
from starling.engine.small_stores import DrainRateStore, TicketStore
from starling.protocol.messages import ClientInfo, Publication
from starling.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.broker")

# Events that may wait in one process; beyond it messages are dropped, counted and reported as a gap.
MAX_EVENTS = 65_536
MAX_BYTES = 64 * 1024 * 1024
# Roughly what an event costs besides its payload.
_EVENT_OVERHEAD = 200
# A burst is delivered in slices, so that sockets and timers are served between them. Seconds.
_SLICE = 0.005
_MALFORMED_LOG_INTERVAL = 60.0


class MessageEvent(Event):
    """Bytes that came for a subscribed channel; `received_at` is on the clock of `time.monotonic`."""

    message: bytes  # type: ignore[assignment]  # broadcaster's own backends carry text, and nothing in it looks inside

    def __init__(self, channel: str, message: bytes) -> None:
        self.channel = channel
        self.message = message
        self.received_at = time.monotonic()


class LinkEvent(Event):
    """The link's state changed; it travels between the messages, so that their order shows what was missed."""

    def __init__(self, state: LinkState) -> None:
        super().__init__("", state.value)
        self.state = state


class EventQueue:
    """Events on their way to the one task that takes them, bounded in number and bytes.

    Once full it refuses messages until half of it is taken, so that one long gap comes of an overflow and not many.
    """

    def __init__(self, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._refusing = False
        self._filled = asyncio.Event()

    def offer(self, event: MessageEvent) -> bool:
        """Queue a message; False when there is no room for it."""
        size = len(event.message) + _EVENT_OVERHEAD
        share = 2 if self._refusing else 1
        if len(self._events) * share >= self._max_events or (self._bytes + size) * share > self._max_bytes:
            self._refusing = True
            return False
        self._refusing = False
        self._events.append((event, size))
        self._bytes += size
        self._filled.set()
        return True

    def put(self, event: LinkEvent) -> None:
        """Queue a change of the link, which always has room: it is rare and must not be missed."""
        self._events.append((event, 0))
        self._filled.set()

    async def take(self) -> Event:
        """The oldest event; waits for one."""
        while not self._events:
            self._filled.clear()
            await self._filled.wait()
        event, size = self._events.popleft()
        self._bytes -= size
        return event


class LinkBackend(BroadcastBackend):
    """A broadcaster backend that carries bytes, reports its link's state among the events and keeps stats."""

    stats: LinkStats

    def __init__(self, queue: EventQueue, wanted: Container[str]) -> None:
        """`wanted` holds the channels that are subscribed at the moment."""
        self._queue = queue
        self._wanted = wanted
        self._overflowed = False

    def receive(self, channel: str, message: bytes) -> None:
        """Queue a message that the link brought; one that has no room is dropped and counted."""
        if channel not in self._wanted:
            self.on_unwanted(channel, message)
        elif not self._queue.offer(MessageEvent(channel, message)):
            self._overflow(channel)
        elif self._overflowed:
            self._overflowed = False
            log.info("broker_queue_has_room", dropped=self.stats.dropped["queue_full"])

    def on_unwanted(self, channel: str, message: bytes) -> None:
        """Take a message of a channel that is not subscribed."""

    def on_overflow(self) -> None:
        """Report a gap: messages from here on are dropped until half of the queue is taken."""

    async def next_published(self) -> Event:
        """The next event, in the server's order, without those of channels unsubscribed meanwhile."""
        while True:
            event = await self._queue.take()
            if not isinstance(event, MessageEvent) or event.channel in self._wanted:
                return event

    def _overflow(self, channel: str) -> None:
        self.stats.dropped["queue_full"] += 1
        self.stats.overflowed[channel] += 1
        if not self._overflowed:
            self._overflowed = True
            log.warning("broker_queue_full", remedy="this process delivers more slowly than messages come: add workers")
            self.on_overflow()


class BroadcastBroker:
    """Live fan-out over a backend; keeps nothing. Implements starling.engine.broker.Broker."""

    history: HistoryStore | None = None
    append_streams: AppendStore | None = None
    presence: PresenceStore | None = None
    revocations: RevocationStore | None = None
    tickets: TicketStore | None = None
    occupancy: OccupancyStore | None = None
    drain_rate: DrainRateStore | None = None

    def __init__(self, backend: LinkBackend) -> None:
        self._backend = backend
        self._pump_task: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._malformed_logged_at = -_MALFORMED_LOG_INTERVAL

    @property
    def stats(self) -> LinkStats:
        """How the link does."""
        return self._backend.stats

    def report(self, metrics: Metrics) -> None:
        """Set the metrics of the link."""
        self.stats.report(metrics)

    def take_overflowed(self) -> Counter[str]:
        """Return the messages that overflow dropped since the last call, by channel."""
        return self.stats.take_overflowed()

    async def start(self, events: BrokerEvents) -> None:
        """Begin to connect and return at once; `events` gets the link's state."""
        await self._backend.connect()
        self._pump_task = asyncio.create_task(self._pump(events), name="broker-pump")

    async def stop(self) -> None:
        """Close the links; nothing is delivered afterwards."""
        if self._pump_task is not None:
            self._pump_task.cancel()
            await asyncio.wait((self._pump_task,))
        await self._backend.disconnect()

    async def subscribe(self, channel: str) -> None:
        """Return when the server has acknowledged. Raises BrokerUnavailable; the request stands."""
        await self._backend.subscribe(channel)

    def subscribe_now(self, channel: str) -> bool:
        """False: a server must acknowledge."""
        return False

    async def unsubscribe(self, channel: str) -> None:
        """End the subscription, or withdraw the request."""
        await self._backend.unsubscribe(channel)

    async def publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        """Send to all processes. Raises BrokerUnavailable, PublicationTooLarge, and ValueError for kept history."""
        self.refuse_keeping(options)
        now = wall_milliseconds()
        message = envelope.encode_publication(
            envelope.encode_body(publication, now, options.trace, delta=options.delta)
        )
        try:
            self.check_size(channel, len(message), len(publication.data))
        except PublicationTooLarge:
            # What is too large with its trace goes without, and if that is too large too, its sender gets an error.
            message = envelope.encode_publication(envelope.encode_body(publication, now))
            self.check_size(channel, len(message), len(publication.data))
        await self._backend.publish(channel, message)
        return StreamPosition(0, "")

    def begin_publish(
        self, channel: str, publication: Publication, options: PublishOptions, done: Callable[[PublishOutcome], None]
    ) -> PublishOutcome | None:
        """As `publish`; `done` gets the outcome later. Raises ValueError as `publish` does."""
        self.refuse_keeping(options)
        self._publish_in_task(channel, publication, options, done)
        return None

    def _publish_in_task(
        self, channel: str, publication: Publication, options: PublishOptions, done: Callable[[PublishOutcome], None]
    ) -> None:
        """As `publish`, in a task of this broker; `done` gets the outcome."""

        async def publish() -> None:
            try:
                outcome: PublishOutcome = await self.publish(channel, publication, options)
            except (BrokerUnavailable, PublicationTooLarge) as failure:
                outcome = failure
            done(outcome)

        self._begin_task(publish())

    def begin_publish_all(
        self, requests: Sequence[PublishRequest], done: Callable[[Sequence[PublishOutcome]], None]
    ) -> Sequence[PublishOutcome] | None:
        """Publish many, each as `publish` does; `done` gets the outcomes later. Raises ValueError as `publish` does."""
        for _, _, options in requests:
            self.refuse_keeping(options)
        self._publish_all_in_task(requests, done)
        return None

    async def publish_all(self, requests: Sequence[PublishRequest]) -> list[PublishOutcome]:
        """Publish many, each as `publish` does. Raises ValueError as it does."""
        published: asyncio.Future[list[PublishOutcome]] = asyncio.get_running_loop().create_future()

        def done(outcomes: Sequence[PublishOutcome]) -> None:
            if not published.done():
                published.set_result([*outcomes])

        outcomes = self.begin_publish_all(requests, done)
        return await published if outcomes is None else [*outcomes]

    def _publish_all_in_task(
        self, requests: Sequence[PublishRequest], done: Callable[[Sequence[PublishOutcome]], None]
    ) -> None:
        async def publish_all() -> None:
            done(await self._publish_each(requests))

        self._begin_task(publish_all())

    async def _publish_each(self, requests: Sequence[PublishRequest]) -> list[PublishOutcome]:
        outcomes = await asyncio.gather(*(self.publish(*request) for request in requests), return_exceptions=True)
        results: list[PublishOutcome] = []
        for outcome in outcomes:
            if not isinstance(outcome, StreamPosition | BrokerUnavailable | PublicationTooLarge):
                raise outcome
            results.append(outcome)
        return results

    def _begin_task(self, work: Coroutine[object, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def publish_join(self, channel: str, info: ClientInfo) -> None:
        """Publish to the channel that a client entered. Raises as `publish` does."""
        await self._publish_info(channel, envelope.encode_join(info))

    async def publish_leave(self, channel: str, info: ClientInfo) -> None:
        """Publish to the channel that a client left. Raises as `publish` does."""
        await self._publish_info(channel, envelope.encode_leave(info))

    def refuse_keeping(self, options: PublishOptions) -> None:
        """Raise ValueError, in words, for options that need a store."""
        if options.history_size > 0:
            raise ValueError("this broker keeps no history: publish with history_size 0")
        if options.idempotency_key:
            raise ValueError("this broker cannot recognise a repeated publish: leave the idempotency_key out")

    def check_size(self, channel: str, size: int, data_size: int) -> None:
        """Raise PublicationTooLarge where the server limits a message of `size` bytes, `data_size` of them data."""

    async def _publish_info(self, channel: str, message: bytes) -> None:
        self.check_size(channel, len(message), len(message))
        await self._backend.publish(channel, message)

    async def _pump(self, events: BrokerEvents) -> None:
        slice_end = 0.0
        while True:
            event = await self._backend.next_published()
            try:
                self._deliver(events, event)
            except Exception:
                log.exception("broker_event_failed", channel=event.channel)
            if time.monotonic() > slice_end:
                await asyncio.sleep(0)
                slice_end = time.monotonic() + _SLICE

    def _deliver(self, events: BrokerEvents, event: Event) -> None:
        if isinstance(event, MessageEvent):
            try:
                message = envelope.decode(event.message)
            except MalformedEnvelope as error:
                self._drop_malformed(event.channel, error)
                return
            if isinstance(message, StreamEntry):
                events.on_publication(event.channel, message, event.received_at)
            elif isinstance(message, JoinEvent):
                events.on_join(event.channel, message.info)
            else:
                events.on_leave(event.channel, message.info)
        elif isinstance(event, LinkEvent):
            events.on_link(event.state)

    def _drop_malformed(self, channel: str, error: MalformedEnvelope) -> None:
        self.stats.dropped["malformed"] += 1
        now = time.monotonic()
        if now - self._malformed_logged_at >= _MALFORMED_LOG_INTERVAL:
            self._malformed_logged_at = now
            log.warning(
                "broker_message_malformed",
                channel=channel,
                problem=str(error),
                dropped=self.stats.dropped["malformed"],
                remedy="something other than this service publishes under its prefix: give it another prefix",
            )
