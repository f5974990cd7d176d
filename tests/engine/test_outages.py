"""What the parts of a node do while its broker is away; it is the one in memory, which is away when a test says so."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from msgspec import Raw

from starling.brokers.memory.broker import MemoryBroker
from starling.engine import capture, link_watch, occupancy, revocation
from starling.engine.broker import BrokerUnavailable, LinkState, StreamPosition
from starling.engine.capture import Captures
from starling.engine.channels import ChannelOptions
from starling.engine.engine import Engine
from starling.engine.link_watch import LinkWatch
from starling.engine.occupancy import OccupancyChange, OccupiedChannels
from starling.engine.readiness import Readiness
from starling.engine.receiver import TokenFacts
from starling.engine.revocation import Revocation
from starling.engine.tasks import Tasks
from starling.protocol.codes import CommandRefused
from starling.protocol.commands import HistoryRequest
from starling.protocol.messages import ClientInfo, Publication
from tests.support.engines import memory_engine, started
from tests.support.fake_receivers import FakeReceiver
from tests.support.local_server import LocalServer
from tests.support.waiting import until

SHOWN = ChannelOptions(presence=True, join_leave=True)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def engine(broker: MemoryBroker) -> AsyncIterator[Engine]:
    async with started(memory_engine(broker=broker)) as engine:
        yield engine


class Streams:
    """Positions that can be checked once the broker has not answered `away` times."""

    def __init__(self, away: int) -> None:
        self.away = away
        self.checked = 0

    async def check(self, *, in_flight: float) -> None:
        self.checked += 1
        if self.checked <= self.away:
            raise BrokerUnavailable("away")


def watch(streams: Streams, tasks: Tasks) -> LinkWatch:
    async def refresh() -> None: ...

    others: Any = SimpleNamespace(catch_up=lambda: None, refresh=refresh)
    positions: Any = streams
    return LinkWatch(Readiness(), positions, others, others, tasks, grace=60, contact_file=None, retire=lambda: None)


async def test_positions_that_cannot_be_checked_now_are_checked_the_next_time() -> None:
    streams, tasks = Streams(away=1), Tasks()
    with structlog.testing.capture_logs() as logs:
        await watch(streams, tasks).check_positions()
        await watch(streams, tasks).check_positions()
    assert [line["event"] for line in logs] == ["positions_not_checked"]


@pytest.mark.parametrize(("away", "checked", "lines"), [(2, 3, 0), (100, 3, 1)])
async def test_a_link_that_returns_before_its_server_answers_has_its_positions_checked_again_and_again(
    monkeypatch: pytest.MonkeyPatch, away: int, checked: int, lines: int
) -> None:
    monkeypatch.setattr(link_watch, "CATCH_UP_PAUSES", (0.001, 0.001, 0.001))
    streams, tasks = Streams(away), Tasks()
    watching = watch(streams, tasks)
    with structlog.testing.capture_logs() as logs:
        watching.on_link(LinkState.DOWN)
        watching.on_link(LinkState.UP)
        await tasks.stop()
    assert streams.checked == checked
    assert [line["event"] for line in logs].count("positions_not_checked") == lines


async def test_a_capture_goes_on_when_the_broker_is_back_and_counts_the_frames_that_it_lost(
    broker: MemoryBroker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_RENEW_SECONDS", 0.01)
    monkeypatch.setattr(capture, "_KEEP_ALIVE_SECONDS", 0.0)
    monkeypatch.setattr(capture, "_LOOK_SECONDS", 0.01)
    receiver = FakeReceiver("bob")
    engine.hub.subscribers.add("news", receiver)
    async with Captures(engine).watch(channel="news", payload=False) as watching:
        lines = watching.lines(60)
        assert "capture" in json.loads(await anext(lines))
        assert await anext(lines) == b"\n"
        broker.lose()
        with structlog.testing.capture_logs():
            engine.hub.subscribers.remove("news", receiver)
            assert engine.hub.frame_tap is not None
            engine.hub.frame_tap.closed(receiver, 3000, "")
            await asyncio.sleep(0.05)
        broker.restore()
        watching.stop("enough")
        last = [json.loads(line) async for line in lines if line != b"\n"][-1]
    assert last["ended"] == "enough"


async def test_the_leave_of_an_agent_that_cannot_be_published_is_logged(broker: MemoryBroker, engine: Engine) -> None:
    await engine.presence.agents.set("room", "bot", Raw(b"1"), 0.05, SHOWN)
    with structlog.testing.capture_logs() as logs:
        broker.lose()
        await until(lambda: "agent_leave_not_published" in {line["event"] for line in logs}, "it is over")


async def test_another_info_of_a_client_is_shown_when_the_broker_is_back(broker: MemoryBroker, engine: Engine) -> None:
    await engine.presence.arrive("room", ClientInfo("ann", "c1", Raw(b"1")), SHOWN)
    await engine.presence.update("room", ClientInfo("nobody", "c2", Raw(b"2")))
    broker.lose()
    await engine.presence.update("room", ClientInfo("ann", "c1", Raw(b"2")))
    broker.restore()
    await engine.presence.refresh()
    members = await engine.presence.members("room", SHOWN)
    assert {client: bytes(info.conn_info) for client, info in members.items()} == {"c1": b"2"}


class StuckOccupancy:
    """A store that never answers."""

    ttl = 60.0

    async def change(self, holder: str, number: int, **_: object) -> OccupancyChange | None:
        await asyncio.Event().wait()
        return None


async def test_a_process_that_ends_leaves_its_channels_behind_where_the_store_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(occupancy, "_CLOSE_SECONDS", 0.01)
    channels = OccupiedChannels(StuckOccupancy(), on_occupied=lambda *_: None, on_vacated=lambda *_: None)
    channels.enter("room")
    with structlog.testing.capture_logs() as logs:
        await channels.close()
    assert [line["event"] for line in logs] == ["occupancy_left_behind"]


async def test_a_channel_whose_position_cannot_be_read_is_entered_by_nobody_and_left_by_this_process(
    broker: MemoryBroker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> object:
        raise BrokerUnavailable("away")

    options = ChannelOptions.model_validate({"history_size": 10, "history_ttl": "60s", "force_positioning": True})
    with monkeypatch.context() as patched:
        patched.setattr(broker.history, "read", fail)
        with pytest.raises(BrokerUnavailable):
            async with engine.stream_readers.open("kept", options):
                raise AssertionError("it has been entered")
    assert not engine.subscriptions.recalls("kept", StreamPosition(0, ""))
    async with engine.stream_readers.open("kept", options) as reader:
        assert reader.answered.is_set()


async def test_a_broker_that_keeps_nothing_refuses_what_would_need_it() -> None:
    kept = ChannelOptions.model_validate({"history_size": 10, "history_ttl": "60s", "presence": True})
    async with started(memory_engine(broker=LocalServer().broker())) as engine:
        for call in (
            engine.history.read("room", kept, HistoryRequest("room", 10), None, 1000),
            engine.history.remove("room", kept),
            engine.presence.members("room", kept),
            engine.presence.count("room", kept),
            engine.presence.agents.set("room", "bot", Raw(b""), 60, kept),
        ):
            with pytest.raises(CommandRefused) as refused:
                await call
            assert refused.value.reason.code == 108
        with pytest.raises(ValueError, match="keeps no history"):
            await engine.publisher.publish("room", Publication(Raw(b"1")), kept.publish_options())


async def test_a_revocation_that_cannot_be_sent_to_others_is_learnt_by_them_from_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(revocation, "OFFER_SECONDS", 0.05)
    monkeypatch.setattr(revocation, "RETRY_SECONDS", 0.05)
    server = LocalServer()
    one, other = [memory_engine(broker=server.broker()) for _ in range(2)]
    later = time.time() + 60
    async with started(one), started(other):
        await until(lambda: len(one.control.nodes()) == 2 and other.revocations.loaded, "they know each other")
        server.full = True
        assert not await one.revocations.revoke(Revocation("token", "t1", later))
        await until(lambda: other.revocations.unstored == 1, "the other keeps it too")
        with structlog.testing.capture_logs() as logs:
            server.away = True
            one.control.on_publication(
                Publication(Raw(b'{"sender":"x","command":"unstored_revocations_command","content":{}}'))
            )
            await until(lambda: "revocations_not_sent" in {line["event"] for line in logs}, "it is not sent")
            server.start()
            server.full = False
        await until(lambda: not one.revocations.unstored and not other.revocations.unstored, "the store has it")
    assert other.revocations.refuses(TokenFacts("alice", "t1"))
