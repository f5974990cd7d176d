"""Turns: the steps of one channel run in the order in which they were requested."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Step = TypeVar("Step", bound=Callable[..., object])


class _Lane(Generic[Step]):
    __slots__ = ("concurrent", "running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.concurrent = 0
        # Each step with whether it may run concurrently; None while none has waited.
        self.waiting: deque[tuple[Step, bool]] | None = None

    def lets_in(self, *, concurrent: bool) -> bool:
        """Whether a step need not wait for those that run."""
        return not self.running or (concurrent and self.concurrent == self.running)


class Turns(Generic[Step]):
    """A lane for each channel with an action on its way, and the steps that wait for it.

    `pending` counts the actions and the waiting steps of all lanes and of none.
    """

    __slots__ = ("_lanes", "pending")

    def __init__(self) -> None:
        # None where there is no lane, as most of the time: an emptied dictionary keeps its table.
        self._lanes: dict[str, _Lane[Step]] | None = None
        self.pending = 0

    def taken(self, channel: str, *, concurrent: bool = False) -> bool:
        """Whether a step of this channel has to wait; a concurrent step runs together with other concurrent ones."""
        lane = self._lane(channel)
        return lane is not None and (bool(lane.waiting) or not lane.lets_in(concurrent=concurrent))

    def wait(self, channel: str, step: Step, *, concurrent: bool = False) -> None:
        """Line up behind the channel's actions; the lane must be taken."""
        lane = self._known_lane(channel)
        if lane.waiting is None:
            lane.waiting = deque()
        lane.waiting.append((step, concurrent))
        self.pending += 1

    def begin(self, channel: str | None, *, concurrent: bool = False) -> None:
        """An action sets out; None belongs to no channel and is waited for by nobody."""
        self.pending += 1
        if channel is not None:
            if self._lanes is None:
                self._lanes = {}
            lane = self._lanes.get(channel)
            if lane is None:
                lane = self._lanes[channel] = _Lane()
            lane.running += 1
            lane.concurrent += concurrent

    def finish(self, channel: str | None, *, concurrent: bool = False) -> None:
        """An action is over. Afterwards `next` has to be asked until it gives None."""
        self.pending -= 1
        if channel is not None:
            lane = self._known_lane(channel)
            lane.running -= 1
            lane.concurrent -= concurrent

    def next(self, channel: str) -> Step | None:
        """The channel's next step, if those on their way let it in; the lane is given up when it is empty."""
        lane = self._lane(channel)
        if lane is None:
            return None
        if not lane.waiting:
            if not lane.running:
                self._give_up(channel)
            return None
        step, concurrent = lane.waiting[0]
        if not lane.lets_in(concurrent=concurrent):
            return None
        self.pending -= 1
        lane.waiting.popleft()
        return step

    def clear(self) -> None:
        """Forget everything."""
        self._lanes = None
        self.pending = 0

    def _lane(self, channel: str) -> _Lane[Step] | None:
        return None if self._lanes is None else self._lanes.get(channel)

    def _known_lane(self, channel: str) -> _Lane[Step]:
        lane = self._lane(channel)
        if lane is None:
            raise KeyError(channel)
        return lane

    def _give_up(self, channel: str) -> None:
        if self._lanes is not None:
            del self._lanes[channel]
            self._lanes = self._lanes or None
