"""The timer wheel: everyone is ticked in the second it asked for, and nobody after it left."""

from itertools import pairwise

import structlog

from starling.engine.timer_wheel import Wheel


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.25

    def __call__(self) -> float:
        return self.now


class Item:
    """Notes when it is ticked, and asks for the next time after `period` seconds."""

    def __init__(self, period: float = 1e9) -> None:
        self.slot = -1
        self.period = period
        self.ticks: list[float] = []

    def tick(self, now: float) -> float:
        self.ticks.append(now)
        return now + self.period


def advance(wheel: Wheel, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        wheel.turn()


def test_an_item_is_ticked_at_its_deadline_or_up_to_a_second_later() -> None:
    clock = Clock()
    wheel, item = Wheel(clock), Item()
    wheel.schedule(item, clock.now + 5)

    advance(wheel, clock, 5)
    assert item.ticks == []

    advance(wheel, clock, 1)
    assert item.ticks == [1006.0]


def test_a_period_is_kept() -> None:
    clock = Clock()
    wheel, item = Wheel(clock), Item(period=10)
    wheel.schedule(item, clock.now + 10)

    advance(wheel, clock, 100)

    assert [second - first for first, second in pairwise(item.ticks)] == [10.0] * 8


def test_a_deadline_beyond_the_wheel_is_looked_at_once_a_turn() -> None:
    clock = Clock()
    wheel, item = Wheel(clock), Item()
    wheel.schedule(item, clock.now + 10_000)

    advance(wheel, clock, Wheel.SECONDS)

    assert len(item.ticks) == 1


def test_a_removed_item_is_left_alone_wherever_it_stood() -> None:
    clock = Clock()
    wheel = Wheel(clock)
    items = [Item() for _ in range(2 * Wheel.SECONDS)]
    for seconds, item in enumerate(items):
        wheel.schedule(item, clock.now + seconds)

    for item in items:
        wheel.remove(item)
    advance(wheel, clock, 3 * Wheel.SECONDS)

    assert [item.ticks for item in items] == [[]] * len(items)


def test_a_later_deadline_replaces_the_earlier() -> None:
    clock = Clock()
    wheel, item = Wheel(clock), Item()
    wheel.schedule(item, clock.now + 2)
    wheel.schedule(item, clock.now + 8)

    advance(wheel, clock, 6)
    assert item.ticks == []

    advance(wheel, clock, 3)
    assert len(item.ticks) == 1


def test_an_item_that_removes_another_while_ticking_is_obeyed() -> None:
    clock = Clock()
    wheel = Wheel(clock)
    items = [Item(), Item()]

    class Remover(Item):
        def tick(self, now: float) -> float:
            for item in items:
                wheel.remove(item)
            return super().tick(now)

    remover = Remover()
    for item in (remover, *items):
        wheel.schedule(item, clock.now + 3)
    advance(wheel, clock, 20)

    assert len(remover.ticks) == 1
    assert all(len(item.ticks) <= 1 for item in items)


def test_a_clock_that_stood_still_catches_up() -> None:
    clock = Clock()
    wheel, item = Wheel(clock), Item()
    wheel.schedule(item, clock.now + 3)

    clock.now += 30
    wheel.turn()

    assert item.ticks == [1029.25]


def test_what_fails_at_its_tick_keeps_nobody_else_from_theirs() -> None:
    class Broken(Item):
        def tick(self, now: float) -> float:
            raise ValueError

    clock = Clock()
    wheel, items = Wheel(clock), [Broken(), *(Item(period=1) for _ in range(20)), Broken()]
    for item in items:
        wheel.schedule(item, clock.now + 1)

    with structlog.testing.capture_logs() as logs:
        advance(wheel, clock, 4)

    assert [len(item.ticks) for item in items[1:-1]] == [3] * 20
    assert [line["event"] for line in logs] == ["tick_failed"] * 2
