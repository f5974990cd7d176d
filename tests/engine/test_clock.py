"""The clock of a worker: how late the event loop is, and when what it received may have arrived."""

import asyncio
import time

import pytest
import structlog
from prometheus_client import CollectorRegistry

from starling.engine import clock as clock_module
from starling.engine.clock import LAG_INTERVAL, LAG_TURNS_REPORTED, Clock, Periodic, Turn
from starling.engine.tasks import Tasks
from starling.telemetry.metrics import Metrics
from tests.support.waiting import until


async def test_what_arrives_while_the_event_loop_stands_still_counts_from_the_standstill() -> None:
    tasks = Tasks()
    clock = Clock(tasks, each_second=[])
    clock.start()
    await asyncio.sleep(2 * LAG_INTERVAL)
    before = time.monotonic()
    assert clock.arrival(before) == before, "an event loop that runs reads at once"

    time.sleep(1)
    while clock.arrival(now := time.monotonic()) == now:
        await asyncio.sleep(0)
        assert time.monotonic() < before + 60
    assert before - 0.01 <= clock.arrival(now) <= before + 2 * LAG_INTERVAL
    assert clock.arrival(before - 5) == before - 5, "an earlier arrival stays as it is"

    while clock.arrival(now := time.monotonic()) != now:
        await asyncio.sleep(LAG_INTERVAL)
    clock.stop()


async def test_the_metric_holds_a_delay_until_it_was_read_every_fifteen_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock_module, "TURN_SECONDS", 0.2)
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    turns: list[Turn] = []
    clock = Clock(Tasks(), each_second=[turns.append])

    def reported() -> float:
        clock.report(metrics)
        return registry.get_sample_value("starling_event_loop_lag_seconds") or 0.0

    clock.start()
    await until(lambda: turns, "the first turn")
    time.sleep(0.5)
    await until(lambda: clock.lag_seconds > 0.3, "the delay is measured")
    worst, at = clock.lag_seconds, len(turns)
    while len(turns) < at + LAG_TURNS_REPORTED - 1:
        assert reported() >= worst
        await asyncio.sleep(LAG_INTERVAL)
    await until(lambda: reported() < worst, "the delay is over")
    assert len(turns) >= at + LAG_TURNS_REPORTED
    clock.stop()


async def test_work_that_fails_is_logged_and_neither_it_nor_other_work_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "TURN_SECONDS", LAG_INTERVAL)
    done: list[str] = []

    def fail_each_second(_: Turn) -> None:
        done.append("second fails")
        raise RuntimeError("a mistake in here")

    async def fail() -> None:
        done.append("periodic fails")
        raise RuntimeError("a mistake in here")

    tasks = Tasks()
    clock = Clock(
        tasks,
        each_second=[fail_each_second, lambda _: done.append("second")],
        periodic=[Periodic(0.01, fail)],
    )
    with structlog.testing.capture_logs() as logs:
        clock.start()
        await until(lambda: all(done.count(each) >= 2 for each in ("second fails", "second", "periodic fails")))
    clock.stop()
    assert {line["event"] for line in logs} == {"clock_failed", "periodic_work_failed"}
