"""The busiest channels of a worker, in memory and time that do not grow with the number of channels."""

import heapq
import math
import random
from collections.abc import Iterable

from msgspec import Struct

# Counts decay, so that rates are averages over about this time. Seconds.
WINDOW_SECONDS = 10.0
# After a pause this long all counts are dropped; later their weights would underflow. Seconds.
STANDSTILL_SECONDS = 10 * WINDOW_SECONDS
# Above this rate messages are sampled: about as many are counted, and each sample counts for several.
COUNTED_PER_SECOND = 1000
CAPACITY = 1024
# A channel whose decayed count is below this many deliveries is dropped.
FORGOTTEN_BELOW = 0.01


class ChannelTraffic(Struct):
    """What passes through one channel. `deliveries` are messages to single clients, `bytes` their payload.

    `dropped` are messages of the broker that this service had no room for. `subscribers` are there now.
    """

    channel: str
    subscribers: int = 0
    messages_per_second: float = 0.0
    deliveries_per_second: float = 0.0
    bytes_per_second: float = 0.0
    dropped_per_second: float = 0.0


class Counts:
    """What was counted of one channel; `weight` is what it is ranked by."""

    __slots__ = ("bytes", "dropped", "messages", "weight")

    def __init__(self) -> None:
        self.weight = 0.0
        self.messages = 0.0
        self.bytes = 0.0
        self.dropped = 0.0


class HeavyHitters:
    """Finds the heaviest of any number of channels, keeping `capacity`: the sketch of Misra and Gries.

    Once it is full, every weight gives up as much as the median is, and channels with no more than that are dropped
    (Anderson et al., "A High-Performance Algorithm for Identifying Frequent Items in Data Streams", 2017). So the true
    weight of a channel is at least what `weight` says and at most `error` more, and `error` is at most twice the true
    weight of all channels by `capacity`.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.error = 0.0
        self._capacity = capacity
        self._channels: dict[str, Counts] = {}

    def __len__(self) -> int:
        return len(self._channels)

    def of(self, channel: str) -> Counts:
        """The counts of a channel, to add to."""
        counts = self._channels.get(channel)
        if counts is None:
            if len(self._channels) >= self._capacity:
                self._purge()
            counts = self._channels[channel] = Counts()
        return counts

    def weight(self, channel: str) -> float:
        """How heavy a channel is for certain."""
        counts = self._channels.get(channel)
        return counts.weight if counts is not None else 0.0

    def heaviest(self, limit: int) -> list[tuple[str, Counts]]:
        """The `limit` heaviest channels, the heaviest first."""
        return heapq.nlargest(limit, self._channels.items(), key=lambda item: item[1].weight)

    def fade(self, kept: float) -> None:
        """Let everything counted so far count `kept` times as much, and drop channels that hardly count any more."""
        least = 0.0
        for channel, counts in list(self._channels.items()):
            counts.weight *= kept
            counts.messages *= kept
            counts.bytes *= kept
            counts.dropped *= kept
            if counts.weight < FORGOTTEN_BELOW:
                least = max(least, counts.weight)
                del self._channels[channel]
        self.error = self.error * kept + least

    def _purge(self) -> None:
        weights = sorted([counts.weight for counts in self._channels.values()])
        median = weights[len(weights) // 2]
        self.error += median
        self._channels = {channel: counts for channel, counts in self._channels.items() if counts.weight > median}
        for counts in self._channels.values():
            counts.weight -= median


class ChannelMeter:
    """Measures the busiest channels. For each message the caller calls `count` if `skip` is 0, else decrements it."""

    __slots__ = ("_counted", "_each", "_hitters", "_per_second", "_random", "skip")

    def __init__(self, *, seed: int | None = None) -> None:
        self.skip = 0
        self._hitters = HeavyHitters()
        self._random = random.Random(seed)  # noqa: S311 - hides nothing
        # The number of messages that each sample counts for.
        self._each = 1
        self._counted = 0
        self._per_second = 0.0

    def count(self, channel: str, deliveries: int, size: int) -> None:
        """Count a message of `channel` with its `deliveries`, which together have `size` bytes of payload."""
        each = self._each
        counts = self._hitters.of(channel)
        counts.weight += deliveries * each
        counts.messages += each
        counts.bytes += size * each
        self._counted += 1
        if each > 1:
            self.skip = self._random.randrange(2 * each - 1)

    def count_dropped(self, channel: str, messages: int) -> None:
        """Count messages that were dropped, each as one delivery."""
        counts = self._hitters.of(channel)
        counts.weight += messages
        counts.dropped += messages

    def turn(self, seconds: float) -> None:
        """Let time pass; to be called about each second with the `seconds` since the last time."""
        kept = math.exp(-seconds / WINDOW_SECONDS)
        self._hitters.fade(kept)
        # Of a steady stream, what is left of its count by this makes its rate.
        self._per_second = (1 - kept) / (kept * seconds) if seconds < STANDSTILL_SECONDS else 0.0
        self._each = max(1, math.ceil(self._counted * self._each / seconds / COUNTED_PER_SECOND))
        self._counted = 0
        self.skip = min(self.skip, 2 * self._each - 2)

    def busiest(self, limit: int) -> list[ChannelTraffic]:
        """The `limit` channels with the most deliveries, the busiest first; who subscribes is not known here."""
        rate = self._per_second
        return [
            ChannelTraffic(
                channel,
                messages_per_second=counts.messages * rate,
                deliveries_per_second=max(0.0, counts.weight - counts.dropped) * rate,
                bytes_per_second=counts.bytes * rate,
                dropped_per_second=counts.dropped * rate,
            )
            for channel, counts in self._hitters.heaviest(limit)
        ]


def joined(reports: Iterable[Iterable[ChannelTraffic]], limit: int) -> list[ChannelTraffic]:
    """The `limit` busiest channels over the `reports` of several workers.

    Each worker with subscribers gets every message of a channel, so the messages are those of the worker with the
    most; all else is summed.
    """
    channels: dict[str, ChannelTraffic] = {}
    for report in reports:
        for seen in report:
            traffic = channels.setdefault(seen.channel, ChannelTraffic(seen.channel))
            traffic.subscribers += seen.subscribers
            traffic.messages_per_second = max(traffic.messages_per_second, seen.messages_per_second)
            traffic.deliveries_per_second += seen.deliveries_per_second
            traffic.bytes_per_second += seen.bytes_per_second
            traffic.dropped_per_second += seen.dropped_per_second
    return heapq.nlargest(
        limit, channels.values(), key=lambda traffic: traffic.deliveries_per_second + traffic.dropped_per_second
    )
