"""Deliveries on their way: everyone gets what was broadcast while it was in, once and in order."""

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starling.engine.fanout import Fanout, Group
from starling.protocol.messages import Batch, Frame
from starling.telemetry.metrics import TransportStats
from tests.support.fake_receivers import FakeReceiver, RecordingTransport
from tests.support.waiting import DEADLINE


class Transport(RecordingTransport):
    """Keeps what it is sent, as a socket would: what is queued leaves with the next write or at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: list[bytes] = []
        self.written: list[bytes] = []
        self.writes = 0
        self.pause = 0.0

    def send_batch(self, batch: Batch) -> None:
        self.written += self.queued + [frame.payload for frame in batch.frames]
        self.queued = []
        self.writes += 1
        if self.pause:
            time.sleep(self.pause)

    def queue_batch(self, batch: Batch) -> None:
        self.queued += [frame.payload for frame in batch.frames]

    @property
    def got(self) -> list[bytes]:
        return self.written + self.queued


class Listener(FakeReceiver):
    """A receiver with a socket."""

    def __init__(self) -> None:
        self.socket = Transport()
        super().__init__(transport=self.socket)


def group_of(listeners: list[Listener]) -> Group:
    group = Group(TransportStats(slow_code=1013))
    for listener in listeners:
        group.add(listener)
    return group


def frame(number: int) -> Frame:
    return Frame(b"%d" % number, text=True)


STEPS = st.lists(
    st.tuples(st.sampled_from(("broadcast", "broadcast", "enter", "leave", "settle", "tick")), st.integers(0, 299)),
    max_size=80,
)


@given(steps=STEPS, slice_seconds=st.sampled_from((0.0, 1.0)), longest_wait=st.sampled_from((0.0, 1.0)))
@settings(max_examples=150, deadline=None)
def test_everyone_gets_what_was_broadcast_while_it_was_in(
    steps: list[tuple[str, int]], slice_seconds: float, longest_wait: float
) -> None:
    async def scenario() -> None:
        fanout = Fanout(slice_seconds=slice_seconds, longest_wait=longest_wait)
        listeners = [Listener() for _ in range(300)]
        # Two groups that overlap, so that some listeners are owed by both.
        groups = [group_of(listeners[:200]), group_of(listeners[100:250])]
        inside = [set(group.receivers) for group in groups]
        wanted: dict[Listener, list[list[bytes]]] = {listener: [[], []] for listener in listeners}
        for count, (step, number) in enumerate(steps):
            which, listener = number % 2, listeners[number]
            group = groups[which]
            if step == "broadcast":
                reported = frame(count * 2 + which)
                fanout.add(group, reported)
                for member in inside[which]:
                    wanted[member][which].append(reported.payload)  # type: ignore[index]
            elif step == "enter":
                group.add(listener)
                inside[which].add(listener)
            elif step == "leave":
                group.remove(listener)
                inside[which].discard(listener)
                assert [x for x in listener.socket.got if int(x) % 2 == which] == wanted[listener][which]
            elif step == "settle":
                fanout.flush(listener)
                assert sorted(listener.socket.got) == sorted([*wanted[listener][0], *wanted[listener][1]])
            else:
                await asyncio.sleep(0)
        await until_written(fanout)
        for listener, (even, odd) in wanted.items():
            got = listener.socket.got
            assert [x for x in got if int(x) % 2 == 0] == even
            assert [x for x in got if int(x) % 2 == 1] == odd
            assert listener.sent == len(got)

    asyncio.run(scenario())


async def until_written(fanout: Fanout) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if not fanout.busy:
            return
        await asyncio.sleep(0)
    pytest.fail("never written")


async def test_frames_on_each_others_heels_leave_in_one_write() -> None:
    fanout, listeners = Fanout(longest_wait=3600.0), [Listener() for _ in range(10_000)]
    group = group_of(listeners)
    for number in range(5):
        fanout.add(group, frame(number))
        await asyncio.sleep(0)
    await until_written(fanout)

    assert [listener.socket.got for listener in listeners] == [[b"0", b"1", b"2", b"3", b"4"]] * 10_000
    assert [listener.socket.writes for listener in listeners] == [1] * 10_000


async def test_frames_without_a_pause_between_them_wait_no_longer_than_they_may() -> None:
    fanout, listener = Fanout(longest_wait=0.01), Listener()
    group = group_of([listener])
    deadline = time.monotonic() + DEADLINE
    number = 0
    while not listener.socket.written and time.monotonic() < deadline:
        fanout.add(group, frame(number))
        number += 1
        await asyncio.sleep(0)

    assert listener.socket.written


async def test_where_frames_come_fast_the_next_write_waits_for_several_of_them() -> None:
    fanout, listeners = Fanout(longest_wait=0.5, write_seconds=0.01), [Listener() for _ in range(100)]
    group = group_of(listeners)
    fanout.add(group, frame(0))
    await asyncio.sleep(0)
    fanout.add(group, frame(1))
    await until_written(fanout)
    writes = listeners[0].socket.writes

    fanout.add(group, frame(2))
    for _ in range(100):
        await asyncio.sleep(0)
    fanout.add(group, frame(3))
    await until_written(fanout)

    assert [listener.socket.got for listener in listeners] == [[b"0", b"1", b"2", b"3"]] * 100
    assert listeners[0].socket.writes == writes + 1, "a hundred turns of the loop are shorter than the rest"


async def test_a_listener_that_goes_while_its_group_rests_has_all_it_is_owed() -> None:
    fanout, listeners = Fanout(longest_wait=0.5, write_seconds=0.01), [Listener() for _ in range(100)]
    group = group_of(listeners)
    fanout.add(group, frame(0))
    fanout.add(group, frame(1))
    await until_written(fanout)

    fanout.add(group, frame(2))
    for _ in range(100):
        await asyncio.sleep(0)
    assert fanout.busy
    fanout.flush(listeners[0])
    group.remove(listeners[1])

    assert listeners[0].socket.got == listeners[1].socket.got == [b"0", b"1", b"2"]
    await until_written(fanout)
    assert {tuple(listener.socket.got) for listener in listeners} == {(b"0", b"1", b"2")}


async def test_a_frame_that_comes_alone_waits_for_no_other() -> None:
    fanout, listeners = Fanout(longest_wait=3600.0), [Listener() for _ in range(100)]
    group = group_of(listeners)
    for number in range(3):
        fanout.add(group, frame(number))
        await until_written(fanout)
        await asyncio.sleep(0.05)

    assert [listener.socket.writes for listener in listeners] == [3] * 100


async def test_the_loop_serves_others_while_a_great_group_is_written() -> None:
    fanout, listeners = Fanout(), [Listener() for _ in range(2000)]
    for listener in listeners:
        listener.socket.pause = 0.0001
    group = group_of(listeners)
    fanout.add(group, frame(1))
    turns = 0
    while fanout.busy:
        await asyncio.sleep(0)
        turns += 1

    assert turns > 20, "0.2 s of writes in slices of 5 ms"
    assert all(listener.socket.got == [b"1"] for listener in listeners)
