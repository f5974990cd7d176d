"""Channels that the service enters a client in: by its token, and its own; what comes through them, and recovery."""

import asyncio

from tests.sdk.client import ClientOptions
from tests.sdk.conftest import OpenClient, OpenSdk, with_every_sdk
from tests.sdk.tokens import connection_token, user
from tests.support.running import Starling


async def test_channels_of_the_token_are_entered_on_connecting(open_client: OpenClient, room: str) -> None:
    channels = [f"open:{room}", f"recovery:{room}"]
    client = await open_client(user("alice", channels=channels))
    await client.connect()

    entered = {event["channel"]: event for event in [await client.event("subscribed") for _ in channels]}
    assert sorted(entered) == sorted(channels)
    assert entered[f"open:{room}"]["recoverable"] is False
    assert entered[f"recovery:{room}"]["recoverable"] is True

    for channel in channels:
        await client.publish(channel, {"to": channel})
        assert await client.publications(1, channel) == [{"to": channel}]


async def test_subs_of_the_token_carry_data_info_and_options(open_client: OpenClient, room: str) -> None:
    channel = f"presence:{room}"
    subs = {channel: {"data": {"motto": "hi"}, "info": {"role": "host"}, "override": {"presence": {"value": True}}}}
    client = await open_client(user("alice", subs=subs))
    connected = await client.connected()

    assert (await client.event("subscribed"))["data"] == {"motto": "hi"}
    assert (await client.event("join", channel=channel))["info"]["chan_info"] == {"role": "host"}
    assert (await client.presence(channel))[connected["client"]]["chan_info"] == {"role": "host"}


async def test_every_user_is_entered_in_a_channel_of_its_own(open_client: OpenClient, narrow: Starling) -> None:
    alice, bob = await open_client(user("alice"), of=narrow), await open_client(user("bob"), of=narrow)
    for client, name in ((alice, "alice"), (bob, "bob")):
        await client.connect()
        await client.event("subscribed", channel=f"#{name}")

    await alice.publish("#alice", "a note to myself")
    assert await alice.publications(1, "#alice") == ["a note to myself"]
    assert bob.named("publication") == []


async def test_what_was_missed_in_them_comes_on_return_once_and_in_order(open_client: OpenClient, room: str) -> None:
    channel = f"recovery:{room}"
    reader = await open_client(user("reader", channels=[channel]))
    writer = await open_client(user("writer"))
    await reader.connect()
    await reader.event("subscribed", channel=channel)
    await writer.connected()
    await writer.publish(channel, 0)
    await reader.publications(1, channel)

    await reader.disconnect()
    for number in range(1, 21):
        await writer.publish(channel, number)
    await reader.connect()

    subscribed = await reader.event("subscribed", channel=channel)
    assert (subscribed["was_recovering"], subscribed["recovered"]) == (True, True)
    await writer.publish(channel, 21)
    assert await reader.publications(21, channel) == list(range(1, 22))


async def test_what_the_history_has_removed_is_reported_as_not_recovered(open_client: OpenClient, room: str) -> None:
    channel = f"small:{room}"
    reader = await open_client(user("reader", channels=[channel]))
    writer = await open_client(user("writer"))
    await reader.connect()
    await reader.event("subscribed", channel=channel)
    await writer.connected()
    await reader.disconnect()
    for number in range(5):
        await writer.publish(channel, number)
    await reader.connect()

    subscribed = await reader.event("subscribed", channel=channel)
    assert (subscribed["was_recovering"], subscribed["recovered"]) == (True, False)
    assert reader.named("publication") == []


async def test_a_channel_that_the_next_token_does_not_have_is_reported_as_left(
    open_sdk: OpenSdk, service: Starling, room: str
) -> None:
    both, one = [f"open:{room}", f"history:{room}"], [f"open:{room}"]

    async def return_with_less(sdk: str) -> None:
        tokens = iter(((1, both), (600, one)))

        async def get_token() -> str:
            ttl, channels = next(tokens)
            return connection_token("alice", ttl=ttl, expire_at=0, channels=channels)

        client = await open_sdk(sdk, service, ClientOptions(get_token=get_token))
        await client.connect()
        for channel in both:
            await client.event("subscribed", channel=channel)

        await asyncio.sleep(1.1)
        await client.cut()
        await client.event("subscribed", channel=one[0])
        await client.event("unsubscribed", channel=both[1])

    await with_every_sdk(return_with_less)
