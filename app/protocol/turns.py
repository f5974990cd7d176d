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
        self.waiting: deque[Step] = deque()


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
        return lane is not None and (not companion or bool(lane.waiting) or lane.companions < lane.running)

    def wait(self, channel: str, step: Step) -> None:
        """Line up behind the channel's actions; the lane must be taken."""
        self._lanes[channel].waiting.append(step)
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
        """The channel's next step, if no action is on its way; the lane is given up when nothing waits."""
        lane = self._lanes.get(channel)
        if lane is None or lane.running:
            return None
        if not lane.waiting:
            del self._lanes[channel]
            return None
        self.pending -= 1
        return lane.waiting.popleft()

    def clear(self) -> None:
        """Forget everything."""
        self._lanes = {}
        self.pending = 0
