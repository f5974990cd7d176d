"""Services, brokers and links fail; clients of every SDK return and have everything, once and in order."""

import asyncio
import os
import signal

import redis

from tests.sdk.client import Client, Refused
from tests.sdk.conftest import SDKS, OpenSdk
from tests.sdk.serving import serving
from tests.sdk.tokens import user
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE


async def everywhere(open_sdk: OpenSdk, service: Starling, channel: str, *, server_side: bool = False) -> list[Client]:
    """A client of every SDK, connected and in the channel."""
    clients = []
    for sdk in SDKS:
        client = await open_sdk(sdk, service, user("reader", channels=[channel] if server_side else []))
        await client.connected()
        if server_side:
            await client.event("subscribed", channel=channel)
        else:
            await client.subscribed(channel)
        clients.append(client)
    return clients


async def test_a_cut_link_is_made_again_with_what_was_missed(open_sdk: OpenSdk, service: Starling, room: str) -> None:
    channel = f"recovery:{room}"
    readers = await everywhere(open_sdk, service, channel)
    writer = await open_sdk("python-json", service, user("writer"))
    await writer.connected()
    for number in range(50):
        if number % 10 == 5:
            for reader in readers:
                await reader.cut()
        await writer.publish(channel, number)
        if number % 10 == 9:
            for reader in readers:
                await reader.event("subscribed", channel=channel)
    for reader in readers:
        assert await reader.publications(50, channel) == list(range(50))
        assert [event["offset"] for event in reader.named("publication")] == list(range(1, 51))


async def test_a_killed_service_is_replaced_and_what_was_published_meanwhile_recovered(
    open_sdk: OpenSdk, channels_file: str, redis_server: RedisServer, room: str
) -> None:
    channel = f"recovery:{room}"
    settings = {"STARLING_BROKER_URL": redis_server.url, "STARLING_WORKERS": "1"}
    async with serving(channels_file, settings) as other:
        async with serving(channels_file, settings) as first:
            readers = await everywhere(open_sdk, first, channel)
            readers += await everywhere(open_sdk, first, channel, server_side=True)
            writer = await open_sdk("python-json", other, user("writer"))
            await writer.connected()
            await writer.publish(channel, 0)
            for reader in readers:
                await reader.publications(1, channel)
            os.killpg(first.process.pid, signal.SIGKILL)
            for number in range(1, 30):
                await writer.publish(channel, number)
        async with serving(channels_file, settings, in_place_of=first):
            for reader in readers:
                subscribed = await reader.event("subscribed", channel=channel)
                assert (subscribed["was_recovering"], subscribed["recovered"]) == (True, True)
            await writer.publish(channel, 30)
            for reader in readers:
                assert await reader.publications(30, channel) == list(range(1, 31))
                await reader.disconnect()
            await writer.disconnect()


async def test_a_stream_that_broke_off_is_reported_with_2500_and_3010(
    open_sdk: OpenSdk, channels_file: str, redis_server: RedisServer, room: str
) -> None:
    channel = f"recovery:{room}"
    settings = {"STARLING_BROKER_URL": redis_server.url, "STARLING_WORKERS": "1"}
    async with serving(channels_file, settings) as service:
        subscribers = await everywhere(open_sdk, service, channel)
        entered = await everywhere(open_sdk, service, channel, server_side=True)
        writer = await open_sdk("python-json", service, user("writer"))
        await writer.connected()
        await writer.publish(channel, "before")
        for client in (*subscribers, *entered):
            assert await client.publications(1, channel) == ["before"]

        with redis.Redis.from_url(redis_server.url) as store:
            store.flushall()
        await writer.publish(channel, "after")

        for client in subscribers:
            subscribing = await client.event("subscribing", channel=channel, code=2500)
            assert subscribing["reason"] == "insufficient state"
        for client in entered:
            assert (await client.event("connecting", code=3010))["reason"] == "insufficient state"
        for client in (*subscribers, *entered):
            subscribed = await client.event("subscribed", channel=channel)
            assert (subscribed["was_recovering"], subscribed["recovered"]) == (True, False)
        await writer.publish(channel, "again")
        for client in (*subscribers, *entered):
            assert (await client.event("publication", data="again"))["channel"] == channel
            await client.disconnect()


async def test_without_the_broker_a_publication_is_100_and_later_goes_through(
    open_sdk: OpenSdk, channels_file: str, redis_server: RedisServer, room: str
) -> None:
    channel = f"recovery:{room}"
    settings = {"STARLING_BROKER_URL": redis_server.url, "STARLING_BROKER_TIMEOUT_SECONDS": "0.5"}
    async with serving(channels_file, {**settings, "STARLING_WORKERS": "1"}) as service:
        clients = await everywhere(open_sdk, service, channel)
        redis_server.freeze()
        refusals = await asyncio.gather(
            *(client.publish(channel, "lost") for client in clients), return_exceptions=True
        )
        redis_server.thaw()
        for refusal in refusals:
            assert isinstance(refusal, Refused)
            assert (refusal.code, refusal.message) == (100, "internal server error")

        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    await clients[0].publish(channel, "found")
                    break
                except Refused:
                    await asyncio.sleep(0.1)
        for client in clients:
            await client.event("publication", data="found")
            await client.disconnect()
