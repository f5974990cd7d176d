"""What a channel keeps is read page by page, forward and back, and recovered on return: all of it or none."""

from typing import Any

import pytest

from tests.sdk.client import Client, Refused, SubscriptionOptions
from tests.sdk.conftest import OpenClient
from tests.sdk.tokens import user


def numbers(result: dict[str, Any]) -> list[Any]:
    """The data of a page's publications."""
    return [publication["data"] for publication in result["publications"]]


@pytest.fixture
async def client(open_client: OpenClient) -> Client:
    client = await open_client(user())
    await client.connected()
    return client


@pytest.fixture
async def channel(client: Client, room: str) -> str:
    """A channel that the client is in and that keeps ten publications, 1 to 10."""
    channel = f"history:{room}"
    await client.subscribed(channel)
    for number in range(1, 11):
        await client.publish(channel, number)
    return channel


async def test_limit_0_reports_the_position_alone(client: Client, channel: str) -> None:
    position = await client.history(channel, limit=0)
    assert (position["publications"], position["offset"]) == ([], 10)
    assert position["epoch"]


async def test_limit_minus_1_reads_all(client: Client, channel: str) -> None:
    result = await client.history(channel, limit=-1)
    assert numbers(result) == list(range(1, 11))
    assert [publication["offset"] for publication in result["publications"]] == list(range(1, 11))


async def test_history_is_paged_forward(client: Client, channel: str) -> None:
    page = await client.history(channel, limit=4)
    assert numbers(page) == [1, 2, 3, 4]
    page = await client.history(channel, limit=4, since={"offset": 4, "epoch": page["epoch"]})
    assert numbers(page) == [5, 6, 7, 8]
    page = await client.history(channel, limit=4, since={"offset": 8, "epoch": page["epoch"]})
    assert numbers(page) == [9, 10]
    page = await client.history(channel, limit=4, since={"offset": 10, "epoch": page["epoch"]})
    assert (numbers(page), page["offset"]) == ([], 10)


async def test_history_is_paged_backward(client: Client, channel: str) -> None:
    page = await client.history(channel, limit=4, reverse=True)
    assert numbers(page) == [10, 9, 8, 7]
    page = await client.history(channel, limit=4, since={"offset": 7, "epoch": page["epoch"]}, reverse=True)
    assert numbers(page) == [6, 5, 4, 3]
    page = await client.history(channel, limit=4, since={"offset": 3, "epoch": page["epoch"]}, reverse=True)
    assert numbers(page) == [2, 1]


async def test_a_position_of_another_stream_is_unrecoverable(client: Client, channel: str) -> None:
    with pytest.raises(Refused) as refusal:
        await client.history(channel, limit=10, since={"offset": 4, "epoch": "another"})
    assert refusal.value.code == 112


async def test_a_position_that_the_history_has_removed_is_unrecoverable(client: Client, room: str) -> None:
    channel = f"small:{room}"
    await client.subscribed(channel)
    for number in range(5):
        await client.publish(channel, number)
    epoch = (await client.history(channel))["epoch"]
    with pytest.raises(Refused) as refusal:
        await client.history(channel, limit=10, since={"offset": 1, "epoch": epoch})
    assert refusal.value.code == 112
    assert numbers(await client.history(channel, limit=10, since={"offset": 3, "epoch": epoch})) == [3, 4]


async def test_history_is_for_those_who_may_read_it(client: Client, room: str) -> None:
    with pytest.raises(Refused) as refusal:
        await client.history(f"history:{room}", limit=1)
    assert refusal.value.code == 103


async def test_a_channel_without_history_says_so(client: Client) -> None:
    await client.subscribed("open:forgetful")
    with pytest.raises(Refused) as refusal:
        await client.history("open:forgetful", limit=1)
    assert refusal.value.code == 108


async def test_who_may_read_history_may_ask_for_recovery(client: Client, room: str) -> None:
    subscribed = await client.subscribed(f"history:{room}", SubscriptionOptions(recoverable=True))
    assert (subscribed["recoverable"], subscribed["positioned"]) == (True, True)
    assert subscribed["stream_position"]["offset"] == 0


async def test_who_asks_for_a_position_gets_it(client: Client, room: str) -> None:
    subscribed = await client.subscribed(f"history:{room}", SubscriptionOptions(positioned=True))
    assert (subscribed["recoverable"], subscribed["positioned"]) == (False, True)


async def test_what_was_missed_comes_on_return_once_and_in_order(open_client: OpenClient, room: str) -> None:
    reader, writer = await open_client(user("reader")), await open_client(user("writer"))
    channel = f"recovery:{room}"
    await reader.connected()
    await writer.connected()
    assert (await reader.subscribed(channel))["was_recovering"] is False
    await writer.publish(channel, 0)
    await reader.publications(1, channel)

    await reader.disconnect()
    for number in range(1, 101):
        await writer.publish(channel, number)
    await reader.connect()

    subscribed = await reader.event("subscribed", channel=channel)
    assert (subscribed["was_recovering"], subscribed["recovered"]) == (True, True)
    await writer.publish(channel, 101)
    assert await reader.publications(101, channel) == list(range(1, 102))


async def test_what_was_published_between_leaving_and_returning_comes_too(client: Client, room: str) -> None:
    channel = f"recovery:{room}"
    await client.subscribed(channel)
    await client.unsubscribe(channel)
    for number in range(3):
        await client.publish(channel, number)
    await client.resubscribe(channel)
    assert await client.publications(3, channel) == [0, 1, 2]


@pytest.mark.parametrize(("event", "seen"), [("subscribed", []), ("publication", [1])])
async def test_who_leaves_while_it_is_recovering_gets_the_rest_the_next_time(
    client: Client, room: str, event: str, seen: list[int]
) -> None:
    channel = f"recovery:{room}"
    await client.subscribed(channel)
    await client.unsubscribe(channel)
    await client.event("unsubscribed")
    for number in (1, 2, 3):
        await client.publish(channel, number)

    await client.unsubscribe_on(channel, event)
    await client.resubscribe(channel)
    await client.event("unsubscribed")
    assert [publication["data"] for publication in client.named("publication")] == seen

    await client.resubscribe(channel)
    assert await client.publications(3, channel) == [1, 2, 3]


async def test_what_cannot_be_recovered_is_reported_and_the_subscription_goes_on(client: Client, room: str) -> None:
    channel = f"small:{room}"
    await client.subscribed(channel)
    await client.unsubscribe(channel)
    for number in range(5):
        await client.publish(channel, number)

    await client.resubscribe(channel)
    subscribed = await client.event("subscribed", channel=channel)
    assert (subscribed["was_recovering"], subscribed["recovered"]) == (True, False)
    assert client.named("publication") == []
    await client.publish(channel, "live")
    assert await client.publications(1, channel) == ["live"]


async def test_a_first_subscription_can_begin_at_a_position(client: Client, room: str) -> None:
    channel = f"recovery:{room}"
    for number in range(5):
        await client.publish(channel, number)
    epoch = (await client.history(channel))["epoch"]

    subscribed = await client.subscribed(channel, SubscriptionOptions(since={"offset": 2, "epoch": epoch}))
    assert subscribed["recovered"] is True
    assert await client.publications(3, channel) == [2, 3, 4]


async def test_an_offset_without_an_epoch_counts_in_the_stream_there_is(client: Client, room: str) -> None:
    channel = f"recovery:{room}"
    for number in range(3):
        await client.publish(channel, number)

    await client.subscribed(channel, SubscriptionOptions(since={"offset": 0, "epoch": ""}))
    assert await client.publications(3, channel) == [0, 1, 2]


async def test_an_application_is_asked_for_its_state_again_when_recovery_fails(client: Client, room: str) -> None:
    channel = f"small:{room}"
    states = iter(({"offset": 1, "epoch": "gone"}, {"offset": 0, "epoch": ""}))
    asked = []

    async def get_state(asked_for: str) -> dict[str, Any]:
        asked.append(asked_for)
        return next(states)

    await client.publish(channel, 1)
    subscribed = await client.subscribed(channel, SubscriptionOptions(get_state=get_state))
    assert asked == [channel, channel]
    assert subscribed["recovered"] is True
    assert await client.publications(1, channel) == [1]


async def test_cache_mode_gives_the_latest_publication_on_every_subscribe(open_client: OpenClient, room: str) -> None:
    reader, writer = await open_client(user("reader")), await open_client(user("writer"))
    channel = f"cache:{room}"
    await reader.connected()
    await writer.connected()
    for number in range(3):
        await writer.publish(channel, number)

    await reader.subscribed(channel)
    assert await reader.publications(1, channel) == [2]

    await reader.unsubscribe(channel)
    await writer.publish(channel, 3)
    await writer.publish(channel, 4)
    await reader.resubscribe(channel)
    assert (await reader.event("subscribed"))["recovered"] is True
    assert await reader.publications(1, channel) == [4]

    await reader.unsubscribe(channel)
    await reader.resubscribe(channel)
    await reader.event("subscribed")
    await writer.publish(channel, 5)
    assert await reader.publications(1, channel) == [5]
