"""Fan-out: frames that wait for the subscribers of a channel, written in batches and in time slices."""

import asyncio
import time
from collections.abc import Iterator

from starling.engine.receiver import Receiver
from starling.protocol.messages import Batch, Frame
from starling.telemetry.metrics import Distribution, TransportStats
from starling.telemetry.tracing import Delivery, SocketWrite

# Upper bound on the batching delay. A frame waits for followers about as long as writing it would take, since one
# joined write replaces several. Seconds of CPU time of this thread, so that a busy machine does not shorten batches.
LONGEST_WAIT = 0.005
WRITE_SECONDS = 5e-6
# For fewer receivers than this, reading the clock costs more than batching saves.
FEW = 16
# The shortest delay that the event loop can keep. Seconds.
_SHORTEST_REST = 0.001
# A write yields to the event loop after this time, for pings, commands and timers. Seconds.
SLICE = 0.005
_BETWEEN_LOOKS = 64


class DeliveryTiming:
    """Measures one publication, from its arrival in this process to its last write to a socket of a subscriber."""

    __slots__ = ("_delivery", "_groups", "_received_at")

    def __init__(self, received_at: float, groups: int, delivery: Distribution) -> None:
        """`received_at` is on the clock of `time.monotonic`; `groups` have to be written."""
        self._received_at = received_at
        self._groups = groups
        self._delivery = delivery

    def written(self, now: float) -> None:
        """One of the groups is written."""
        self._groups -= 1
        if self._groups == 0:
            self.finish(now)

    def finish(self, now: float) -> None:
        """Observe the seconds until `now`."""
        self._delivery.observe(now - self._received_at)


class Group:
    """Receivers of one channel that read the same format, and the frames that wait for them.

    A receiver that enters gets no earlier frames, and one that leaves gets all that were broadcast before it left.
    """

    __slots__ = (
        "_batch",
        "_deliveries",
        "_late",
        "_remaining",
        "_timings",
        "_writes",
        "_writing_timings",
        "came_at",
        "crowded",
        "frames",
        "receivers",
        "rests_until",
        "stats",
    )

    def __init__(self, stats: TransportStats) -> None:
        self.stats = stats
        self.receivers: set[Receiver] = set()
        self.frames: list[Frame] = []
        # The receivers that entered while frames waited, and how many of `frames` precede each.
        self._late: dict[Receiver, int] = {}
        # What is being written, and the receivers that have not got it yet.
        self._batch: Batch | None = None
        self._remaining: set[Receiver] = set()
        # Those of `frames` that are traced, and those of what is being written.
        self._deliveries: tuple[Delivery, ...] = ()
        self._writes: tuple[SocketWrite, ...] = ()
        # Of `frames`, and of what is being written.
        self._timings: list[DeliveryTiming] = []
        self._writing_timings: list[DeliveryTiming] = []
        self.came_at = 0.0
        """When the newest frame came; this and `rests_until` on the clock of `time.monotonic`."""
        self.crowded = False
        """Whether frames come so fast that more of them are to be expected."""
        self.rests_until = 0.0
        """What comes before is joined with what comes until then."""

    def __len__(self) -> int:
        return len(self.receivers)

    def __iter__(self) -> Iterator[Receiver]:
        return iter(self.receivers)

    def add(self, receiver: Receiver) -> None:
        """Add a receiver, which gets the next frame first."""
        if receiver not in self.receivers:
            self.receivers.add(receiver)
            if self.frames:
                self._late[receiver] = len(self.frames)

    def remove(self, receiver: Receiver) -> None:
        """Remove a receiver, after writing what waits for it."""
        self.flush(receiver)
        self.receivers.discard(receiver)
        self._late.pop(receiver, None)

    def count_sent(self, frame: Frame) -> int:
        """Count `frame` as sent to every receiver; return the bytes of all."""
        count = len(self.receivers)
        size = len(frame.payload) * count
        self.stats.messages_out += count
        self.stats.bytes_out += size
        return size

    def trace(self, delivery: Delivery) -> None:
        """Have `delivery` record how the last frame, which belongs to a trace, is written."""
        delivery.owe(len(self.receivers))
        self._deliveries += (delivery,)

    def time(self, timing: DeliveryTiming) -> None:
        """Measure the last frame."""
        self._timings.append(timing)

    def flush(self, receiver: Receiver) -> None:
        """Write at once what waits for a receiver."""
        if receiver in self._remaining and self._batch is not None:
            self._remaining.discard(receiver)
            _deliver(receiver, self._batch)
        if self.frames and receiver in self.receivers:
            waiting = self.frames[self._late.get(receiver, 0) :]
            self._late[receiver] = len(self.frames)
            if waiting:
                _deliver(receiver, Batch(waiting))

    def write(self, deadline: float, *, alone: bool) -> bool:
        """Write until `deadline`; True when all have it. What is not `alone` is queued, to be joined with more."""
        batch = self._batch or self._begin()
        remaining = self._remaining
        count = len(batch.frames)
        while remaining:
            for _ in range(_BETWEEN_LOOKS):
                if not remaining:
                    break
                receiver = remaining.pop()
                receiver.sent += count
                if alone:
                    receiver.transport.send_batch(batch)
                else:
                    receiver.transport.queue_batch(batch)
            if time.monotonic() > deadline:
                break
        if remaining:
            return False
        if self._writing_timings:
            now = time.monotonic()
            for timing in self._writing_timings:
                timing.written(now)
            self._writing_timings = []
        self._batch = None
        self.crowded |= count > 1
        if self._writes:
            self._end_writes(alone=alone)
        return True

    def _begin(self) -> Batch:
        frames, late = self.frames, self._late
        self.frames, self._late = [], {}
        self._writing_timings, self._timings = self._timings, []
        self._batch = Batch(frames)
        if self._deliveries:
            self._begin_writes(self._batch)
        self._remaining = set(self.receivers)
        self._remaining.difference_update(late)
        for receiver, missed in late.items():
            if missed < len(frames):
                _deliver(receiver, Batch(frames[missed:]))
        return self._batch

    def _begin_writes(self, batch: Batch) -> None:
        deliveries, self._deliveries = self._deliveries, ()
        receivers, frames, size = len(self.receivers), len(batch.frames), len(batch.wire)
        self._writes = tuple(delivery.write(connections=receivers, frames=frames, size=size) for delivery in deliveries)

    def _end_writes(self, *, alone: bool) -> None:
        writes, self._writes = self._writes, ()
        for write in writes:
            if alone:
                write.end()
            else:
                # What was queued is written when this tick's callbacks have run.
                asyncio.get_running_loop().call_soon(write.end)


def _deliver(receiver: Receiver, batch: Batch) -> None:
    receiver.sent += len(batch.frames)
    receiver.transport.send_batch(batch)


class Fanout:
    """Groups with frames to write. They are written when a loop tick brought no more, or when waiting would cost more.

    A large group is written in slices; what is broadcast meanwhile follows. Where frames arrive faster than they could
    be written, a group rests after each write, for half the time that it took, and the next write has several frames.
    """

    def __init__(
        self,
        *,
        longest_wait: float = LONGEST_WAIT,
        write_seconds: float = WRITE_SECONDS,
        slice_seconds: float = SLICE,
    ) -> None:
        self._longest_wait = longest_wait
        self._write_seconds = write_seconds
        self._slice = slice_seconds
        self._due: list[Group] = []
        self._pending = 0
        # Those that were just written, while more frames arrive for them.
        self._resting: list[Group] = []
        # The groups of this round; the last one is being written.
        self._round: list[Group] = []
        self._alone = False
        self._fresh = False
        self._scheduled = False
        self._waiting_since = 0.0

    @property
    def busy(self) -> bool:
        """Whether frames wait to be written."""
        return bool(self._scheduled or self._resting)

    def add(self, group: Group, frame: Frame) -> None:
        """Queue `frame` for all of `group`."""
        if not group.frames:
            self._await(group)
        now = time.monotonic()
        group.crowded = now - group.came_at < self._rest(group)
        group.came_at = now
        group.frames.append(frame)
        self._fresh = True

    def _await(self, group: Group) -> None:
        if not self._due:
            self._waiting_since = 0.0
            self._pending = 0
        self._due.append(group)
        self._pending += len(group.receivers)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def flush(self, receiver: Receiver) -> None:
        """Write at once what waits for a receiver in any group, so that its last frame comes after it."""
        for group in (*self._round, *self._due, *self._resting):
            group.flush(receiver)

    def _run(self) -> None:
        now = time.monotonic()
        try:
            if not self._round and self._ripe():
                self._begin_round(now)
            self._fresh = False
            while self._round and self._round[-1].write(now + self._slice, alone=self._alone):
                group = self._round.pop()
                if group.crowded:
                    group.rests_until = time.monotonic() + self._rest(group)
        finally:
            self._scheduled = bool(self._due or self._round)
            if self._scheduled:
                asyncio.get_running_loop().call_soon(self._run)

    def _rest(self, group: Group) -> float:
        # Half as long as a write takes. A rest as long as the write joined no more frames, and made them later.
        count = len(group.receivers)
        return 0.0 if count < FEW else min(self._longest_wait, max(_SHORTEST_REST, count * self._write_seconds / 2))

    def _begin_round(self, now: float) -> None:
        due, self._due = self._due, []
        for group in due:
            if group.rests_until <= now:
                self._round.append(group)
            else:
                self._resting.append(group)
                asyncio.get_running_loop().call_later(group.rests_until - now, self._wake, group)
        self._alone = len(self._round) == 1

    def _wake(self, group: Group) -> None:
        group.rests_until = 0.0
        self._resting.remove(group)
        self._await(group)

    def _ripe(self) -> bool:
        if not self._waiting_since and self._pending >= FEW:
            self._waiting_since = time.thread_time()
        longest = min(self._longest_wait, self._pending * self._write_seconds)
        return not self._fresh or self._pending < FEW or time.thread_time() - self._waiting_since >= longest
