"""Whose turn it is: what concerns one channel happens in the order it was asked for."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Step = TypeVar("Step", bound=Callable[..., object])


class _Lane(Generic[Step]):
    __slots__ = ("companions", "running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.companions = 0
        # Each with whether it is a companion.
        self.waiting: deque[tuple[Step, bool]] = deque()

    def lets_in(self, *, companion: bool) -> bool:
        """Whether a step need not wait for those that run."""
        return not self.running or (companion and self.companions == self.running)


class Turns(Generic[Step]):
    """A lane for each channel with an action on its way, and the steps that wait for it.

    `pending` counts the actions and the waiting steps of all lanes and of none.
    """

    __slots__ = ("_lanes", "pending")

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane[Step]] = {}
        self.pending = 0

    def taken(self, channel: str, *, companion: bool = False) -> bool:
        """Whether a step of this channel has to wait; a companion goes beside other companions."""
        lane = self._lanes.get(channel)
        return lane is not None and (bool(lane.waiting) or not lane.lets_in(companion=companion))

    def wait(self, channel: str, step: Step, *, companion: bool = False) -> None:
        """Line up behind the channel's actions; the lane must be taken."""
        self._lanes[channel].waiting.append((step, companion))
        self.pending += 1

    def begin(self, channel: str | None, *, companion: bool = False) -> None:
        """An action sets out; None belongs to no channel and is waited for by nobody."""
        self.pending += 1
        if channel is not None:
            lane = self._lanes.get(channel)
            if lane is None:
                lane = self._lanes[channel] = _Lane()
            lane.running += 1
            lane.companions += companion

    def finish(self, channel: str | None, *, companion: bool = False) -> None:
        """An action is over. Afterwards `next` has to be asked until it gives None."""
        self.pending -= 1
        if channel is not None:
            lane = self._lanes[channel]
            lane.running -= 1
            lane.companions -= companion

    def next(self, channel: str) -> Step | None:
        """The channel's next step, if those on their way let it in; the lane is given up when it is empty."""
        lane = self._lanes.get(channel)
        if lane is None:
            return None
        if not lane.waiting:
            if not lane.running:
                del self._lanes[channel]
            return None
        step, companion = lane.waiting[0]
        if not lane.lets_in(companion=companion):
            return None
        self.pending -= 1
        lane.waiting.popleft()
        return step

    def clear(self) -> None:
        """Forget everything."""
        self._lanes = {}
        self.pending = 0
