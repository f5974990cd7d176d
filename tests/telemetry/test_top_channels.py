"""The busiest channels: the sketch against exact counts, rates, sampling, and the sum over workers."""

import math
import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starling.telemetry.top_channels import (
    COUNTED_PER_SECOND,
    ChannelMeter,
    ChannelTraffic,
    HeavyHitters,
    joined,
)

CAPACITY = 8
# Each step: a channel and its weight, or a fading.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([f"room:{number}" for number in range(40)]), st.integers(1, 1000)),
        st.sampled_from([0.5, 0.9]),
    ),
    max_size=400,
)


@given(steps=STEPS)
def test_the_sketch_never_reports_too_much_and_never_too_little_by_more_than_its_error(
    steps: list[tuple[str, int] | float],
) -> None:
    sketch, exact = HeavyHitters(CAPACITY), defaultdict[str, float](float)
    for step in steps:
        if isinstance(step, float):
            sketch.fade(step)
            exact = defaultdict(float, {channel: weight * step for channel, weight in exact.items()})
        else:
            sketch.of(step[0]).weight += step[1]
            exact[step[0]] += step[1]

        assert len(sketch) <= CAPACITY
        for channel, weight in exact.items():
            reported = sketch.weight(channel)
            assert reported <= weight * 1.000001
            assert weight <= (reported + sketch.error) * 1.000001
        # What was forgotten while fading is 0.01 each time at most, and fades itself.
        assert sketch.error <= 2 * sum(exact.values()) / CAPACITY + 0.02


@given(seed=st.integers(0, 2**32))
def test_a_channel_with_more_than_its_share_is_always_found(seed: int) -> None:
    chance, sketch = random.Random(seed), HeavyHitters(CAPACITY)
    stream = ["hot"] * 400 + [f"cold:{number}" for number in range(900)]
    chance.shuffle(stream)

    for channel in stream:
        sketch.of(channel).weight += 1

    # 400 of 1300 is more than the error, which is at most 2/8 of all.
    assert sketch.heaviest(1)[0][0] == "hot"


def test_counting_many_channels_takes_no_more_room_than_counting_few() -> None:
    meter = ChannelMeter()

    for number in range(50_000):
        meter.count(f"room:{number}", 1, 10)

    assert len(meter._hitters) <= 1024


def second_of(meter: ChannelMeter, messages: list[tuple[str, int, int]]) -> None:
    """Offer messages as the hub does, and let a second pass."""
    for message in messages:
        if meter.skip:
            meter.skip -= 1
        else:
            meter.count(*message)
    meter.turn(1.0)


def test_rates_are_those_of_the_last_seconds() -> None:
    meter = ChannelMeter()
    for _ in range(60):
        second_of(meter, [("news", 50, 5000)] * 4 + [("chat", 3, 60)] * 10)

    news, chat = meter.busiest(10)

    assert (news.channel, chat.channel) == ("news", "chat")
    assert news.messages_per_second == pytest.approx(4, rel=0.01)
    assert news.deliveries_per_second == pytest.approx(200, rel=0.01)
    assert news.bytes_per_second == pytest.approx(20_000, rel=0.01)
    assert chat.deliveries_per_second == pytest.approx(30, rel=0.01)
    assert chat.dropped_per_second == 0


def test_a_channel_that_fell_silent_fades_and_is_forgotten() -> None:
    meter = ChannelMeter()
    second_of(meter, [("news", 10, 100)])
    loud = meter.busiest(1)[0].deliveries_per_second

    for _ in range(10):
        meter.turn(1.0)
    assert meter.busiest(1)[0].deliveries_per_second == pytest.approx(loud / math.e, rel=0.01)
    for _ in range(70):
        meter.turn(1.0)

    assert meter.busiest(1) == []


@pytest.mark.parametrize("seconds", [200.0, 3600.0, 10_000.0, 1e9])
def test_a_process_that_stood_still_for_long_counts_on(seconds: float) -> None:
    meter = ChannelMeter()
    second_of(meter, [("news", 10, 100)])

    meter.turn(seconds)
    assert meter.busiest(1) == []
    second_of(meter, [("news", 10, 100)])

    assert meter.busiest(1)[0].channel == "news"


def test_of_very_many_messages_some_are_counted_and_the_rates_are_still_right() -> None:
    meter, chance = ChannelMeter(seed=7), random.Random(7)
    offered = COUNTED_PER_SECOND * 4

    for _ in range(50):
        busy = [("hot" if chance.random() < 0.3 else f"cold:{chance.randrange(500)}", 2, 10) for _ in range(offered)]
        second_of(meter, busy)
    hottest = meter.busiest(1)[0]

    assert hottest.channel == "hot"
    assert hottest.messages_per_second == pytest.approx(0.3 * offered, rel=0.1)
    assert hottest.deliveries_per_second == pytest.approx(0.6 * offered, rel=0.1)


def test_when_it_calms_down_every_message_counts_again() -> None:
    meter = ChannelMeter(seed=7)
    second_of(meter, [("news", 1, 1)] * COUNTED_PER_SECOND * 50)
    assert meter._each > 1

    for _ in range(3):
        second_of(meter, [("news", 1, 1)])

    assert (meter._each, meter.skip) == (1, 0)


def test_dropped_messages_make_a_channel_busy_too() -> None:
    meter = ChannelMeter()
    for _ in range(60):
        meter.count_dropped("flooded", 500)
        second_of(meter, [("news", 50, 100)])

    flooded, news = meter.busiest(2)

    assert (flooded.channel, news.channel) == ("flooded", "news")
    assert flooded.dropped_per_second == pytest.approx(500, rel=0.01)
    assert flooded.deliveries_per_second == 0


def test_over_workers_deliveries_are_summed_and_messages_are_not() -> None:
    one = [ChannelTraffic("news", 3, 5.0, 15.0, 150.0, 1.0), ChannelTraffic("chat", 1, 2.0, 2.0, 20.0)]
    other = [ChannelTraffic("news", 4, 6.0, 24.0, 240.0), ChannelTraffic("games", 50, 1.0, 50.0, 500.0)]

    assert joined([one, other], 2) == [
        ChannelTraffic("games", 50, 1.0, 50.0, 500.0),
        ChannelTraffic("news", 7, 6.0, 39.0, 390.0, 1.0),
    ]
