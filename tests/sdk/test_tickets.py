"""Tickets as the token of an SDK: a spent one makes it fetch the next, and a right to resume is good on any pod."""

import asyncio
import json

from websockets.asyncio.client import connect

from tests.sdk.backend import API_KEY, order
from tests.sdk.client import ClientOptions
from tests.sdk.conftest import OpenClient, OpenSdk
from tests.sdk.serving import serving
from tests.support.running import Starling
from tests.support.services import RedisServer


async def test_a_spent_ticket_makes_the_sdk_fetch_another(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    fetched: list[str] = []
    channel = f"open:{room}"

    async def get_token() -> str:
        issued = await order(service, "ticket", user="alice", channels=[channel])
        fetched.append(issued["ticket"])
        return fetched[-1]

    client = await open_client(ClientOptions(get_token=get_token))
    await client.connected()
    assert len(fetched) == 1

    await client.cut()
    await client.event("connected")
    assert len(fetched) == 2
    # Its one reconnect with the spent ticket is an error of the connect command, not an end of the client.
    assert not client.named("disconnected")
    await order(service, "publish", channel=channel, data=7)
    assert (await client.event("publication", channel=channel))["data"] == 7


async def test_an_sdk_goes_on_with_a_right_to_resume_on_any_pod(open_sdk: OpenSdk, channels_file: str) -> None:
    with RedisServer() as redis:
        settings = {"STARLING_API_KEYS": API_KEY, "STARLING_BROKER_URL": redis.url, "STARLING_WORKERS": "1"}
        async with serving(channels_file, settings) as one, serving(channels_file, settings) as other:
            ticket = (await order(one, "ticket", user="alice", channels=["open:resumed"]))["ticket"]
            async with connect(f"{one.url}/connection/websocket", proxy=None) as first:
                await first.send(json.dumps({"id": 1, "connect": {"token": ticket}}))
                right = json.loads(await first.recv())["connect"]["resume"]

            for sdk in ("javascript-json", "python-protobuf"):
                client = await open_sdk(sdk, other, ClientOptions(token=right))
                await client.connected()
                await client.cut()
                await client.event("connected")
                await order(one, "publish", channel="open:resumed", data=sdk)
                assert (await client.event("publication", channel="open:resumed"))["data"] == sdk
                await client.disconnect()
                assert not [event for event in client.named("disconnected") if event["code"] != 0]


async def test_tickets_of_many_sdks_at_once_each_open_one_session(open_sdk: OpenSdk, service: Starling) -> None:
    ticket = (await order(service, "ticket", user="alice"))["ticket"]
    asked = []

    async def get_token() -> str:
        asked.append(1)
        return str((await order(service, "ticket", user="alice"))["ticket"])

    clients = [
        await open_sdk(sdk, service, ClientOptions(token=ticket, get_token=get_token))
        for sdk in ("javascript-json", "javascript-protobuf", "python-json", "python-protobuf")
    ]
    await asyncio.gather(*(client.connected() for client in clients))

    # One of them has spent the ticket that all had; the others fetched one each.
    assert len(asked) == len(clients) - 1
