"""More than a process can deliver costs it bounded memory, and the gap is reported where it is."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import structlog
import uvloop
from msgspec import Raw

from starling.brokers.broadcast import BroadcastBroker, EventQueue, LinkEvent, MessageEvent
from starling.brokers.memory.broker import MemoryBackend
from starling.brokers.open import open_broker
from starling.brokers.outbox import Outbox
from starling.brokers.redis.address import parse_address
from starling.brokers.redis.backend import RedisBackend
from starling.engine.broker import BrokerUnavailable, LinkState, StreamEntry
from starling.protocol.messages import Publication
from tests.brokers.conftest import Opener
from tests.brokers.party import LIVE, Party
from tests.support.services import RedisServer
from tests.support.virtual_time import run_in_virtual_time
from tests.support.waiting import until

MANY = 2000


async def test_a_full_queue_is_a_gap_reported_in_its_place(redis_server: RedisServer, opener: Opener) -> None:
    backend = RedisBackend(parse_address(redis_server.url), prefix="starling", timeout=2, max_events=50)
    here, there = Party(BroadcastBroker(backend)), await opener(redis_server.url)
    with structlog.testing.capture_logs() as logs:
        await here.broker.start(here)
        await until(lambda: here.up, "the link comes up")
        await here.broker.subscribe("room")
        await asyncio.gather(*(there.publish("room", b"%d" % number) for number in range(MANY)))
        await there.publish("room", b'"end"')
        await until(lambda: b'"end"' in here.received("room"), "the last message arrives")
    received = [int(data) for data in here.received("room")[:-1]]
    dropped = here.broker.stats.dropped["queue_full"]
    await here.broker.stop()
    assert dropped > 0
    assert len(received) + dropped == MANY
    assert received == sorted(received)
    # Between two neighbours of which the second is not the next, and only there, the link is reported down and up.
    position, gaps = 0, 0
    for state in here.reported[here.reported.index("publication") :]:
        if state == "down":
            gaps += 1
            assert position == len(received) or received[position] != received[position - 1] + 1
        elif state == "publication":
            position += 1
    holes = sum(1 for one, after in pairwise(received) if after != one + 1)
    holes += received[-1] != MANY - 1
    assert gaps == holes
    assert here.links[-1] is LinkState.UP
    names = [line["event"] for line in logs]
    assert names.count("broker_queue_full") == gaps == names.count("broker_queue_has_room")
    assert here.broker.stats.reconnects == 0


async def test_memory_refuses_what_it_cannot_queue_and_loses_nothing_it_took() -> None:
    here = Party(BroadcastBroker(MemoryBackend(max_events=10)))
    await here.broker.start(here)
    await here.broker.subscribe("room")
    outcomes = await asyncio.gather(
        *(here.broker.publish("room", Publication(Raw(b"%d" % number)), LIVE) for number in range(30)),
        return_exceptions=True,
    )
    taken = [b"%d" % number for number, outcome in enumerate(outcomes) if not isinstance(outcome, Exception)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, BrokerUnavailable)]
    assert refused
    assert len(taken) + len(refused) == 30
    await until(lambda: len(here.received("room")) == len(taken), "what was taken arrives")
    assert here.received("room") == taken
    await here.broker.stop()


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_burst_leaves_the_event_loop_to_others_in_between(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    class Busy(Party):
        def on_publication(self, channel: str, entry: StreamEntry, received_at: float) -> None:
            time.sleep(0.001)
            super().on_publication(channel, entry, received_at)

    async def burst() -> int:
        here = Busy(open_broker("memory://"))
        await here.broker.start(here)
        await here.broker.subscribe("room")
        await asyncio.gather(*(here.publish("room", b"1") for _ in range(200)))
        turns = 0
        while len(here.entries) < 200:
            await asyncio.sleep(0)
            turns += 1
        await here.broker.stop()
        return turns

    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(burst()) > 5


async def test_a_queue_is_bounded_in_bytes_and_takes_again_when_half_empty() -> None:
    queue = EventQueue(max_events=100, max_bytes=10_000)
    message = MessageEvent("room", b"x" * 800)
    taken = 0
    while queue.offer(message):
        taken += 1
    assert taken == 10
    await queue.take()
    assert not queue.offer(message), "room for one is not yet room"
    for _ in range(5):
        await queue.take()
    assert queue.offer(message)


async def test_a_change_of_the_link_always_has_room() -> None:
    queue = EventQueue(max_events=1, max_bytes=1000)
    assert queue.offer(MessageEvent("room", b""))
    assert not queue.offer(MessageEvent("room", b""))
    queue.put(LinkEvent(LinkState.DOWN))
    await queue.take()
    event = await queue.take()
    assert isinstance(event, LinkEvent)
    assert event.state is LinkState.DOWN


async def test_what_waits_to_be_sent_is_bounded_in_number_and_bytes() -> None:
    under_way, release = asyncio.Event(), asyncio.Event()

    async def transmit(batch: list[int]) -> list[int]:
        under_way.set()
        await release.wait()
        return batch

    outbox: Outbox[int, int] = Outbox(transmit, timeout=5, max_waiting=3, max_waiting_bytes=1000, max_batch=1)
    outbox.start()
    sending = [asyncio.ensure_future(outbox.send(0, 10))]
    await under_way.wait()
    sending += [asyncio.ensure_future(outbox.send(number, 400)) for number in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(BrokerUnavailable, match="2 calls to the broker wait already"):
        await outbox.send(9, 400)
    sending.append(asyncio.ensure_future(outbox.send(3, 10)))
    await asyncio.sleep(0)
    with pytest.raises(BrokerUnavailable, match="3 calls to the broker wait already"):
        await outbox.send(9, 1)
    release.set()
    assert await asyncio.gather(*sending) == [0, 1, 2, 3]
    await outbox.stop()


async def test_what_nobody_waits_for_any_more_is_not_sent_late() -> None:
    sent: list[int] = []
    release = asyncio.Event()

    async def transmit(batch: list[int]) -> list[int]:
        sent.extend(batch)
        await release.wait()
        return batch

    outbox: Outbox[int, int] = Outbox(transmit, timeout=5)
    outbox.start()
    first = asyncio.ensure_future(outbox.send(1, 1))
    await until(lambda: sent, "the first is under way")
    second, third = asyncio.ensure_future(outbox.send(2, 1)), asyncio.ensure_future(outbox.send(3, 1))
    await asyncio.sleep(0)
    second.cancel()
    release.set()
    assert (await first, await third) == (1, 3)
    assert sent == [1, 3]
    await outbox.stop()


async def test_a_failing_batch_fails_its_items_and_the_next_goes_on() -> None:
    async def transmit(batch: list[str]) -> list[str | Exception]:
        if "poison" in batch:
            raise RuntimeError("a mistake in here")
        return [KeyError("refused") if item == "refused" else item.upper() for item in batch]

    outbox: Outbox[str, str] = Outbox(transmit, timeout=5, max_batch=2)
    outbox.start()
    with structlog.testing.capture_logs() as logs:
        outcomes = await asyncio.gather(
            *(outbox.send(item, 1) for item in ("a", "poison", "refused", "b")), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable, BrokerUnavailable, KeyError, str]
    assert outcomes[3] == "B"
    assert [line["event"] for line in logs] == ["broker_outbox_failed"]
    await outbox.stop()


class _Line:
    """A connection that answers when the test does; while it is not open, batches are handed over."""

    def __init__(self) -> None:
        self.open = True
        self.begun: list[list[str]] = []
        self.handed_over: list[list[str]] = []
        self.abandoned = 0
        self.done: Callable[[Sequence[str] | BrokerUnavailable], None] = lambda answers: None

    def begin(self, batch: Sequence[str], done: Callable[[Sequence[str] | BrokerUnavailable], None]) -> bool:
        if not self.open:
            return False
        if "poison" in batch:
            raise RuntimeError("a mistake in here")
        self.begun.append([*batch])
        self.done = done
        return True

    def abandon(self) -> None:
        self.abandoned += 1
        self.open = False

    async def transmit(self, batch: list[str]) -> list[str]:
        self.handed_over.append(batch)
        return [item.upper() for item in batch]

    def answer(self) -> None:
        """Answer the last batch that was begun."""
        self.done([item.upper() for item in self.begun[-1]])


async def test_a_lone_item_goes_out_as_it_comes_and_many_still_go_together() -> None:
    line, answers = _Line(), list[str | Exception]()
    outbox: Outbox[str, str] = Outbox(line.transmit, timeout=5, at_once=line)
    outbox.start()

    def go_on(answer: str | Exception) -> None:
        outbox.post(f"after {answer}", 1, answers.append)

    outbox.post("a", 1, answers.append)
    assert line.begun == [["a"]], "before the next tick"
    for item in "bcd":
        outbox.post(item, 1, go_on)
    line.answer()
    assert line.begun[1:] == [["b", "c", "d"]], "what waited, as soon as the answer is there"
    line.answer()
    assert line.begun[2:] == [["after B", "after C", "after D"]], "what the ends of calls have posted"
    line.answer()

    for item in "ef":
        outbox.post(item, 1, answers.append)
    assert line.begun[3:] == [], "the last batch had company"
    await asyncio.sleep(0)
    assert line.begun[3:] == [["e", "f"]]
    line.answer()
    assert answers == ["A", "AFTER B", "AFTER C", "AFTER D", "E", "F"]
    assert line.handed_over == []
    await outbox.stop()


async def test_a_batch_without_answer_is_given_up_with_its_connection_and_the_next_goes_on() -> None:
    line = _Line()
    outbox: Outbox[str, str] = Outbox(line.transmit, timeout=0.05, at_once=line)
    outbox.start()

    async with asyncio.timeout(5):
        with pytest.raises(BrokerUnavailable, match=r"did not answer within 0\.05 s"):
            await outbox.send("a", 1)
        await until(lambda: line.abandoned, "the connection is given up")
        assert await outbox.send("b", 1) == "B"
    assert (line.begun, line.handed_over, line.abandoned) == ([["a"]], [["b"]], 1)
    await outbox.stop()


async def test_a_batch_whose_callers_are_gone_is_given_up_too() -> None:
    line = _Line()
    outbox: Outbox[str, str] = Outbox(line.transmit, timeout=0.05, at_once=line)
    outbox.start()
    gone = asyncio.ensure_future(outbox.send("a", 1))
    await asyncio.sleep(0)
    gone.cancel()

    await until(lambda: line.abandoned, "the connection is given up")
    assert await outbox.send("b", 1) == "B"
    await outbox.stop()


async def test_a_lost_connection_a_mistake_and_the_end_fail_what_is_under_way_and_what_waits() -> None:
    line, answers = _Line(), list[str | Exception]()
    outbox: Outbox[str, str] = Outbox(line.transmit, timeout=5, at_once=line)
    outbox.start()

    outbox.post("a", 1, answers.append)
    outbox.post("b", 1, answers.append)
    line.done(BrokerUnavailable("the line is cut"))
    line.answer()
    with structlog.testing.capture_logs() as logs:
        outbox.post("poison", 1, answers.append)
        assert answers[2:] == [], "reported later"
        await until(lambda: len(answers) == 3, "the mistake is reported")
    outbox.post("c", 1, answers.append)
    outbox.post("d", 1, answers.append)
    await outbox.stop()

    assert [str(answer) for answer in answers] == [
        "the line is cut",
        "B",
        "RuntimeError while sending",
        "this process closes its broker connections",
        "this process closes its broker connections",
    ]
    assert [line["event"] for line in logs] == ["broker_outbox_failed"]
    assert line.abandoned == 1
    with pytest.raises(BrokerUnavailable, match="not started"):
        outbox.post("e", 1, answers.append)


async def test_what_is_handed_over_as_sending_ends_fails_as_what_waits() -> None:
    line, answers = _Line(), list[str | Exception]()
    line.open = False
    outbox: Outbox[str, str] = Outbox(line.transmit, timeout=5, at_once=line)
    outbox.start()
    outbox.post("a", 1, answers.append)
    await outbox.stop()
    assert [str(answer) for answer in answers] == ["this process closes its broker connections"]
    assert line.handed_over == []


def test_what_a_server_does_not_answer_in_time_has_failed_and_what_waited_behind_it_is_not_sent_late() -> None:
    sent: list[str] = []

    async def transmit(batch: list[str]) -> list[str]:
        sent.extend(batch)
        await asyncio.Event().wait()
        raise AssertionError

    async def test() -> None:
        outbox: Outbox[str, str] = Outbox(transmit, timeout=2, max_batch=1)
        outbox.start()
        outcomes = await asyncio.gather(*(outbox.send(item, 1) for item in ("a", "b")), return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["the broker did not answer within 2 s"] * 2
        assert asyncio.get_running_loop().time() == pytest.approx(2, abs=0.1)
        await outbox.stop()

    run_in_virtual_time(test())
    assert sent == ["a"]


def test_the_time_of_each_is_counted_from_its_own_begin() -> None:
    async def transmit(batch: list[str]) -> list[str]:
        await asyncio.sleep(1.5)
        return batch

    async def test() -> None:
        outbox: Outbox[str, str] = Outbox(transmit, timeout=2, max_batch=1)
        outbox.start()
        first = asyncio.ensure_future(outbox.send("a", 1))
        await asyncio.sleep(1.2)
        late = [asyncio.ensure_future(outbox.send(item, 1)) for item in ("b", "c")]
        assert await first == "a"
        outcomes = await asyncio.gather(*late, return_exceptions=True)
        # The first was answered after 1.5 s, the second 2 s after its begin; the third would have come at 4.5 s.
        assert [str(outcome) for outcome in outcomes] == ["b", "the broker did not answer within 2 s"]
        await outbox.stop()

    run_in_virtual_time(test())


async def test_an_answer_that_its_caller_cannot_take_harms_no_other() -> None:
    async def transmit(batch: list[str]) -> list[str]:
        return batch

    def fail(_: object) -> None:
        raise RuntimeError("a mistake of the caller's")

    outbox: Outbox[str, str] = Outbox(transmit, timeout=5)
    outbox.start()
    with structlog.testing.capture_logs() as logs:
        outbox.post("a", 1, fail)
        assert await outbox.send("b", 1) == "b"
    assert [line["event"] for line in logs] == ["broker_answer_failed"]
    await outbox.stop()


async def test_what_waits_when_the_outbox_stops_has_failed_and_later_it_takes_nothing() -> None:
    async def transmit(batch: list[str]) -> list[str]:
        await asyncio.Event().wait()
        return batch

    outbox: Outbox[str, str] = Outbox(transmit, timeout=60, max_batch=1)
    outbox.start()
    sending = [asyncio.ensure_future(outbox.send(item, 1)) for item in ("a", "b")]
    await asyncio.sleep(0.01)
    await outbox.stop()
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["this process closes its broker connections"] * 2
    with pytest.raises(BrokerUnavailable, match="not started"):
        await outbox.send("c", 1)
    await outbox.stop()
