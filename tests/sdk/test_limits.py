"""Limits of one client: what every SDK got, and that it returns or stays away."""

import asyncio

from tests.sdk.client import ClientOptions, Refused
from tests.sdk.conftest import OpenSdk, with_every_sdk
from tests.sdk.serving import serving
from tests.sdk.tokens import user
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE


async def test_commands_over_the_rate_are_111_and_far_over_it_3013(
    open_sdk: OpenSdk, channels_file: str, room: str
) -> None:
    rate = {"STARLING_MESSAGES_PER_SECOND": "0.001", "STARLING_MESSAGE_BURST": "10"}
    async with serving(channels_file, rate) as service:

        async def flood(sdk: str) -> None:
            client = await open_sdk(sdk, service, user())
            # The connect command is the first of ten, the subscribe command the second.
            await client.connected()
            await client.subscribed(f"open:{room}")
            for number in range(8):
                await client.publish(f"open:{room}", number)
            refusals = await asyncio.gather(
                *(client.publish(f"open:{room}", number) for number in range(8, 18)), return_exceptions=True
            )
            assert [refusal.code for refusal in refusals if isinstance(refusal, Refused)] == [111] * 10
            assert len(client.named("connecting")) == 1

            await asyncio.gather(client.publish(f"open:{room}", 18), return_exceptions=True)

            assert (await client.event("connecting", code=3013))["reason"] == "too many requests"
            await client.event("subscribed", channel=f"open:{room}")
            await client.disconnect()

        await with_every_sdk(flood)


async def test_one_connection_of_a_user_more_than_allowed_is_3504_and_the_others_stay(
    open_sdk: OpenSdk, channels_file: str, redis_server: RedisServer
) -> None:
    limit = {
        "STARLING_MAX_CONNECTIONS_PER_USER": "2",
        "STARLING_ALLOW_ANONYMOUS": "true",
        "STARLING_BROKER_URL": redis_server.url,
        "STARLING_WORKERS": "1",
    }
    # Two services over one Redis are two pods.
    async with serving(channels_file, limit) as first, serving(channels_file, limit) as second:

        async def play(sdk: str) -> None:
            inside = [await open_sdk(sdk, pod, user(sdk)) for pod in (first, second)]
            for client in inside:
                await client.connected()
            for pod in (first, second):
                refused = await open_sdk(sdk, pod, user(sdk))
                await refused.connect()
                disconnected = await refused.event("disconnected")
                assert (disconnected["code"], disconnected["reason"]) == (3504, "connection limit")
            assert [await client.state() for client in inside] == ["connected", "connected"]

            # Who leaves makes room, wherever that is noticed; another user has its own.
            await inside[0].disconnect()
            for name in (sdk, f"another-{sdk}"):
                await until_connected(open_sdk, sdk, second, name)
            for _ in range(3):
                nobody = await open_sdk(sdk, first, ClientOptions())
                await nobody.connected()

        await with_every_sdk(play)


async def until_connected(open_sdk: OpenSdk, sdk: str, pod: Starling, name: str) -> None:
    """Connect once there is room: the other pod's leave is on its way."""
    async with asyncio.timeout(DEADLINE):
        while True:
            client = await open_sdk(sdk, pod, user(name))
            await client.connect()
            while await client.state() == "connecting":
                await asyncio.sleep(0.02)
            if await client.state() == "connected":
                return
