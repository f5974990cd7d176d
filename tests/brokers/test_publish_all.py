"""The same publication into many channels: every one its own outcome, one round trip for all."""

import pytest
import redis as redis_client
from msgspec import Raw

from starling.brokers.open import open_broker
from starling.engine.broker import BrokerUnavailable, PublicationTooLarge, PublishOptions, StreamPosition
from starling.protocol.messages import Publication
from tests.brokers.conftest import Opener
from tests.brokers.party import LIVE, Party
from tests.support.proxy import Proxy
from tests.support.services import RedisServer
from tests.support.waiting import StepClock, until

KEPT = PublishOptions(history_size=10, history_ttl=60, history_meta_ttl=60)
NEWS = Publication(Raw(b'{"text":"news"}'))


async def test_every_channel_receives_it_and_none_has_a_position_without_history(pair: tuple[Party, Party]) -> None:
    here, there = pair
    for number in range(20):
        await here.broker.subscribe(f"room:{number}")

    outcomes = await there.broker.publish_all([(f"room:{number}", NEWS, LIVE) for number in range(20)])

    assert outcomes == [StreamPosition(0, "")] * 20
    await until(lambda: len(here.entries) == 20, "all arrive")
    assert {bytes(entry.publication.data) for _, entry in here.entries} == {b'{"text":"news"}'}


async def test_each_channel_with_history_gives_its_own_position(opener: Opener, store_url: str) -> None:
    party = await opener(store_url)
    await party.broker.publish("b", NEWS, KEPT)

    first, second, live = await party.broker.publish_all([("a", NEWS, KEPT), ("b", NEWS, KEPT), ("c", NEWS, LIVE)])

    assert isinstance(first, StreamPosition)
    assert isinstance(second, StreamPosition)
    assert (first.offset, second.offset, live) == (1, 2, StreamPosition(0, ""))
    assert first.epoch != second.epoch
    assert party.broker.history is not None
    read = await party.broker.history.read("b", meta_ttl=60)
    assert [(entry.offset, bytes(entry.publication.data)) for entry in read.entries] == [
        (1, b'{"text":"news"}'),
        (2, b'{"text":"news"}'),
    ]


@pytest.mark.parametrize("options", [LIVE, KEPT])
async def test_a_key_seen_before_publishes_nothing_and_answers_the_first_position(
    options: PublishOptions, opener: Opener, store_url: str
) -> None:
    party = await opener(store_url)
    once = PublishOptions(options.history_size, options.history_ttl, options.history_meta_ttl, "k1")
    for channel in ("a", "b"):
        await party.broker.subscribe(channel)

    first = await party.broker.publish_all([("a", NEWS, once), ("b", NEWS, once)])
    again = await party.broker.publish_all([("b", NEWS, once), ("a", NEWS, once)])
    await party.publish("a", b'"last"')

    assert again == list(reversed(first))
    await until(lambda: party.received("a") == [b'{"text":"news"}', b'"last"'], "only the first and the last")
    assert party.received("b") == [b'{"text":"news"}']


async def test_scripts_that_redis_forgot_are_loaded_again(opener: Opener, redis_server: RedisServer) -> None:
    party = await opener(redis_server.url)
    with redis_client.Redis.from_url(redis_server.url) as plain:
        plain.script_flush()

    outcomes = await party.broker.publish_all([("a", NEWS, KEPT), ("b", NEWS, KEPT)])

    assert [isinstance(outcome, StreamPosition) and outcome.offset for outcome in outcomes] == [1, 1]


async def test_a_broker_that_is_away_fails_every_channel_in_bounded_time(
    opener: Opener, redis_server: RedisServer
) -> None:
    party = await opener(redis_server.url, timeout=0.5)
    redis_server.freeze()

    with StepClock() as clock:
        outcomes = await party.broker.publish_all([(f"room:{number}", NEWS, KEPT) for number in range(10)])

    assert all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
    assert clock.seconds < 4


@pytest.mark.processes
async def test_one_that_is_too_large_does_not_keep_the_others_from_theirs(
    opener: Opener, request: pytest.FixtureRequest
) -> None:
    party = await opener(request.getfixturevalue("postgres_server").url)
    long_name = "x" * 255
    text = b'"' + b"x" * 5950 + b'"'

    large = Publication(Raw(text))
    short, long = await party.broker.publish_all([("a", large, LIVE), (long_name, large, LIVE)])

    assert short == StreamPosition(0, "")
    assert isinstance(long, PublicationTooLarge)


@pytest.mark.parametrize("options", [LIVE, KEPT])
async def test_a_hundred_channels_take_one_round_trip(options: PublishOptions, redis_server: RedisServer) -> None:
    async with Proxy(redis_server.port) as road:
        party = Party(open_broker(road.url, timeout=10))
        await party.broker.start(party)
        await until(lambda: party.up, "the link comes up")
        await party.broker.publish_all([("warm:up", NEWS, options)])

        before = road.questions
        outcomes = await party.broker.publish_all([(f"room:{number}", NEWS, options) for number in range(100)])
        trips = road.questions - before
        await party.broker.stop()

    assert all(isinstance(outcome, StreamPosition) for outcome in outcomes)
    # Redis may answer the first before the last are written, and canaries go the same way.
    assert 1 <= trips < 20
