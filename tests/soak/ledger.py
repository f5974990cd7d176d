"""The ledger of a soak: what was acknowledged, what each subscriber got, and what speaks against it."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Acknowledged:
    """A publication that the service said is stored: its number in the channel, and where it stands."""

    number: int
    epoch: str
    offset: int


@dataclass
class Segment:
    """One unbroken stretch of a subscription: all that came after the position that its reply reported.

    What is recovered on a return goes on with it; a reply that says `recovered: false` begins the next one.
    """

    epoch: str
    start: int
    received: list[tuple[int, int]] = field(default_factory=list)
    """Offset and number of each publication, as they came."""

    @property
    def position(self) -> int:
        """The offset that a returning client asks from."""
        return self.received[-1][0] if self.received else self.start


@dataclass
class Verdict:
    """What was found wrong in the subscriptions of one channel, by kind."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, example: str) -> None:
        """Count a finding; of each kind the first few are kept in words."""
        if count:
            self.counts[kind] += count
            if self.counts[kind] - count < 3:
                self.examples.append(f"{kind}: {example}")


def judge(subscription: Sequence[Segment], acknowledged: Sequence[Acknowledged], who: str, verdict: Verdict) -> None:
    """Hold what one subscriber got against what was acknowledged in its channel.

    Every segment but the last may end anywhere, for its client was notified; the last must reach the end.
    """
    if not subscription:
        verdict.add("never subscribed", 1, who)
        return
    for before, after in itertools.pairwise(subscription):
        verdict.add("reported without a cause", int(before.epoch == after.epoch), f"{who} in epoch {after.epoch}")
    homes = {publication.number: publication.epoch for publication in acknowledged}
    for index, segment in enumerate(subscription):
        is_last = index == len(subscription) - 1
        wanted = [
            (publication.offset, publication.number)
            for publication in acknowledged
            if publication.epoch == segment.epoch
            and publication.offset > segment.start
            and (is_last or publication.offset <= segment.position)
        ]
        # A retry after the store was emptied puts a number into the next epoch; what stood in this one came rightly.
        got = [(offset, number) for offset, number in segment.received if homes.get(number) == segment.epoch]
        strange = [number for _, number in segment.received if number not in homes]
        _compare(got, wanted, strange, who, verdict)


def _compare(
    got: list[tuple[int, int]], wanted: list[tuple[int, int]], strange: list[int], who: str, verdict: Verdict
) -> None:
    times = Counter(got)
    lost = [entry for entry in wanted if entry not in times]
    verdict.add("lost", len(lost), f"{who} misses {lost[:3]}")
    verdict.add("doubled", sum(count - 1 for count in times.values()), f"{who} had {times.most_common(1)}")
    verdict.add("out of order", int(got != sorted(got)), who)
    verdict.add("never published", len(strange), f"{who} got {strange[:3]}")
    elsewhere = times.keys() - set(wanted)
    verdict.add("at another offset", len(elsewhere), f"{who} got {sorted(elsewhere)[:3]}")


def epochs(acknowledged: Iterable[Acknowledged]) -> int:
    """In how many streams the publications of a channel stand."""
    return len({publication.epoch for publication in acknowledged})
