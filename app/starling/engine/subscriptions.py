"""Connections that enter and leave channels of this process, and what the broker delivers to these channels."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace

from starling.engine.broker import Broker, BrokerUnavailable, LinkState, StreamEntry, StreamPosition
from starling.engine.channel_lock import ChannelLock
from starling.engine.channels import ChannelOptions, namespace_of
from starling.engine.followed_append_stream import FollowedAppendStream
from starling.engine.follower import Joined, MemoryBudget
from starling.engine.history import HistoryStore
from starling.engine.hub import Hub
from starling.engine.receiver import Receiver
from starling.engine.stream import Stream, check_positions
from starling.engine.stream_contract import StreamOptions, StreamStats
from starling.engine.unreadable_messages import UnreadableMessages
from starling.engine.view import Base, View
from starling.protocol.codes import CommandRefused
from starling.protocol.messages import ClientInfo, Join, Leave, Publication, Push
from starling.protocol.tags_filter import Matches
from starling.telemetry.metrics import Metrics

RECENT_BYTES = 64 * 2**20
# In place of the frames that a subscriber had got.
NOT_COUNTED = -1


class Subscriber:
    """One connection on its way into one channel, and in it until it leaves.

    `answer` is called once it stands in the channel, at the moment from which nothing will be missed; it returns False
    when the client has gone meanwhile. `view` is the form in which it gets the channel, None for the ordinary one;
    `base` the newest publication that the answer holds, for a view of patches. `answer` may set both.
    """

    __slots__ = (
        "_answer",
        "answered",
        "base",
        "channel",
        "created",
        "dropped",
        "frames",
        "receiver",
        "unreadable",
        "view",
    )

    def __init__(self, receiver: Receiver, channel: str, answer: "Answer") -> None:
        self.receiver = receiver
        self.channel = channel
        self.answered = False
        self.frames = NOT_COUNTED
        """The frames that the client had got when it was answered; NOT_COUNTED: unknown, or answers held content."""
        self.dropped = False
        """Whether it left."""
        self.created = False
        """Whether nobody had used the channel before."""
        self.view: View | None = None
        self.base: Base | None = None
        self.unreadable: UnreadableMessages | None = None
        """What counts publications that the client's format cannot carry, while it enters a channel with history."""
        self._answer = answer

    def reply(self, joined: Joined) -> bool:
        """Write the answer; False when the client has gone meanwhile, or left: a command that waited may end this."""
        self.answered = self._answer(self, joined)
        return self.answered and not self.dropped

    async def push(self, publications: Sequence[Publication]) -> bool:
        """Write publications to this subscriber alone, once it has taken those before; False when it has gone."""
        view = self.view
        encoder = self.receiver.encoder if view is None else view.encoder
        named = Push(self.channel) if view is None or not view.channel_id else Push(id=view.channel_id)
        frames = []
        for publication in publications:
            try:
                frames.append(encoder.encode_push(replace(named, pub=publication)))
            except CommandRefused:
                if self.unreadable is not None:
                    self.unreadable.note(channel=self.channel)
        return await self.receiver.catch_up(frames, self._has_left)

    def _has_left(self) -> bool:
        return self.dropped

    def unsubscribe(self) -> None:
        """The stream broke off behind this subscriber's position."""
        self.receiver.lose_state(self.channel)


# Gets the subscriber, so that it need not hold it: a cycle would outlive the client until the next collection.
Answer = Callable[[Subscriber, Joined], bool]


class Subscriptions:
    """The channels of this process. Entering and leaving one channel happens one at a time."""

    def __init__(self, broker: Broker, history: HistoryStore | None, hub: Hub, *, recovery_limit: int) -> None:
        """`history` None: this broker keeps none. `recovery_limit` publications are recovered at most."""
        self.stats: defaultdict[str, StreamStats] = defaultdict(StreamStats)
        """By namespace."""
        self._broker = broker
        self._history = history
        self._hub = hub
        self._recovery_limit = recovery_limit
        self._budget = MemoryBudget(RECENT_BYTES)
        self._streams: dict[str, Stream[Subscriber]] = {}
        self._locks: dict[str, ChannelLock] = {}

    @property
    def recent_bytes(self) -> int:
        """Memory of the publications that are kept for clients that reconnect. Bytes."""
        return self._budget.used

    @property
    def in_process(self) -> bool:
        """Whether entering a channel waits for no other process."""
        return self._history is not None and self._history.in_process

    # Entering and leaving

    async def wait_in(self, receiver: Receiver, channel: str) -> None:
        """Put a connection into a channel without history, whether the broker is there or not.

        Raises BrokerUnavailable when the broker did not acknowledge in time; the connection then waits in the channel
        and receives again when the link reconnects.
        """
        async with self._lock(channel):
            if self._hub.subscribers.add(channel, receiver):
                await self._broker.subscribe(channel)

    def epoch_of(self, channel: str) -> str:
        """The epoch of the publications that this process delivers now; empty for a channel without history here."""
        stream = self._streams.get(channel)
        return "" if stream is None else stream.position.epoch

    def recalls(self, channel: str, since: StreamPosition) -> bool:
        """Whether a client that was at `since` gets what it missed from memory, as far as is known here."""
        stream = self._streams.get(channel)
        return stream is not None and stream.recalls(since)

    def is_live(self, channel: str) -> bool:
        """Whether this process is in a channel already, and nothing is being changed about that."""
        return channel in self._hub.subscribers.channels and channel not in self._locks

    def listen_now(self, channel: str) -> bool:
        """Make a channel without history live, without waiting; False where it is being changed or the broker waits."""
        if channel in self._locks:
            return False
        return channel in self._hub.subscribers.channels or self._broker.subscribe_now(channel)

    def position_now(self, channel: str) -> StreamPosition | None:
        """Where a new subscriber of a channel with history stands at once; None where it must `join`."""
        stream = self._streams.get(channel) if self.is_live(channel) else None
        return None if stream is None else stream.position_now()

    def join_live(self, subscriber: Subscriber) -> None:
        """Let a subscriber into a channel that is live, at its position if it has history: it has been answered."""
        subscriber.answered = True
        self._enter(subscriber)

    async def join(
        self,
        subscriber: Subscriber,
        options: ChannelOptions,
        since: StreamPosition | None,
        *,
        latest: bool,
        matches: Matches | None = None,
    ) -> None:
        """Let a subscriber in: it is answered, and gets everything that is published from its answer on.

        Where there is history the answer holds what was missed since `since`, or with `latest` the newest publication,
        whose tags match where `matches` is given.
        Raises BrokerUnavailable; then there was no answer, and the subscriber is not in the channel.
        """
        channel = subscriber.channel
        try:
            if options.keeps_history and self._history is not None:
                subscriber.unreadable = self._hub.unreadable
                await self._join_stream(subscriber, options, self._history, since, latest=latest, matches=matches)
            else:
                async with self._lock(channel):
                    await self._listen(channel)
                    if subscriber.reply(Joined(StreamPosition(0, ""), [], recovered=False)):
                        self._enter(subscriber)
        finally:
            # It is not in the hub, where another subscriber of the same connection may be by now.
            if not subscriber.answered or subscriber.dropped:
                await self._end_unless_used(channel)

    async def _join_stream(
        self,
        subscriber: Subscriber,
        options: ChannelOptions,
        history: HistoryStore,
        since: StreamPosition | None,
        *,
        latest: bool,
        matches: Matches | None,
    ) -> None:
        async with self._lock(subscriber.channel):
            stream = self._streams.get(subscriber.channel)
            if stream is None:
                stream = await self._follow(subscriber.channel, options, history)
                subscriber.created = stream.created
            if since is not None and not since.epoch:
                # A client that never stood in the stream: the offset counts in whichever there is.
                since = StreamPosition(since.offset, stream.position.epoch)
        # Nothing runs between the lock and the join's first step, so nobody takes the stream for an idle one.
        await stream.join(subscriber, since, latest=latest, matches=matches)

    def drop(self, subscriber: Subscriber) -> None:
        """Send the subscriber nothing more; `leave` does the rest."""
        channel, receiver = subscriber.channel, subscriber.receiver
        subscriber.dropped = True
        self._hub.subscribers.remove(channel, receiver)
        self._hub.watchers.remove(channel, receiver)
        if stream := self._streams.get(channel):
            stream.leave(subscriber)

    def leave_now(self, receiver: Receiver, channel: str) -> bool:
        """Take a receiver out where others of this process stay in the channel; False where `leave` must do it."""
        self._hub.subscribers.remove(channel, receiver)
        return channel in self._hub.subscribers.channels

    async def leave(self, receiver: Receiver, channel: str) -> None:
        """Take a connection out of a channel; the last one out ends this process's subscription."""
        self._hub.subscribers.remove(channel, receiver)
        await self._end_unless_used(channel)

    async def _end_unless_used(self, channel: str) -> None:
        async with self._lock(channel):
            stream = self._streams.get(channel)
            if channel in self._hub.subscribers.channels or (stream is not None and not stream.idle):
                return
            # A subscriber that did not enter after all may have been given it.
            self._hub.subscribers.ids.forget(channel)
            if stream is not None:
                stream.close()
                del self._streams[channel]
            await self._broker.unsubscribe(channel)

    async def _listen(self, channel: str) -> None:
        if channel in self._hub.subscribers.channels:
            return
        try:
            await self._broker.subscribe(channel)
        except BrokerUnavailable:
            await self._broker.unsubscribe(channel)
            raise

    async def _follow(self, channel: str, options: ChannelOptions, history: HistoryStore) -> Stream[Subscriber]:
        await self._listen(channel)
        stream = self._make_stream(channel, options, history)
        self._streams[channel] = stream
        try:
            await stream.start(join_follows=options.stream is None)
        except BaseException:
            stream.close()
            del self._streams[channel]
            await self._broker.unsubscribe(channel)
            raise
        return stream

    def _make_stream(self, channel: str, options: ChannelOptions, history: HistoryStore) -> Stream[Subscriber]:
        budget, stats = self._budget, self.stats[namespace_of(channel)]
        if options.stream is not None:
            return FollowedAppendStream(channel, history, self, options.position_ttl, budget, stats)
        followed = StreamOptions(options.history_size, options.history_meta_ttl, self._recovery_limit)
        return Stream(channel, history, self, followed, budget, stats)

    def _lock(self, channel: str) -> "ChannelLock":
        """One change of a channel at a time."""
        return self._locks.get(channel) or ChannelLock(channel, self._locks)

    # What streams do with the live subscribers

    def broadcast(self, channel: str, entry: StreamEntry) -> None:
        """Hand a publication to every live subscriber."""
        self._hub.broadcast(channel, entry.publication, entry.trace, delta=entry.delta)

    def enter(self, channel: str, subscriber: Subscriber) -> None:
        """Make a subscriber live."""
        self._enter(subscriber)

    def _enter(self, subscriber: Subscriber) -> None:
        self._hub.subscribers.add(subscriber.channel, subscriber.receiver, subscriber.view, subscriber.base)

    def unsubscribe_all(self, channel: str) -> None:
        """Unsubscribe every live subscriber, because the stream broke off behind it."""
        for receiver in self._hub.subscribers.of(channel):
            receiver.lose_state(channel)

    # What the broker delivers

    def on(self, channel: str, entry: StreamEntry) -> None:
        """Deliver a publication, in the order of the stream where there is one."""
        stream = self._streams.get(channel)
        if stream is None:
            self.broadcast(channel, entry)
        else:
            stream.on(entry)

    async def check(self, *, in_flight: float) -> None:
        """Compare every stream's position with the store's and heal those that differ; `in_flight` in seconds.

        Raises BrokerUnavailable.
        """
        if self._streams and self._history is not None:
            await check_positions(self._history, tuple(self._streams.values()), in_flight=in_flight)

    def report(self, namespaces: Iterable[str], metrics: Metrics) -> None:
        """Set the metrics of the streams in `namespaces`."""
        metrics.set("starling_stream_recent_bytes", self.recent_bytes)
        for namespace in namespaces:
            streams = self.stats[namespace]
            metrics.count("starling_stream_heals_total", streams.heals, namespace)
            metrics.count("starling_stream_healed_total", streams.healed, namespace)
            metrics.count("starling_stream_resets_total", streams.resets, namespace)
            metrics.count("starling_recoveries_total", streams.recovered, namespace, "recovered")
            metrics.count("starling_recoveries_total", streams.unrecovered, namespace, "refused")
            for delay in streams.take_healed_delays():
                metrics.delivery.observe(delay)
        stats = self.stats.values()
        metrics.count("starling_stream_join_reads_total", sum(each.join_reads for each in stats))
        metrics.count("starling_recoveries_from_memory_total", sum(each.from_memory for each in stats))

    def close(self) -> None:
        """End every stream."""
        for stream in self._streams.values():
            stream.close()


class EventRouter:
    """Implements starling.engine.broker.BrokerEvents for one worker."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        hub: Hub,
        *,
        listeners: Mapping[str, Callable[[Publication], None]],
        on_link: Callable[[LinkState], None],
        arrival: Callable[[float], float],
    ) -> None:
        """`listeners` take the publications of internal channels, and `on_link` takes the link's state.

        `arrival` returns the earliest time at which what was received at a time may have arrived; both on the clock of
        `time.monotonic`.
        """
        self._subscriptions = subscriptions
        self._hub = hub
        self._listeners = listeners
        self._arrival = arrival
        self._on_link = on_link

    def on_publication(self, channel: str, entry: StreamEntry, received_at: float) -> None:
        """Deliver a publication to this process's subscribers, or to the listener of an internal channel."""
        if (listener := self._listeners.get(channel)) is not None:
            listener(entry.publication)
            return
        self._hub.received_at = self._arrival(received_at)
        try:
            self._subscriptions.on(channel, entry)
        finally:
            self._hub.received_at = None

    def on_join(self, channel: str, info: ClientInfo) -> None:
        """Send a join to the watchers of the channel."""
        self._hub.push_to_watchers(Push(channel, join=Join(info)))

    def on_leave(self, channel: str, info: ClientInfo) -> None:
        """Send a leave to the watchers of the channel."""
        self._hub.push_to_watchers(Push(channel, leave=Leave(info)))

    def on_link(self, state: LinkState) -> None:
        """Pass the link's state on."""
        self._on_link(state)
