"""The same publication into many channels: every one its own outcome, one round trip for all."""

import asyncio
from dataclasses import replace
from typing import cast

import pytest
import redis as redis_client
from msgspec import Raw

from starling.brokers.open import open_broker
from starling.brokers.redis.broker import RedisBroker
from starling.brokers.redis.calls import RedisCalls, RedisNames
from starling.brokers.redis.publish_many import PublishMany
from starling.engine.broker import (
    BrokerRefused,
    BrokerUnavailable,
    PublicationTooLarge,
    PublishOptions,
    PublishOutcome,
    SamePublication,
    StreamPosition,
)
from starling.protocol.messages import Publication
from starling.telemetry.tracing import TraceContext
from tests.brokers.conftest import Opener
from tests.brokers.party import LIVE, Party
from tests.support.redis_cluster import RedisCluster
from tests.support.services import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import StepClock, until

KEPT = PublishOptions(history_size=10, history_ttl=60, history_meta_ttl=60)
TRACE = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "")
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


async def test_outcomes_stand_in_the_order_of_channels_with_and_without_history(opener: Opener, store_url: str) -> None:
    party = await opener(store_url)
    for _ in range(2):
        await party.broker.publish("kept:2", NEWS, KEPT)
    channels = ["live:1", "live:2", "live:3", "kept:1", "kept:2", "live:4", "live:5", "kept:3"]

    outcomes = await party.broker.publish_all(
        [(channel, NEWS, KEPT if channel.startswith("kept") else LIVE) for channel in channels]
    )

    assert [outcome.offset for outcome in outcomes if isinstance(outcome, StreamPosition)] == [0, 0, 0, 1, 3, 0, 0, 1]


async def test_channels_that_share_a_publication_have_entries_of_their_own(opener: Opener, store_url: str) -> None:
    party = await opener(store_url)
    small = PublishOptions(history_size=3, history_ttl=60, history_meta_ttl=60)
    other = Publication(Raw(b'{"text":"other"}'), tags={"kind": "alert"})
    await party.broker.publish("b", NEWS, small)
    await party.broker.publish_all([("a", other, small), ("b", other, small), ("b", NEWS, small)])
    await party.broker.publish("b", NEWS, small)
    await party.broker.publish_all([("a", NEWS, small), ("b", other, small)])

    history = party.broker.history
    assert history is not None
    for _ in range(2):
        page = await history.read("b", meta_ttl=60, before=5)
        assert [(entry.previous, entry.offset, entry.publication.tags) for entry in page.entries] == [
            (2, 3, None),
            (3, 4, None),
        ]
        whole = await history.read("b", meta_ttl=60)
        assert (whole.bottom, whole.top.offset) == (2, 5)
        assert [(entry.previous, entry.offset, entry.publication.tags) for entry in whole.entries] == [
            (2, 3, None),
            (3, 4, None),
            (4, 5, {"kind": "alert"}),
        ]
        assert {entry.epoch for entry in whole.entries} == {whole.top.epoch}
        first = await history.read("a", meta_ttl=60)
        assert [(entry.offset, entry.publication.tags) for entry in first.entries] == [
            (1, {"kind": "alert"}),
            (2, None),
        ]
        assert first.bottom == 0
        assert [entry.offset for entry in (await history.read("a", meta_ttl=60, after=1)).entries] == [2]


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
    async with TcpProxy(redis_server.port) as road:
        party = Party(open_broker(road.url, timeout=10))
        await party.broker.start(party)
        await until(lambda: party.up, "the link comes up")
        await party.broker.publish_all([("warm:up", NEWS, options)])

        before = road.round_trips
        outcomes = await party.broker.publish_all([(f"room:{number}", NEWS, options) for number in range(100)])
        trips = road.round_trips - before
        await party.broker.stop()

    assert all(isinstance(outcome, StreamPosition) for outcome in outcomes)
    # Redis may answer the first before the last are written, and canaries go the same way.
    assert 1 <= trips < 20


async def test_a_channel_that_is_named_twice_gets_both_in_order(opener: Opener, store_url: str) -> None:
    party = await opener(store_url)
    await party.broker.subscribe("a")
    requests = [("a", Publication(Raw(b"%d" % number)), KEPT) for number in range(300)]

    outcomes = await party.broker.publish_all([*requests[:2], ("b", NEWS, KEPT), *requests[2:]])

    offsets = [outcome.offset for outcome in outcomes if isinstance(outcome, StreamPosition)]
    assert offsets == [1, 2, 1, *range(3, 301)]
    await until(lambda: len(party.received("a")) == 300, "all arrive")
    assert party.received("a") == [b"%d" % number for number in range(300)]


async def test_many_of_every_kind_are_published_as_each_is_alone(opener: Opener, store_url: str) -> None:
    party = await opener(store_url)
    kinds = [
        LIVE,
        KEPT,
        replace(KEPT, history_size=1),
        replace(LIVE, idempotency_key="live"),
        replace(KEPT, idempotency_key="kept"),
        replace(KEPT, version=7, version_epoch="of the test"),
        replace(KEPT, version=8, version_epoch="of the test", idempotency_key="both"),
        replace(KEPT, trace=TRACE),
        replace(KEPT, delta=True, version=9, version_epoch="of the test", idempotency_key="all"),
        replace(LIVE, delta=True),
    ]
    # Twice, so that keys are seen again and versions are old. The name of a personal channel is stored encoded.
    wanted = [(channel, how) for _ in range(2) for channel in ("news", "#a{b}") for how in kinds]
    publications = [Publication(Raw(b"%d" % number), tags={"n": str(number)}) for number in range(len(wanted))]
    for channel in ("news", "#a{b}", "news:alone", "#a{b}:alone"):
        await party.broker.subscribe(channel)

    outcomes = await party.broker.publish_all(
        [(channel, each, how) for (channel, how), each in zip(wanted, publications, strict=True)]
    )
    alone = [
        await party.broker.publish(f"{channel}:alone", each, how)
        for (channel, how), each in zip(wanted, publications, strict=True)
    ]

    assert [_offset(outcome) for outcome in outcomes] == [_offset(outcome) for outcome in alone]
    assert party.broker.history is not None
    for channel in ("news", "#a{b}"):
        for each in (channel, f"{channel}:alone"):
            await _until_all_arrive(party, each)
        assert _seen(party, channel) == _seen(party, f"{channel}:alone")
        together = await party.broker.history.read(channel, meta_ttl=60)
        apart = await party.broker.history.read(f"{channel}:alone", meta_ttl=60)
        assert [bytes(each.publication.data) for each in together.entries] == [
            bytes(each.publication.data) for each in apart.entries
        ]


async def _until_all_arrive(party: Party, channel: str) -> None:
    # The order of publishing is kept within a channel.
    await party.publish(channel, b"last")
    await until(lambda: b"last" in party.received(channel), f"all of {channel} arrives")


def _offset(outcome: PublishOutcome) -> tuple[int, bool]:
    assert isinstance(outcome, StreamPosition)
    return outcome.offset, bool(outcome.epoch)


def _seen(party: Party, channel: str) -> list[tuple[object, ...]]:
    return [
        (entry.publication.data, entry.offset, entry.previous, entry.publication.tags, entry.trace, entry.delta)
        for name, entry in party.entries
        if name == channel
    ]


@pytest.mark.parametrize("url_fixture", ["redis_server", "redis_cluster"])
@pytest.mark.processes
async def test_a_channel_that_redis_refuses_is_refused_alone(
    opener: Opener, url_fixture: str, request: pytest.FixtureRequest
) -> None:
    party = await opener(request.getfixturevalue(url_fixture).url)
    await party.broker.publish("b", NEWS, replace(KEPT, idempotency_key="k"))
    # What the stream of channel a should be is the list of what is no stream.
    await _execute(party, b"SET", b"starling:meta:{a}", b"no hash")

    outcomes = await party.broker.publish_all(
        [("b", NEWS, KEPT), ("a", NEWS, KEPT), ("a", NEWS, LIVE), ("c", NEWS, KEPT)]
    )

    assert [type(outcome) for outcome in outcomes] == [StreamPosition, BrokerRefused, StreamPosition, StreamPosition]
    assert "WRONGTYPE" in str(outcomes[1])


async def _execute(party: Party, *command: bytes) -> None:
    assert isinstance(party.broker, RedisBroker)
    await party.broker._calls.execute(*command)


@pytest.mark.processes
async def test_a_server_with_its_keys_in_several_places_publishes_one_by_one(
    opener: Opener, redis_cluster: RedisCluster
) -> None:
    """A node of a cluster, addressed as one server, lets no script use the keys of another."""
    node = redis_cluster.url.split("+cluster://")[1].split(",")[0]
    party = await opener(f"redis://{node}")
    channels = [f"room:{number}" for number in range(20)]
    alone = await asyncio.gather(
        *(party.broker.publish(channel, NEWS, KEPT) for channel in channels), return_exceptions=True
    )

    outcomes = await party.broker.publish_all([(channel, NEWS, KEPT) for channel in channels])
    again = await party.broker.publish_all([(channel, NEWS, KEPT) for channel in channels])

    assert {StreamPosition, BrokerRefused} == {type(outcome) for outcome in outcomes}
    assert [type(outcome) for outcome in outcomes] == [type(outcome) for outcome in alone]
    assert [type(outcome) for outcome in again] == [type(outcome) for outcome in alone]


@pytest.mark.parametrize(
    ("how", "size", "most"),
    [(LIVE, 100, 64), (KEPT, 100, 50), (KEPT, 10_000, 10), (LIVE, 100_000, 5), (KEPT, 1_000_000, 1)],
)
def test_a_call_of_redis_never_carries_more_than_it_does_in_half_a_millisecond(
    how: PublishOptions, size: int, most: int
) -> None:
    large = Publication(Raw(b'"' + b"x" * size + b'"'))
    requests = [(f"room:{number}", large, how) for number in range(200)]
    many = PublishMany(cast("RedisCalls", None), RedisNames("starling"), lambda requests, done: None)

    begun, portions = 0, []
    while begun < len(requests):
        call = many.next_call(requests, [name for name, _, _ in requests], begun, "e")
        portions.append(call.portion)
        begun = call.portion.stop

    assert [number for portion in portions for number in portion] == [*range(200)]
    assert max(map(len, portions)) <= most


async def test_a_name_with_a_line_feed_is_one_channel_here_too(opener: Opener, store_url: str) -> None:
    """No rule for names lets it through; what checks them late must not publish in two channels."""
    party = await opener(store_url)
    for channel in ("a", "b", "a\nb"):
        await party.broker.subscribe(channel)

    outcomes = await party.broker.publish_all(SamePublication(["a\nb", "c"], NEWS, KEPT))
    await party.publish("a", b'"last"')

    assert [_offset(outcome) for outcome in outcomes] == [(1, True), (1, True)]
    await until(lambda: party.received("a") == [b'"last"'], "the last arrives")
    assert party.received("b") == []
    assert party.received("a\nb") == [b'{"text":"news"}']


async def test_many_channels_of_one_publication_have_positions_of_their_own(opener: Opener, store_url: str) -> None:
    party = await opener(store_url)
    channels = [f"room:{number}" for number in range(250)]
    for channel in ("room:7", "room:7", "room:249"):
        await party.broker.publish(channel, NEWS, KEPT)

    outcomes = await party.broker.publish_all(SamePublication(channels, NEWS, KEPT))

    assert party.broker.history is not None
    for number in (0, 7, 41, 42, 248, 249):
        top = (await party.broker.history.read(channels[number], meta_ttl=60)).top
        assert (outcomes[number], top.offset) == (top, {7: 3, 249: 2}.get(number, 1))
    epochs = {outcome.epoch for outcome in outcomes if isinstance(outcome, StreamPosition)}
    assert len(epochs) == 250
