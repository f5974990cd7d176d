"""The JavaScript SDK as it is over HTTP streaming and SSE, and its fallback where WebSocket does not get through."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect

from tests.sdk.client import Refused
from tests.sdk.conftest import STREAMED_SDKS, OpenSdk
from tests.sdk.javascript_sdk import JavaScriptClient
from tests.sdk.tokens import connection_token, user
from tests.support.running import Starling
from tests.support.waiting import DEADLINE

each_sdk = pytest.mark.parametrize("sdk", STREAMED_SDKS)


@each_sdk
async def test_everything_that_a_client_does_works(open_sdk: OpenSdk, narrow: Starling, sdk: str, room: str) -> None:
    alice, bob = await open_sdk(sdk, narrow, user("alice")), await open_sdk(sdk, narrow, user("bob"))
    await alice.connected()
    await bob.connected()
    channel = f"recovery:{room}"
    await alice.subscribed(channel)
    await bob.subscribed(channel)
    await asyncio.gather(*(alice.publish(channel, number) for number in range(20)))
    assert await bob.publications(20, channel) == list(range(20))
    assert (await bob.history(channel, limit=0))["offset"] == 20
    assert await alice.rpc("double", {"number": 21}) == {"doubled": 42}
    with pytest.raises(Refused, match="103"):
        await bob.publish(f"quiet:{room}", "no right")


@each_sdk
async def test_a_client_that_lost_its_stream_recovers_by_itself(
    open_sdk: OpenSdk, service: Starling, sdk: str, room: str
) -> None:
    reader, writer = await open_sdk(sdk, service, user()), await open_sdk(sdk, service, user())
    channel = f"recovery:{room}"
    await reader.connected()
    await reader.subscribed(channel)
    await writer.connected()
    await reader.cut()
    for number in range(5):
        await writer.publish(channel, number)
    assert await reader.publications(5, channel) == list(range(5))


async def pings(starling: Starling, count: int) -> None:
    """Wait until a client that connects now has got as many pings, and answered them."""
    async with connect(f"{starling.url}/connection/websocket") as client:
        await client.send(json.dumps({"id": 1, "connect": {"token": connection_token("beside")}}))
        while count:
            if await asyncio.wait_for(client.recv(), DEADLINE) == "{}":
                await client.send("{}")
                count -= 1


async def test_idle_clients_send_nothing_and_stay(open_sdk: OpenSdk, narrow: Starling) -> None:
    async def be_idle(sdk: str) -> None:
        client = await open_sdk(sdk, narrow, user())
        assert isinstance(client, JavaScriptClient)
        await client.connected()
        before = await client.sent()
        # The service pings every 2 s here, and waits 1 s: two pings without an answer.
        await pings(narrow, 3)
        assert (await client.sent(), await client.state()) == (before, "connected")

    await asyncio.gather(*map(be_idle, STREAMED_SDKS))


@each_sdk
async def test_a_client_whose_websocket_is_refused_goes_on_over_the_next_transport(
    open_sdk: OpenSdk, service: Starling, sdk: str, room: str
) -> None:
    language, wire_format, transport = sdk.split("-")
    client = await open_sdk(f"{language}-{wire_format}-refused_websocket-{transport}", service, user())
    assert isinstance(client, JavaScriptClient)
    await client.connected()
    assert await client.transport() == transport
    await client.subscribed(f"open:{room}")
    await client.publish(f"open:{room}", "through")
    assert await client.publications(1, f"open:{room}") == ["through"]
