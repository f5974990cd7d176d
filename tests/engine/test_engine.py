"""The engine of one worker, as it is built: ten lines, no FastAPI, no environment."""

import asyncio
import time
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.brokers.memory.broker import MemoryBroker
from starling.engine.broker import BrokerEvents, BrokerUnavailable, LinkState, PublishOptions
from starling.engine.channels import DEFAULT_NAMESPACE
from starling.engine.channels_document import parse_channels
from starling.engine.engine import Engine, build_engine
from starling.engine.options import EngineOptions
from starling.engine.readiness import Unready
from starling.protocol.messages import Publication
from starling.telemetry.metrics import Metrics
from tests.support.engines import memory_engine, started
from tests.support.fake_receivers import FakeReceiver
from tests.support.waiting import until


async def test_an_engine_is_built_started_and_stopped_without_fastapi_and_environment() -> None:
    engine = build_engine(MemoryBroker(), parse_channels(None, developer=True), Metrics(CollectorRegistry()))
    await engine.start()
    receiver = FakeReceiver()
    await engine.subscriptions.wait_in(receiver, "news")
    await engine.publisher.publish("news", Publication(data=Raw(b"hello")), PublishOptions())
    await until(lambda: receiver.transport.payloads == [b"hello"], "the subscriber has the publication")
    await engine.stop()


def test_nothing_in_an_engine_is_replaced_after_it_was_built() -> None:
    engine = memory_engine()

    for field in fields(Engine):
        with pytest.raises(FrozenInstanceError):
            setattr(engine, field.name, None)


async def test_two_engines_of_one_process_have_ids_of_their_own_and_name_clients_differently() -> None:
    one, other = memory_engine(), memory_engine()
    assert one.node.id == other.node.id == ""

    async with started(one), started(other):
        assert one.node.id != other.node.id
        assert one.node.names.getrandbits(64) != other.node.names.getrandbits(64)
        assert one.node.describe().uid == one.node.id


async def test_clients_are_named_from_the_systems_random_source_which_has_no_state_to_recover() -> None:
    engine = memory_engine()
    async with started(engine):
        # A generator of Python's own gives its state here, and to clients that have seen some of its numbers.
        with pytest.raises(NotImplementedError):
            engine.node.names.getstate()


async def test_every_part_reports_its_metrics_at_a_flush(engine: Engine) -> None:
    await engine.subscriptions.wait_in(FakeReceiver(), "news")

    engine.metrics.flush()

    value = engine.metrics.registry.get_sample_value
    assert value("starling_channels") == 1
    assert value("starling_worker_ready") == 1
    assert value("starling_broker_up") == 1
    assert value("starling_revocations_in_force") == 0
    assert value("starling_presence_clients") == 0
    assert value("starling_trace_spans_total", {"result": "exported"}) == 0


class LinkedBroker(MemoryBroker):
    """A broker in memory whose link the test takes up and down: the real one never goes down."""

    events: BrokerEvents

    async def start(self, events: BrokerEvents) -> None:
        self.events = events
        await super().start(events)


async def test_a_broker_that_is_away_for_longer_than_the_grace_unreadies_the_worker() -> None:
    broker = LinkedBroker()
    engine = memory_engine(options=EngineOptions(ready_requires_broker_seconds=0.01), broker=broker)
    async with started(engine):
        broker.events.on_link(LinkState.DOWN)
        await until(lambda: Unready.BROKER_UNAVAILABLE in engine.readiness.reasons, "the grace is over")

        broker.events.on_link(LinkState.UP)
        assert engine.readiness.ready


async def test_a_worker_whose_link_stays_unresponsive_retires_and_one_that_recovers_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("starling.engine.link_watch.RETIRE_SECONDS", 0.02)
    retired: list[str] = []
    lost, recovered = LinkedBroker(), LinkedBroker()
    async with (
        started(memory_engine(broker=lost, retire=lambda: retired.append("lost"))),
        started(memory_engine(broker=recovered, retire=lambda: retired.append("recovered"))),
    ):
        for broker in (recovered, lost):
            broker.events.on_link(LinkState.DOWN)
            broker.events.on_link(LinkState.UNRESPONSIVE)
        recovered.events.on_link(LinkState.UP)
        await until(lambda: retired, "the worker that stays unresponsive retires")
        # The delays are random, up to the same bound: give the other one its whole bound, too.
        await asyncio.sleep(0.05)

    assert retired == ["lost"]


async def test_the_first_contact_of_any_worker_makes_the_others_ready(tmp_path: Path) -> None:
    contact = tmp_path / "broker-contact"
    async with started(memory_engine(options=EngineOptions(contact_file=contact))):
        assert contact.exists()

    class Away(MemoryBroker):
        async def start(self, events: BrokerEvents) -> None:
            events.on_link(LinkState.DOWN)

    async with started(memory_engine(options=EngineOptions(contact_file=contact), broker=Away())) as engine:
        assert engine.readiness.ready


async def test_what_the_broker_refuses_is_counted_as_failed_and_what_it_stores_as_stored(engine: Engine) -> None:
    publication = Publication(data=Raw(b"1"))
    await engine.publisher.publish("news", publication, PublishOptions())
    outcomes = await engine.publisher.publish_all([(channel, publication, PublishOptions()) for channel in "ab"])
    assert len(outcomes) == 2
    assert engine.publisher.begin("c", publication, PublishOptions(), lambda _: None) is not None
    stored = engine.metrics.published[DEFAULT_NAMESPACE, "stored"]

    stopped = memory_engine()
    with pytest.raises(BrokerUnavailable):
        await stopped.publisher.publish("news", publication, PublishOptions())

    assert stored == 4
    assert stopped.metrics.published[DEFAULT_NAMESPACE, "failed"] == 1


@pytest.mark.parametrize("error_seconds", [-3600, 3600])
async def test_the_publishers_clock_has_no_influence_on_the_delivery_delay(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error_seconds: int
) -> None:
    receiver = FakeReceiver()
    await engine.subscriptions.wait_in(receiver, "news")
    wrong = time.time() + error_seconds
    with monkeypatch.context() as patched:
        patched.setattr("time.time", lambda: wrong)
        await engine.publisher.publish("news", Publication(data=Raw(b"1")), PublishOptions())
    # The clock flushes the distribution once a second.
    await until(lambda: receiver.transport.payloads == [b"1"], "the subscriber has the publication")
    engine.metrics.flush()

    value = engine.metrics.registry.get_sample_value
    assert value("starling_delivery_seconds_count") == 1
    seconds = value("starling_delivery_seconds_sum")
    assert seconds is not None
    assert 0 < seconds < 60
