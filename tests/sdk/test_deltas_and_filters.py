"""Patches, filters by tags and channel ids, as the SDKs of both languages use them in both formats. 20 s."""

from typing import Any

from tests.sdk.backend import order
from tests.sdk.client import SubscriptionOptions
from tests.sdk.conftest import OpenClient
from tests.sdk.tokens import user
from tests.support.running import Starling

TEXTS = ("a long text that stays, ", "ein längerer Text, ", "длинный текст, ", "長い文章です。", "🎉 party 😀 ")


def document(number: int) -> dict[str, Any]:
    return {"number": number, "text": TEXTS[number % len(TEXTS)] * 5, "rest": list(TEXTS * 4)}


async def publish(service: Starling, channel: str, *numbers: int, **tags: str) -> None:
    for number in numbers:
        await order(service, "publish", channel=channel, data=document(number), tags=tags)


async def test_documents_arrive_exact_as_patches_live_and_recovered(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    channel = f"delta:{room}"
    client = await open_client(user())
    await client.connected()
    subscribed = await client.subscribed(channel, SubscriptionOptions(delta=True))
    assert subscribed["positioned"]
    await publish(service, channel, *range(1, 8))
    assert await client.publications(7, channel) == [document(number) for number in range(1, 8)]

    await client.cut()
    await publish(service, channel, *range(8, 15))
    await publish(service, channel, *range(15, 18))
    assert await client.publications(10, channel) == [document(number) for number in range(8, 18)]


async def test_after_a_recovery_that_brought_nothing_the_first_publication_is_whole(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    channel = f"delta:{room}"
    client = await open_client(user())
    await client.connected()
    await client.subscribed(channel, SubscriptionOptions(delta=True))
    await publish(service, channel, 1, 2)
    assert len(await client.publications(2, channel)) == 2

    await client.cut()
    await client.event("subscribed", channel=channel)
    await publish(service, channel, 3, 4)
    assert await client.publications(2, channel) == [document(3), document(4)]


async def test_publications_that_ask_for_a_patch_one_by_one_arrive_exact_among_whole_ones(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    channel = f"patches:{room}"
    client = await open_client(user())
    await client.connected()
    await client.subscribed(channel, SubscriptionOptions(delta=True))
    for number in range(1, 9):
        await order(service, "publish", channel=channel, data=document(number), delta=number % 3 > 0)
    await order(service, "broadcast", channels=[channel], data=document(9), delta=True)
    assert await client.publications(9, channel) == [document(number) for number in range(1, 10)]


async def test_a_reader_without_patches_gets_ordinary_data_in_the_same_channel(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    channel = f"delta:{room}"
    patched, plain = await open_client(user()), await open_client(user())
    for client, delta in ((patched, True), (plain, False)):
        await client.connected()
        await client.subscribed(channel, SubscriptionOptions(delta=delta))
    await publish(service, channel, 1, 2, 3)
    assert await patched.publications(3, channel) == [document(1), document(2), document(3)]
    assert await plain.publications(3, channel) == [document(1), document(2), document(3)]


async def test_a_filter_holds_live_and_in_recovery_and_the_position_moves_past_what_it_leaves_out(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    channel = f"tagged:{room}"
    client = await open_client(user())
    await client.connected()
    await client.subscribed(channel, SubscriptionOptions(ticker="AAPL"))
    await publish(service, channel, 1, ticker="AAPL")
    await publish(service, channel, 2, 3, ticker="MSFT")
    await publish(service, channel, 4)
    await publish(service, channel, 5, ticker="AAPL")
    assert await client.publications(2, channel) == [document(1), document(5)]

    await client.cut()
    await publish(service, channel, 6, ticker="MSFT")
    await publish(service, channel, 7, ticker="AAPL")
    await client.event("subscribed", channel=channel, recovered=True)
    await publish(service, channel, 8, ticker="AAPL")
    assert await client.publications(2, channel) == [document(7), document(8)]


async def test_a_cache_channel_gives_the_newest_publication_that_matches(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    channel = f"tagcache:{room}"
    await publish(service, channel, 1, ticker="AAPL")
    await publish(service, channel, 2, ticker="AAPL")
    await publish(service, channel, 3, 4, ticker="MSFT")
    client = await open_client(user())
    await client.connected()
    await client.subscribed(channel, SubscriptionOptions(ticker="AAPL"))
    await publish(service, channel, 5, ticker="AAPL")
    assert await client.publications(2, channel) == [document(2), document(5)]


async def test_a_channel_with_a_short_id_is_received_and_left_and_entered_again(
    open_client: OpenClient, room: str
) -> None:
    channel, other = f"compact:{room}", f"compact:{room}-2"
    client = await open_client(user())
    await client.connected()
    await client.subscribed(channel)
    await client.subscribed(other)
    await client.publish(channel, "one")
    await client.publish(other, "two")
    assert await client.publications(1, channel) == ["one"]
    assert await client.publications(1, other) == ["two"]

    await client.unsubscribe(channel)
    await client.event("unsubscribed", channel=channel)
    await client.resubscribe(channel)
    await client.event("subscribed", channel=channel)
    await client.publish(channel, "three")
    assert await client.publications(1, channel) == ["three"]
