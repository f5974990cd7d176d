"""More than a process can deliver costs it bounded memory, and the gap is reported where it is."""

import asyncio
import time
from collections.abc import Callable
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
