"""What every broker promises, whatever carries it."""

import asyncio
import time
from itertools import count

import pytest
import structlog
from msgspec import Raw

from starling.brokers.open import open_broker
from starling.engine.broker import (
    BrokerUnavailable,
    LinkState,
    PublishOptions,
    PublishOutcome,
    StreamEntry,
    StreamPosition,
)
from starling.protocol.messages import ClientInfo, Publication
from starling.telemetry.tracing import TraceContext
from tests.brokers.conftest import Opener
from tests.brokers.party import LIVE, Party
from tests.support.services import Server
from tests.support.waiting import DEADLINE, until

Pair = tuple[Party, Party]


async def test_the_first_channel_ever_subscribed_receives_the_next_publish(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("room")
    await there.publish("room", b'"first"')
    await until(lambda: here.received("room") == [b'"first"'], "the message arrives")


async def test_a_publisher_receives_its_own_publication_once(pair: Pair) -> None:
    here, _ = pair
    await here.broker.subscribe("room")
    await here.publish("room", b"1")
    await here.publish("room", b"2")
    await until(lambda: here.received("room") == [b"1", b"2"], "both arrive once")


async def test_fifty_channels_subscribed_at_once_all_receive_what_is_published_next(pair: Pair) -> None:
    here, there = pair
    channels = [f"room:{number}" for number in range(50)]

    async def subscribe_then_publish(channel: str) -> None:
        await here.broker.subscribe(channel)
        await there.publish(channel, channel.encode())

    await asyncio.gather(*map(subscribe_then_publish, channels))
    await until(lambda: len(here.entries) >= 50, "every channel hears")
    assert sorted((name, bytes(entry.publication.data)) for name, entry in here.entries) == sorted(
        (channel, channel.encode()) for channel in channels
    )


@pytest.mark.parametrize("user", ["google:1", "a{b}", "}", "Doe, John", "100%7B", "ålice", "a\nb\x00", "x" * 255])
async def test_a_personal_channel_carries_what_is_published_whatever_its_users_id_is(pair: Pair, user: str) -> None:
    here, there = pair
    channel = f"#{user}"
    await here.broker.subscribe(channel)
    await there.publish(channel, b'"yours"')
    await until(lambda: here.received(channel) == [b'"yours"'], "the message arrives")


async def test_two_publishers_are_received_by_two_subscribers_in_one_order(pair: Pair) -> None:
    for party in pair:
        await party.broker.subscribe("room")

    async def publish_many(party: Party, name: str, number: int) -> None:
        for index in range(number):
            await party.publish("room", b'"%s %d"' % (name.encode(), index))

    await asyncio.gather(publish_many(pair[0], "a", 504), publish_many(pair[1], "b", 503))
    await until(lambda: all(len(party.received("room")) >= 1007 for party in pair), "all messages arrive")
    one, other = (party.received("room") for party in pair)
    assert one == other
    assert len(one) == 1007
    assert [data for data in one if data.startswith(b'"a')] == [b'"a %d"' % index for index in range(504)]
    assert [data for data in one if data.startswith(b'"b')] == [b'"b %d"' % index for index in range(503)]


async def test_publishes_started_in_one_tick_keep_their_order(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("room")
    await asyncio.gather(*(there.publish("room", b"%d" % number) for number in range(700)))
    await until(lambda: len(here.received("room")) >= 700, "all messages arrive")
    assert here.received("room") == [b"%d" % number for number in range(700)]


async def test_what_is_begun_first_is_published_first_and_every_outcome_is_reported(url: str, opener: Opener) -> None:
    party = await opener(url)
    await party.broker.subscribe("room")
    reported: list[PublishOutcome | None] = []
    for number in range(700):
        reported.append(party.broker.begin_publish("room", Publication(Raw(b"%d" % number)), LIVE, reported.append))
    await until(lambda: len([outcome for outcome in reported if outcome]) >= 700, "all outcomes are reported")
    await until(lambda: len(party.received("room")) >= 700, "all messages arrive")

    assert [outcome for outcome in reported if outcome] == [StreamPosition(0, "")] * 700
    assert party.received("room") == [b"%d" % number for number in range(700)]


async def test_a_publish_that_is_begun_while_the_broker_is_stopped_is_refused_so(url: str, opener: Opener) -> None:
    party = await opener(url)
    await party.broker.stop()
    reported: list[PublishOutcome | None] = []
    reported.append(party.broker.begin_publish("room", Publication(Raw(b"1")), LIVE, reported.append))
    await until(lambda: [outcome for outcome in reported if outcome], "the outcome is reported")
    assert isinstance(reported[-1], BrokerUnavailable)


async def test_equal_messages_published_at_once_are_all_delivered(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("room")
    await asyncio.gather(*(there.publish("room", b'"same"') for _ in range(100)))
    await there.publish("room", b'"end"')
    await until(lambda: here.received("room")[-1:] == [b'"end"'], "the last message arrives")
    assert here.received("room") == [b'"same"'] * 100 + [b'"end"']


async def test_after_unsubscribe_nothing_is_reported_and_others_still_receive(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("left")
    await here.broker.subscribe("kept")
    await here.broker.unsubscribe("left")
    await there.publish("left", b"1")
    await there.publish("kept", b"2")
    await until(lambda: here.received("kept") == [b"2"], "the other channel hears")
    assert here.received("left") == []


async def test_what_has_come_but_is_not_reported_yet_is_silenced_too(url: str, opener: Opener) -> None:
    class Leaver(Party):
        leaving: asyncio.Future[None]

        def on_publication(self, channel: str, entry: StreamEntry, received_at: float) -> None:
            super().on_publication(channel, entry, received_at)
            if channel == "room":
                self.leaving = asyncio.ensure_future(self.broker.unsubscribe("room"))
                # Longer than a burst is reported without a pause, so that the leaving comes before the next message.
                time.sleep(0.02)

    here = await opener(url, kind=Leaver)
    assert isinstance(here, Leaver)
    await here.broker.subscribe("room")
    await here.broker.subscribe("other")
    sends = [here.publish("room", b"%d" % number) for number in range(5)]
    await asyncio.gather(*sends, here.publish("other", b'"end"'))
    await until(lambda: here.received("other"), "the last message arrives")
    await here.leaving
    await here.broker.stop()
    assert here.received("room") == [b"0"]


async def test_a_channel_subscribed_again_receives_again(pair: Pair) -> None:
    here, there = pair
    for number in range(20):
        await here.broker.subscribe("room")
        here.reported.clear()
        await there.publish("room", b"%d" % number)
        await until(lambda: "publication" in here.reported, "the message arrives")
        await here.broker.unsubscribe("room")
        await there.publish("room", b'"unheard"')
    assert here.received("room") == [b"%d" % number for number in range(20)]


async def test_unsubscribing_what_was_never_subscribed_is_no_error(pair: Pair) -> None:
    await pair[0].broker.unsubscribe("nowhere")


@pytest.mark.parametrize("data", [b"", b"\x00\x01\xff\xfe\n\r\n", b"p - 0 0\n1 0\n", bytes(range(256)), b'{"x":1}\n'])
async def test_data_is_kept_byte_for_byte(pair: Pair, data: bytes) -> None:
    here, there = pair
    await here.broker.subscribe("room")
    await there.publish("room", data)
    await until(lambda: here.entries, "the message arrives")
    assert here.received("room") == [data]


async def test_info_tags_and_time_travel_and_no_position_is_made_up(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("room")
    info = ClientInfo(user="zoë", client="c1", conn_info=Raw(b'{"a" : 1}'), chan_info=Raw(b"[ ]"))
    sent = Publication(Raw(b"1"), info=info, tags={"kind": "naïve"})
    before = int(time.time() * 1000)
    position = await there.broker.publish("room", sent, LIVE)
    after = int(time.time() * 1000)
    assert position == StreamPosition(0, "")
    await until(lambda: here.entries, "the message arrives")
    ((channel, entry),) = here.entries
    received = entry.publication
    assert channel == "room"
    assert (entry.epoch, entry.previous, received.offset) == ("", 0, 0)
    assert received.info is not None
    assert (received.info.user, received.info.client) == ("zoë", "c1")
    assert (bytes(received.info.conn_info), bytes(received.info.chan_info)) == (b'{"a" : 1}', b"[ ]")
    assert received.tags == {"kind": "naïve"}
    assert before <= received.time <= after
    assert sent.time == 0


async def test_a_trace_travels_with_what_is_sent(pair: Pair) -> None:
    here, there = pair
    trace = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1")
    await here.broker.subscribe("room")
    await there.broker.publish("room", Publication(Raw(b"1")), PublishOptions(trace=trace))
    request = ("room", Publication(Raw(b"2")), PublishOptions(trace=trace))
    assert await there.broker.publish_all([request]) == [StreamPosition(0, "")]
    outcomes: list[PublishOutcome | None] = []
    outcomes.append(there.broker.begin_publish("room", Publication(Raw(b"3")), request[2], outcomes.append))
    await until(lambda: outcomes[-1] == StreamPosition(0, ""), "the third is taken")
    await there.publish("room", b"4")
    await until(lambda: here.received("room") == [b"1", b"2", b"3", b"4"], "all arrive")
    assert [entry.trace for _, entry in here.entries] == [trace, trace, trace, None]


async def test_joins_and_leaves_are_reported(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("room")
    await there.broker.publish_join("room", ClientInfo(user="u", client="c", conn_info=Raw(b'{"n":"U"}')))
    await there.broker.publish_leave("room", ClientInfo(user="u", client="c"))
    await until(lambda: here.leaves, "the leave arrives")
    ((channel, info),) = here.joins
    assert (channel, info.user, info.client, bytes(info.conn_info)) == ("room", "u", "c", b'{"n":"U"}')
    assert [(channel, info.user, bytes(info.conn_info)) for channel, info in here.leaves] == [("room", "u", b"")]


@pytest.mark.parametrize(
    "channel", ["a:b", ":internal", "with space", "raum-ü-🙂", "x" * 255, '"; DROP TABLE x; --', "*"]
)
async def test_a_channel_is_any_text(pair: Pair, channel: str) -> None:
    here, there = pair
    await here.broker.subscribe(channel)
    await there.publish(channel, b"1")
    await until(lambda: here.received(channel) == [b"1"], "the message arrives")


async def test_channels_that_look_like_patterns_receive_only_their_own(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("room*")
    await there.publish("room1", b'"other"')
    await there.publish("room*", b'"own"')
    await until(lambda: here.entries, "the message arrives")
    assert [name for name, _ in here.entries] == ["room*"]


async def test_a_channel_name_without_utf8_is_the_callers_error_alone(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("room")
    if here is not there:
        with pytest.raises(ValueError, match="surrogates"):
            await here.broker.subscribe("\ud800")
        with pytest.raises(ValueError, match="surrogates"):
            await here.publish("\ud800", b"1")
    await there.publish("room", b"1")
    await until(lambda: here.received("room") == [b"1"], "the link goes on")


async def test_a_raising_subscriber_does_not_end_the_pump(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("room")
    with structlog.testing.capture_logs() as logs:
        await there.publish("room", b'"raise"')
        await there.publish("room", b'"after"')
        await until(lambda: here.received("room") == [b'"raise"', b'"after"'], "the next message arrives")
    assert [line["event"] for line in logs] == ["broker_event_failed"]


async def test_stats_and_events_report_that_the_link_is_up(url: str, pair: Pair) -> None:
    for party in pair:
        assert party.links[-1] is LinkState.UP
        assert party.broker.stats.up
        received_at = party.broker.stats.canary_received_at
        if url == "memory://":
            assert received_at is None
        else:
            assert received_at is not None
            assert 0 < received_at <= time.monotonic()
            assert 0 < party.broker.stats.canary_round_trip_seconds < received_at
        assert party.broker.stats.reconnects == 0
        assert sum(party.broker.stats.dropped.values()) == 0


async def test_nothing_is_reported_and_nothing_is_taken_after_stop(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("room")
    if there is not here:
        await there.broker.subscribe("room")
    await here.broker.stop()
    reported = len(here.reported)
    if there is not here:
        await there.publish("room", b"1")
        await until(lambda: there.received("room") == [b"1"], "who listens has got it")
    with pytest.raises(BrokerUnavailable):
        await here.publish("room", b"2")
    assert len(here.reported) == reported
    assert not here.broker.stats.up


async def test_publishes_that_wait_at_stop_end_and_none_hangs(pair: Pair) -> None:
    here, _ = pair
    publishing = [asyncio.ensure_future(here.publish("room", b"1")) for _ in range(50)]
    await asyncio.sleep(0)
    await here.broker.stop()
    outcomes = await asyncio.wait_for(asyncio.gather(*publishing, return_exceptions=True), DEADLINE)
    assert all(outcome is None or isinstance(outcome, BrokerUnavailable) for outcome in outcomes)


async def test_a_cancelled_publish_disturbs_no_other(pair: Pair) -> None:
    here, there = pair
    await here.broker.subscribe("room")
    numbers = count()
    for _ in range(30):
        doomed = asyncio.ensure_future(there.publish("room", b'"doomed"'))
        await asyncio.sleep(0)
        kept = asyncio.ensure_future(there.publish("room", b"%d" % next(numbers)))
        await asyncio.sleep(0)
        doomed.cancel()
        await kept
        await asyncio.gather(doomed, return_exceptions=True)
    await until(lambda: b"29" in here.received("room"), "the last message arrives")
    kept_data = [data for data in here.received("room") if data != b'"doomed"']
    assert kept_data == [b"%d" % number for number in range(30)]


async def test_two_prefixes_on_one_server_do_not_meet(server: Server, opener: Opener) -> None:
    here, there = await opener(server.url), await opener(server.url, prefix="other")
    await here.broker.subscribe("room")
    await there.publish("room", b"1")
    await here.publish("room", b"2")
    await until(lambda: here.received("room"), "the own message arrives")
    assert here.received("room") == [b"2"]


async def test_a_broker_that_was_never_started_takes_nothing() -> None:
    for url in ("memory://", "redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1", "postgresql://127.0.0.1:1"):
        with pytest.raises(BrokerUnavailable, match="not started"):
            await open_broker(url).publish("room", Publication(Raw(b"1")), LIVE)
