"""What the nodes did in the last ten minutes: counts every five seconds, so that rates need no Prometheus."""

import asyncio
import time
from collections import deque
from itertools import pairwise

import msgspec
from msgspec import Struct

from starling.engine.control import NodeCommand
from starling.engine.engine import Engine

SAMPLE_SECONDS = 5
SAMPLES = 120
REFUSAL_SAMPLES = 720
"""An hour."""


class Sample(Struct, array_like=True):
    """The counts of a node at one moment: `at` in seconds since 1970, the others since its start."""

    at: float
    connections: int
    connects: int
    publications: int
    messages_in: int
    messages_out: int


class RatesCommand(NodeCommand):
    """Return what the node did."""


class NodeRates(Struct):
    """The samples of a node, the oldest first, and its refusals of the last hour by reason."""

    samples: list[Sample]
    refusals: dict[str, int]


class Rates(Struct):
    """What all nodes did together in one step of SAMPLE_SECONDS, which ended at `at`; rates are per second."""

    at: float
    connections: int
    connects: float
    publications: float
    messages_in: float
    messages_out: float


class RateHistory:
    """Takes the samples of this node, and joins those of all nodes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._samples: deque[Sample] = deque(maxlen=SAMPLES + 1)
        self._refusals: deque[dict[str, int]] = deque(maxlen=REFUSAL_SAMPLES)
        engine.control.on_command(RatesCommand, lambda _: self.here())

    async def run(self) -> None:
        """Take samples until cancelled, at the same moments on every node."""
        while True:
            self.sample(time.time())
            await asyncio.sleep(SAMPLE_SECONDS - time.time() % SAMPLE_SECONDS)

    def sample(self, now: float) -> None:
        """Take the counts at `now`, in seconds since 1970."""
        metrics = self._engine.metrics
        transports = metrics.transports.values()
        self._samples.append(
            Sample(
                now - now % SAMPLE_SECONDS,
                sum(stats.now for stats in transports),
                sum(stats.opened for stats in transports),
                sum(total for (_, result), total in metrics.published.items() if result == "stored"),
                sum(stats.messages_in for stats in transports),
                sum(stats.messages_out for stats in transports),
            )
        )
        self._refusals.append(dict(metrics.refused))

    def here(self) -> NodeRates:
        """This node."""
        now, before = dict(self._engine.metrics.refused), self._refusals[0] if self._refusals else {}
        refusals = {reason: total - before.get(reason, 0) for reason, total in now.items()}
        return NodeRates(list(self._samples), {reason: count for reason, count in refusals.items() if count})

    async def everywhere(self) -> tuple[list[Rates], dict[str, int]]:
        """The steps of all nodes that answer in time, the oldest first, and the refusals of the last hour by reason.

        Raises BrokerUnavailable, and NodeCommandRefused where a node of another version does not know what is asked.
        """
        answers = (await self._engine.control.ask(RatesCommand())).values()
        nodes = [msgspec.json.decode(answer, type=NodeRates) for answer in answers]
        refusals: dict[str, int] = {}
        for node in nodes:
            for reason, count in node.refusals.items():
                refusals[reason] = refusals.get(reason, 0) + count
        return joined([node.samples for node in nodes]), refusals


def joined(nodes: list[list[Sample]]) -> list[Rates]:
    """The steps of all nodes; a node counts in those of which it has both ends."""
    steps: dict[float, Rates] = {}
    for samples in nodes:
        for before, after in pairwise(samples):
            seconds = after.at - before.at
            if seconds <= 0:
                continue
            step = steps.setdefault(after.at, Rates(after.at, 0, 0.0, 0.0, 0.0, 0.0))
            step.connections += after.connections
            step.connects += (after.connects - before.connects) / seconds
            step.publications += (after.publications - before.publications) / seconds
            step.messages_in += (after.messages_in - before.messages_in) / seconds
            step.messages_out += (after.messages_out - before.messages_out) / seconds
    return [steps[at] for at in sorted(steps)][-SAMPLES:]
