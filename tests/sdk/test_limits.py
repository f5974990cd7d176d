"""Limits of one client: what every SDK is told, and that it comes back or stays away."""

import asyncio

from tests.sdk.client import Refused
from tests.sdk.conftest import OpenSdk, with_every_sdk
from tests.sdk.serving import serving
from tests.sdk.tokens import user


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
