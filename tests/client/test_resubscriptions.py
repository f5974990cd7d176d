"""Clients that end a subscription and begin it again at once, as a page does whose component is shown again."""

import random

import pytest

from starling.main import Application
from tests.support.frame_clients import FrameClient, Reports, publish, subscribe, unsubscribe
from tests.support.waiting import until

HISTORY = {"history_size": 10, "history_ttl": "60s"}
PRESENCE = {"presence": True, "join_leave": True}
OPEN = {"allow_subscribe_for_client": True, "allow_publish_for_client": True, "allow_tags_filter": True}
CHANNELS = {
    "plain": OPEN,
    "kept": OPEN | HISTORY,
    "watched": OPEN | PRESENCE,
    "both": OPEN | HISTORY | PRESENCE,
}


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("channel", ["plain:a", "kept:a", "watched:a", "both:a"])
async def test_the_last_subscription_of_a_frame_receives_what_follows(
    service: Application, reports: Reports, channel: str, others: bool
) -> None:
    other, alice = FrameClient(service, "bob"), FrameClient(service, "alice")
    if others:
        await other.carry_out(subscribe(channel))
    await alice.carry_out(*[subscribe(channel), unsubscribe(channel)] * 3, subscribe(channel))
    await publish(service, channel, "once")
    await until(lambda: alice.got("once") == 1, "the publication is received")
    await alice.carry_out(unsubscribe(channel))
    assert reports.of[channel] == [True, False] * 4


async def test_commands_of_one_frame_in_any_order_leave_a_client_where_the_last_ones_put_it(
    service: Application, reports: Reports
) -> None:
    randomness, names = random.Random(15), ["plain:a", "kept:a", "watched:a", "both:a"]
    other, alice = FrameClient(service, "bob"), FrameClient(service, "alice")
    await other.carry_out(*map(subscribe, names))
    inside: set[str] = set()
    for number in range(40):
        commands = []
        for channel in randomness.choices(names, k=randomness.randrange(1, 12)):
            commands.append(unsubscribe(channel) if channel in inside else subscribe(channel))
            inside ^= {channel}
        await alice.carry_out(*commands)
        for channel in names:
            await publish(service, channel, f"{channel} {number}")
        expected = {f"{channel} {number}" for channel in inside}
        await until(lambda: all(other.got(f"{channel} {number}") for channel in names), "all is delivered")  # noqa: B023 - called here
        await until(lambda: all(alice.got(data) == 1 for data in expected), "what is subscribed to is received")  # noqa: B023
        assert not any(alice.got(f"{channel} {number}") for channel in set(names) - inside)
    for channel in names:
        assert reports.of[channel] == [True, False] * (len(reports.of[channel]) // 2) + [True] * (channel in inside)


@pytest.mark.parametrize("channel", ["plain:a", "kept:a", "both:a"])
async def test_the_filter_of_the_last_subscription_of_a_frame_is_the_one_that_counts(
    service: Application, channel: str
) -> None:
    other, alice = FrameClient(service, "bob"), FrameClient(service, "alice")
    await other.carry_out(subscribe(channel))
    red = subscribe(channel, tf={"key": "color", "cmp": "eq", "val": "red"})
    await alice.carry_out(subscribe(channel), unsubscribe(channel), red)
    await publish(service, channel, "blue", color="blue")
    await publish(service, channel, "red", color="red")
    await until(lambda: alice.got("red") == 1, "what passes the filter is received")
    assert alice.got("blue") == 0
    await alice.carry_out(unsubscribe(channel), red, unsubscribe(channel), subscribe(channel))
    await publish(service, channel, "green", color="green")
    await until(lambda: alice.got("green") == 1, "everything is received without a filter")
