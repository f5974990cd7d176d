"""What a watcher reads of a capture, from its first line to its end, over the broker in memory."""

import json
from contextlib import AsyncExitStack

import msgspec
import pytest
from msgspec import Raw

from starling.engine.capture import CAPTURES_LIMIT, FRAMES_WAITING, CaptureRefused, CaptureReport, Captures
from starling.engine.engine import Engine
from starling.engine.readiness import Unready
from starling.protocol.messages import Publication, Push
from tests.support.fake_receivers import FakeReceiver
from tests.support.waiting import until


async def test_a_watcher_reads_what_it_watches_each_frame_and_the_end(engine: Engine) -> None:
    captures = Captures(engine)
    engine.hub.subscribers.add("news", FakeReceiver("bob"))
    async with captures.watch(channel="news", payload=True) as watching:
        lines = watching.lines(300)
        assert json.loads(await anext(lines)) == {
            "capture": watching.id,
            "seconds": 300,
            "nodes": [engine.node.name],
        }
        assert engine.hub.frame_tap is not None
        engine.hub.frame_tap.pushed(Push("news", pub=Publication(Raw(b'"hello"'))), engine.hub.subscribers)
        seen = json.loads(await anext(lines))
        assert (seen["node"], seen["direction"], seen["clients"]) == (engine.node.name, "out", 1)
        assert seen["frame"]["push"]["pub"] == {"data": "hello"}
        watching.stop("enough")
        watching.stop("only the first reason counts")
        assert [json.loads(line) async for line in lines] == [{"ended": "enough", "frames": 1, "dropped": 0}]
    await until(lambda: engine.hub.frame_tap is None, "nothing looks at frames any more")


async def test_a_capture_ends_when_its_time_is_over(engine: Engine) -> None:
    async with Captures(engine).watch(user="alice", payload=False) as watching:
        *_, last = [json.loads(line) async for line in watching.lines(0.01)]

    assert last == {"ended": "time is over", "frames": 0, "dropped": 0}


async def test_a_capture_ends_with_its_worker(engine: Engine) -> None:
    async with Captures(engine).watch(user="alice", payload=False) as watching:
        engine.readiness.hold(Unready.DRAINING)
        *_, last = [json.loads(line) async for line in watching.lines(300)]

    assert last["ended"] == "this worker stops"


async def test_frames_beyond_those_that_may_wait_are_counted_with_those_that_a_node_dropped(engine: Engine) -> None:
    async with Captures(engine).watch(user="alice", payload=False) as watching:
        report = CaptureReport("node-2", [Raw(b"{}")] * (FRAMES_WAITING + 1), dropped=2)
        watching.on_report(Publication(Raw(msgspec.json.encode(report))))
        watching.stop("enough")
        lines = b"".join([line async for line in watching.lines(300)]).splitlines()

    assert len(lines) == 1 + FRAMES_WAITING + 2
    assert json.loads(lines[-2]) == {"dropped": 3, "node": "node-2"}
    assert json.loads(lines[-1]) == {"ended": "enough", "frames": FRAMES_WAITING, "dropped": 3}


async def test_more_captures_than_may_be_on_at_a_time_are_refused(engine: Engine) -> None:
    captures = Captures(engine)
    async with AsyncExitStack() as stack:
        for number in range(CAPTURES_LIMIT):
            await stack.enter_async_context(captures.watch(user=f"user-{number}", payload=False))
        with pytest.raises(CaptureRefused, match=f"{CAPTURES_LIMIT} captures are on already"):
            await stack.enter_async_context(captures.watch(user="one more", payload=False))
