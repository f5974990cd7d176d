"""A node's own part in captures, at moments that no real broker can be made to meet; whole ones run in tests/system."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from starling.engine.capture import CaptureCommand, Captures
from starling.engine.hub import Hub
from starling.protocol.messages import Publication, Push
from tests.support.waiting import DEADLINE


class FakeEngine:
    """An engine as far as captures go; `on_publish` runs while a report is under way."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.running: list[asyncio.Task[None]] = []
        self.published: list[str] = []
        self.on_publish: Callable[[], None] = lambda: None
        self.order: Callable[[CaptureCommand], None] = lambda _: None
        self.control = SimpleNamespace(on_command=self._on_order, publish=self._publish)
        self.tasks = SimpleNamespace(start=self._start)
        self.node = SimpleNamespace(name="node")
        Captures(self)  # type: ignore[arg-type]

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self.running.append(asyncio.create_task(work))

    def see(self, channel: str) -> None:
        """Something happens in `channel`, which has a listener."""
        assert self.hub.frame_tap is not None
        self.hub.frame_tap.pushed(Push(channel), SimpleNamespace(count=lambda _: 1))  # type: ignore[arg-type]

    async def until_reported(self, channel: str) -> None:
        async with asyncio.timeout(DEADLINE):
            while channel not in self.published:
                await asyncio.sleep(0.01)

    def _on_order(self, _: object, carry_out: Callable[[CaptureCommand], None]) -> None:
        self.order = carry_out

    async def _publish(self, channel: str, _: Publication) -> None:
        self.on_publish()
        self.published.append(channel)


async def test_a_capture_that_is_ended_while_another_is_reported_ends_no_other() -> None:
    engine = FakeEngine()
    for number in ("first", "second"):
        engine.order(CaptureCommand(number, channel=number))
    engine.on_publish = lambda: engine.order(CaptureCommand("second", stop=True))
    frame_tap: Any = engine.hub.frame_tap
    frame_tap.captures["second"].ends_at = 0.0

    for _ in range(2):
        engine.see("first")
        await engine.until_reported(":capture:first")
        engine.published.clear()

    assert not engine.running[0].done()
    engine.running[0].cancel()


async def test_a_capture_right_after_another_has_one_reporter() -> None:
    engine = FakeEngine()
    for number in ("first", "second"):
        engine.order(CaptureCommand(number, channel="news"))
        engine.order(CaptureCommand(number, channel="news", stop=number == "first"))

    engine.see("news")
    await engine.until_reported(":capture:second")
    engine.published.clear()
    engine.see("news")
    # What is seen later is reported later: by then the first one's has ended.
    await engine.until_reported(":capture:second")

    assert [task.done() for task in engine.running] == [True, False]
    engine.running[1].cancel()
