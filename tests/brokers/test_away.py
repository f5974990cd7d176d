"""Brokers whose server is not there, or gives answers that it never should: each call fails, in bounded time."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw
from redis.exceptions import ResponseError

from starling.brokers.broadcast import BroadcastBroker
from starling.brokers.link import LinkStats
from starling.brokers.redis.broker import RedisBroker
from starling.brokers.redis.calls import RedisNames
from starling.engine.append_store import Append, Closing, Opening, StreamKind, StreamStatus
from starling.engine.broker import BrokerRefused, BrokerUnavailable, PublishOptions, PublishOutcome
from starling.engine.revocation import Revocation
from starling.engine.stream_chunks import text_chunk
from starling.protocol.messages import ClientInfo, Publication
from tests.brokers.conftest import Opener
from tests.brokers.party import LIVE, Party
from tests.support.services import free_port
from tests.support.waiting import until

ANN = ClientInfo("ann", "c1")
KEPT = PublishOptions(history_size=10, history_ttl=60.0)
ONCE = PublishOptions(idempotency_key="key")


@pytest.fixture(params=["redis", "redis+cluster", "redis+sentinel", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
async def away(kind: str, opener: Opener) -> Party:
    path = {"redis+sentinel": "/main", "postgresql": "/postgres"}.get(kind, "")
    # Another prefix, because the user of tests is for a Redis that is there.
    return await opener(f"{kind}://127.0.0.1:{free_port()}{path}", up=False, timeout=0.05, prefix="away")


async def test_a_server_that_is_not_there_is_reported_and_nothing_is_published_or_subscribed(away: Party) -> None:
    await until(lambda: away.down, "the loss is reported")
    outcomes: list[PublishOutcome | None] = []
    for options in (LIVE, KEPT, ONCE) if away.broker.history is not None else (LIVE,):
        publication = Publication(Raw(b"1"))
        with pytest.raises(BrokerUnavailable):
            await away.broker.publish("room", publication, options)
        outcomes.append(away.broker.begin_publish("room", publication, options, outcomes.append))
        together = await away.broker.publish_all([(channel, publication, options) for channel in ("a", "b")])
        assert [type(outcome) for outcome in together] == [BrokerUnavailable] * 2
        await until(lambda: [each for each in outcomes if each], "the outcome is reported")
    assert {type(outcome) for outcome in outcomes if outcome} == {BrokerUnavailable}
    for announce in (away.broker.publish_join, away.broker.publish_leave):
        with pytest.raises(BrokerUnavailable):
            await announce("room", ANN)
    with pytest.raises(BrokerUnavailable, match="made good"):
        await away.broker.subscribe("room")
    await away.broker.unsubscribe("room")
    assert not away.broker.stats.up


def calls(broker: BroadcastBroker) -> list[Callable[[], Awaitable[object]]]:
    """A call of each kind that the stores of a broker take."""
    history, streams, presence = broker.history, broker.append_streams, broker.presence
    revocations, tickets, occupancy = broker.revocations, broker.tickets, broker.occupancy
    assert history is not None
    assert streams is not None
    assert presence is not None
    assert revocations is not None
    assert tickets is not None
    assert occupancy is not None
    append = Append(StreamKind.TEXT, text_chunk("x"), Closing(StreamStatus.COMPLETE), None, 1000, watched=False)
    return [
        lambda: history.read("room", meta_ttl=60.0),
        lambda: history.positions({"room": 60.0}),
        lambda: history.remove("room"),
        lambda: streams.append("room", append),
        lambda: streams.open("room", Opening(StreamKind.TEXT, 60.0)),
        lambda: streams.interrupt("room", 1.0),
        lambda: streams.due(10),
        lambda: streams.plan("room", 1.0),
        lambda: streams.open_channels(10),
        lambda: streams.info("room"),
        lambda: streams.delete("room"),
        lambda: presence.add("room", ANN),
        lambda: presence.get("room"),
        lambda: presence.stats("room"),
        lambda: presence.enter("room", ANN, 5),
        lambda: presence.refresh({"room": [ANN]}),
        lambda: presence.remove({"room": [ANN]}),
        lambda: presence.end("room", ANN, None),
        lambda: presence.put("room", ANN, 60.0),
        lambda: revocations.add([Revocation("token", "t", 1.0)]),
        lambda: revocations.version(),
        lambda: revocations.load(),
        lambda: revocations.writable(),
        lambda: tickets.keep("digest", b"", 60.0),
        lambda: tickets.spend("digest"),
        lambda: tickets.signing_key(),
        lambda: occupancy.change("holder", 1, enter=["room"]),
    ]


@pytest.mark.parametrize("kind", ["redis", "redis+cluster"], indirect=True)
async def test_no_store_of_a_server_that_is_not_there_gives_an_answer(away: Party) -> None:
    outcomes = await asyncio.gather(*(call() for call in calls(away.broker)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable] * len(outcomes)


def answering(answer: object) -> BroadcastBroker:
    """A broker whose Redis answers everything so: a fake, because no Redis can be made to answer so."""

    async def execute(*_: object, **__: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    connection = SimpleNamespace(execute=execute, post=None)
    backend: Any = SimpleNamespace(
        calls=connection, reads=connection, queries=connection, names=RedisNames("starling"), stats=LinkStats()
    )
    return RedisBroker(backend)


@pytest.mark.parametrize("error", ["OOM command not allowed when used memory > 'maxmemory'.", "NOPERM no permissions"])
async def test_what_redis_refuses_is_refused_in_its_words_by_every_store(error: str) -> None:
    outcomes = await asyncio.gather(
        *(call() for call in calls(answering(ResponseError(error)))), return_exceptions=True
    )
    # A store that takes nothing says so where it is asked.
    assert outcomes.count(False) == 1
    outcomes.remove(False)
    assert [str(outcome) for outcome in outcomes] == [f"Redis refused: {error}"] * len(outcomes)
    assert {type(outcome) for outcome in outcomes} == {BrokerRefused}


async def test_a_script_that_answers_in_another_form_than_it_should_has_not_answered() -> None:
    outcomes = await asyncio.gather(*(call() for call in calls(answering(None))), return_exceptions=True)
    words = [str(outcome) for outcome in outcomes if isinstance(outcome, BrokerUnavailable)]
    assert Counter(each.rpartition(" answered in another form")[0] for each in words) == {
        "the read script": 2,
        "a script of streams": 6,
        "a presence script": 6,
        # Nobody can have deleted the key of tickets between its making and its reading.
        "": 1,
    }
