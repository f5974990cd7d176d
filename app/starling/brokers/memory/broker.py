"""The broker of a single process, which passes messages through the same bytes as the other brokers."""

from collections.abc import Callable, Sequence

from starling.brokers import envelope
from starling.brokers.broadcast import MAX_EVENTS, BroadcastBroker, EventQueue, LinkBackend, LinkEvent, MessageEvent
from starling.brokers.link import LinkStats
from starling.brokers.memory.append_streams import MemoryAppendStreams
from starling.brokers.memory.drain_rate import MemoryDrainRate
from starling.brokers.memory.history import MemoryHistory
from starling.brokers.memory.occupancy import MemoryOccupancy
from starling.brokers.memory.presence import MemoryPresence
from starling.brokers.memory.revocations import MemoryRevocations
from starling.brokers.memory.tickets import MemoryTickets
from starling.clocks import wall_milliseconds
from starling.engine.broker import (
    BrokerUnavailable,
    LinkState,
    PublishOptions,
    PublishOutcome,
    PublishRequest,
    StreamEntry,
    StreamPosition,
)
from starling.engine.history import DEFAULT_READ_TTL
from starling.engine.presence import DEFAULT_TTL
from starling.protocol.messages import Publication

_NOT_KEPT = StreamPosition(0, "")


class MemoryBackend(LinkBackend):
    """Hands messages to the process that published them."""

    def __init__(self, *, max_events: int = MAX_EVENTS) -> None:
        self.stats = LinkStats()
        self.channels: set[str] = set()
        """Those that this process is subscribed to."""
        super().__init__(EventQueue(max_events), self.channels)

    async def connect(self) -> None:
        """Come up at once."""
        self.stats.up = True
        self._queue.put(LinkEvent(LinkState.UP))

    async def disconnect(self) -> None:
        """Take nothing more."""
        self.stats.up = False
        self.channels.clear()

    def lose(self) -> None:
        """Be unreachable, as a server would be, until `restore`."""
        self.stats.up = False
        self._queue.put(LinkEvent(LinkState.DOWN))

    def restore(self) -> None:
        """Be reachable again, with all subscriptions."""
        self.stats.up = True
        self.stats.reconnects += 1
        self._queue.put(LinkEvent(LinkState.UP))

    def check(self) -> None:
        """Raise BrokerUnavailable while it is unreachable or not started."""
        if not self.stats.up:
            raise BrokerUnavailable("the broker is away, or not started")

    async def subscribe(self, group: str) -> None:
        """Receive channel `group` from now on. Raises BrokerUnavailable while it is unreachable; the request stands."""
        self.channels.add(group)
        self.check()

    def listen(self, channel: str) -> None:
        """As `subscribe`."""
        self.channels.add(channel)

    async def unsubscribe(self, group: str) -> None:
        """Receive channel `group` no more."""
        self.channels.discard(group)

    async def publish(self, channel: str, message: bytes) -> None:
        """As `offer`."""
        self.offer(channel, message)

    def offer(self, channel: str, message: bytes) -> None:
        """Queue for this process. Raises BrokerUnavailable when it is stopped or too far behind to take more."""
        self.check()
        if channel in self.channels and not self._queue.offer(MessageEvent(channel, message)):
            raise BrokerUnavailable("this process is behind with delivery and takes nothing more for the moment")


class MemoryBroker(BroadcastBroker):
    """Implements starling.engine.broker.Broker within one process, and keeps all there is as long as it lives."""

    def __init__(self, *, presence_ttl: float = DEFAULT_TTL, read_ttl: float = DEFAULT_READ_TTL) -> None:
        self._memory = MemoryBackend()
        super().__init__(self._memory)
        self.history: MemoryHistory = MemoryHistory(read_ttl=read_ttl, check=self._check)
        self.append_streams: MemoryAppendStreams = MemoryAppendStreams(self.history, self._memory.offer)
        self.presence: MemoryPresence = MemoryPresence(presence_ttl, check=self._check)
        self.revocations: MemoryRevocations = MemoryRevocations()
        self.tickets: MemoryTickets = MemoryTickets(check=self._check)
        self.occupancy: MemoryOccupancy = MemoryOccupancy(presence_ttl)
        self.drain_rate: MemoryDrainRate = MemoryDrainRate()

    def lose(self) -> None:
        """Be unreachable until `restore`: publications, history, presence and tickets raise BrokerUnavailable."""
        self._memory.lose()

    def restore(self) -> None:
        """Be reachable again, with all that was kept before."""
        self._memory.restore()

    def _check(self) -> None:
        self._memory.check()

    def subscribe_now(self, channel: str) -> bool:
        """As `subscribe`: nothing is waited for."""
        self._memory.listen(channel)
        return True

    def begin_publish(
        self, channel: str, publication: Publication, options: PublishOptions, done: Callable[[PublishOutcome], None]
    ) -> PublishOutcome | None:
        """As `publish`, and it is done when this returns."""
        try:
            return self._publish(channel, _Encoded(publication, options, wall_milliseconds()))
        except BrokerUnavailable as unavailable:
            return unavailable

    async def publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        """Keep and send, or only send; returns the position. Raises BrokerUnavailable, and then nothing is kept."""
        return self._publish(channel, _Encoded(publication, options, wall_milliseconds()))

    def begin_publish_all(
        self, requests: Sequence[PublishRequest], done: Callable[[Sequence[PublishOutcome]], None]
    ) -> Sequence[PublishOutcome] | None:
        """Publish many, and all is done when this returns."""
        try:
            self._memory.check()
        except BrokerUnavailable as unavailable:
            return [unavailable] * len(requests)
        append, subscribed, now = self.history.append_without_subscribers, self._memory.channels, self.history.sweep()
        encoded = _Encoded(Publication(), PublishOptions(), wall_milliseconds())
        outcomes: list[PublishOutcome] = []
        for channel, publication, options in requests:
            if publication is not encoded.publication or options is not encoded.options:
                encoded = _Encoded(publication, options, encoded.time)
            if encoded.guarded or channel in subscribed:
                outcomes.append(self._publish_encoded(channel, encoded))
            elif encoded.kept:
                outcomes.append(append(channel, encoded.stamped, options, now))
            else:
                outcomes.append(_NOT_KEPT)
        return outcomes

    def _publish_encoded(self, channel: str, encoded: "_Encoded") -> PublishOutcome:
        try:
            return self._publish(channel, encoded)
        except BrokerUnavailable as unavailable:
            return unavailable

    def _publish(self, channel: str, encoded: "_Encoded") -> StreamPosition:
        self._memory.check()
        history, options, key = self.history, encoded.options, encoded.options.idempotency_key
        now = history.sweep()
        if key and (repeated := history.repeated(channel, key)):
            return repeated
        position = _NOT_KEPT
        if encoded.kept:
            if (top := history.outdated(channel, options)) is not None:
                return top

            def send(entry: StreamEntry) -> None:
                self._memory.offer(channel, encoded.message(entry))

            entry = history.append_next(channel, encoded.stamped, options, now, send)
            position = StreamPosition(entry.offset, entry.epoch)
        else:
            self._memory.offer(channel, encoded.live_message())
        if key:
            history.remember(channel, key, position)
        return position


class _Encoded:
    """A publication and its options, with what all channels that it goes to have in common."""

    __slots__ = ("_body", "guarded", "kept", "options", "publication", "stamped", "time")

    def __init__(self, publication: Publication, options: PublishOptions, time: int) -> None:
        """`time` is now, in milliseconds since 1970."""
        self.publication = publication
        self.options = options
        self.time = time
        self.kept = options.history_size > 0
        self.guarded = bool(options.idempotency_key or options.version)
        self.stamped = Publication(publication.data, publication.info, 0, publication.tags, time)
        self._body = b""

    def live_message(self) -> bytes:
        """What subscribers get where it is not kept."""
        return envelope.encode_publication(self._encoded_body())

    def message(self, entry: StreamEntry) -> bytes:
        """What subscribers get where it is kept as `entry`."""
        return envelope.encode_publication(
            self._encoded_body(), epoch=entry.epoch, offset=entry.offset, previous=entry.previous
        )

    def _encoded_body(self) -> bytes:
        if not self._body:
            options = self.options
            self._body = envelope.encode_body(self.publication, self.time, options.trace, delta=options.delta)
        return self._body
