"""The broker of a single process, which passes messages through the same bytes as the other brokers."""

import time
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
from starling.engine.broker import BrokerUnavailable, LinkState, PublishOptions, PublishOutcome, StreamPosition
from starling.engine.history import DEFAULT_READ_TTL
from starling.engine.presence import DEFAULT_TTL
from starling.protocol.messages import Publication

_NOT_KEPT = StreamPosition(0, "")


class MemoryBackend(LinkBackend):
    """Hands messages to the process that published them."""

    def __init__(self, *, max_events: int = MAX_EVENTS) -> None:
        self.stats = LinkStats()
        self._channels: set[str] = set()
        super().__init__(EventQueue(max_events), self._channels)

    async def connect(self) -> None:
        """Come up at once."""
        self.stats.up = True
        self._queue.put(LinkEvent(LinkState.UP))

    async def disconnect(self) -> None:
        """Take nothing more."""
        self.stats.up = False
        self._channels.clear()

    def lose(self) -> None:
        """Be away, as a server would be, until `restore`."""
        self.stats.up = False
        self._queue.put(LinkEvent(LinkState.DOWN))

    def restore(self) -> None:
        """Be there again, with all subscriptions."""
        self.stats.up = True
        self.stats.reconnects += 1
        self._queue.put(LinkEvent(LinkState.UP))

    def check(self) -> None:
        """Raise BrokerUnavailable while it is away or not started."""
        if not self.stats.up:
            raise BrokerUnavailable("the broker is away, or not started")

    async def subscribe(self, group: str) -> None:
        """Receive channel `group` from now on. Raises BrokerUnavailable while it is away, and the request stands."""
        self._channels.add(group)
        self.check()

    def listen(self, channel: str) -> None:
        """As `subscribe`."""
        self._channels.add(channel)

    async def unsubscribe(self, group: str) -> None:
        """Receive channel `group` no more."""
        self._channels.discard(group)

    async def publish(self, channel: str, message: bytes) -> None:
        """As `offer`."""
        self.offer(channel, message)

    def offer(self, channel: str, message: bytes) -> None:
        """Queue for this process. Raises BrokerUnavailable when it is stopped or too far behind to take more."""
        self.check()
        if channel in self._channels and not self._queue.offer(MessageEvent(channel, message)):
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
        """Be away until `restore`: publications, history, presence and tickets raise BrokerUnavailable."""
        self._memory.lose()

    def restore(self) -> None:
        """Be there again, with all that was kept before."""
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
            return self._publish(channel, publication, options)
        except BrokerUnavailable as unavailable:
            return unavailable

    async def publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        """Keep and send, or only send; returns the position. Raises BrokerUnavailable, and then nothing is kept."""
        return self._publish(channel, publication, options)

    async def publish_all(
        self, publication: Publication, requests: Sequence[tuple[str, PublishOptions]]
    ) -> list[PublishOutcome]:
        """Publish the same in many channels, each as `publish` does."""
        outcomes: list[PublishOutcome] = []
        message, message_of = b"", PublishOptions()
        for channel, options in requests:
            try:
                if options.history_size or options.idempotency_key:
                    outcomes.append(self._publish(channel, publication, options))
                    continue
                if not message or options is not message_of:
                    message, message_of = _live_message(publication, options, int(time.time() * 1000)), options
                self._memory.offer(channel, message)
                outcomes.append(_NOT_KEPT)
            except BrokerUnavailable as unavailable:
                outcomes.append(unavailable)
        return outcomes

    def _publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        key = options.idempotency_key
        if key and (repeated := self.history.repeated(channel, key)):
            return repeated
        position = _NOT_KEPT
        now = int(time.time() * 1000)
        if options.history_size > 0:
            if (top := self.history.outdated(channel, options)) is not None:
                return top
            body = envelope.encode_body(publication, now, options.trace, delta=options.delta)
            entry = self.history.next_entry(channel, publication, now, options)
            position = StreamPosition(entry.offset, entry.epoch)
            message = envelope.encode_publication(body, epoch=entry.epoch, offset=entry.offset, previous=entry.previous)
            self._memory.offer(channel, message)
            self.history.append(channel, entry, options)
        else:
            self._memory.offer(channel, _live_message(publication, options, now))
        if key:
            self.history.remember(channel, key, position)
        return position


def _live_message(publication: Publication, options: PublishOptions, now: int) -> bytes:
    return envelope.encode_publication(envelope.encode_body(publication, now, options.trace, delta=options.delta))
