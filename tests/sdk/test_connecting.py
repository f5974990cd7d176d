"""A client connects with every SDK: tokens, their refresh and their end, data, and what stops it for good."""

import asyncio

import pytest

from tests.sdk.client import ClientOptions, Refused, Unauthorized
from tests.sdk.conftest import OpenClient, OpenSdk, with_every_sdk
from tests.sdk.tokens import connection_token, user
from tests.support.running import Starling
from tests.support.waiting import DEADLINE


async def test_a_client_connects_and_disconnects(open_client: OpenClient) -> None:
    client = await open_client(user("alice"))

    connected = await client.connected()
    assert connected["client"]
    assert await client.state() == "connected"

    await client.disconnect()
    assert (await client.event("disconnected"))["code"] == 0
    assert await client.state() == "disconnected"


async def test_connecting_ten_times_at_once_ends_in_the_last_state(open_client: OpenClient) -> None:
    client = await open_client(user())

    for _ in range(10):
        await client.connect()
        await client.disconnect()
    assert await client.state() == "disconnected"

    await client.connect()
    await client.event("connected")


async def test_a_client_without_a_token_is_anonymous_where_that_is_allowed(
    open_client: OpenClient, narrow: Starling
) -> None:
    client = await open_client(of=narrow)
    assert (await client.connected())["data"] == {"user": "", "sent": None}

    await client.subscribed("open:anybody")
    await client.subscribe("history:members")
    assert (await client.event("unsubscribed"))["code"] == 103
    with pytest.raises(Refused) as refusal:
        await client.publish("open:anybody", 1)
    assert refusal.value.code == 103


async def test_a_token_comes_by_callback(open_client: OpenClient) -> None:
    asked = []

    async def get_token() -> str:
        asked.append(1)
        return connection_token("bob")

    client = await open_client(ClientOptions(get_token=get_token))
    await client.connected()
    assert len(asked) == 1


async def test_a_token_is_refreshed_as_it_ends_and_the_connection_stays(open_sdk: OpenSdk, service: Starling) -> None:
    async def refresh(sdk: str) -> None:
        asked = asyncio.Event()

        async def get_token() -> str:
            asked.set()
            return connection_token(ttl=600)

        client = await open_sdk(sdk, service, ClientOptions(token=connection_token(ttl=2), get_token=get_token))
        await client.connected()
        await asyncio.wait_for(asked.wait(), DEADLINE)
        await client.subscribed("open:after-refresh")
        assert len(client.named("connected")) == 1

    await with_every_sdk(refresh)


async def test_an_expired_token_lets_the_sdk_fetch_another(open_client: OpenClient) -> None:
    async def get_token() -> str:
        return connection_token()

    client = await open_client(ClientOptions(token=connection_token(ttl=-5), get_token=get_token))
    await client.connect()
    await client.error(109)
    await client.event("connected")


async def test_an_expired_token_without_a_callback_stops_the_sdk(open_client: OpenClient) -> None:
    client = await open_client(ClientOptions(token=connection_token(ttl=-5)))
    await client.connect()
    assert (await client.event("disconnected"))["reason"] == "unauthorized"


async def test_a_callback_that_brings_an_expired_token_at_refresh_is_asked_again(
    open_sdk: OpenSdk, service: Starling
) -> None:
    async def refresh(sdk: str) -> None:
        lifetimes = iter((1, -60, 600))
        last = asyncio.Event()

        async def get_token() -> str:
            lifetime = next(lifetimes)
            if lifetime == 600:
                last.set()
            return connection_token(ttl=lifetime)

        client = await open_sdk(sdk, service, ClientOptions(get_token=get_token))
        await client.connected()
        await client.error(109)
        await asyncio.wait_for(last.wait(), DEADLINE)
        await client.subscribed("open:after-refresh")
        assert len(client.named("connected")) == 1

    # The SDKs wait 5 to 10 seconds before they ask again.
    await with_every_sdk(refresh)


async def test_an_invalid_token_stops_the_sdk(open_client: OpenClient) -> None:
    client = await open_client(ClientOptions(token="invalid"))
    await client.connect()
    assert (await client.event("disconnected"))["code"] == 3500
    assert await client.state() == "disconnected"


async def test_no_token_where_one_is_needed_stops_the_sdk(open_client: OpenClient) -> None:
    client = await open_client()
    await client.connect()
    disconnected = await client.event("disconnected")
    assert (disconnected["code"], disconnected["reason"]) == (3500, "invalid token")


async def test_a_callback_that_says_unauthorized_stops_the_sdk(open_client: OpenClient) -> None:
    async def get_token() -> str:
        raise Unauthorized

    client = await open_client(ClientOptions(get_token=get_token))
    await client.connect()
    assert (await client.event("disconnected"))["code"] == 1


async def test_a_refresh_with_the_token_of_somebody_else_ends_the_connection_for_good(
    open_sdk: OpenSdk, service: Starling
) -> None:
    async def refresh(sdk: str) -> None:
        async def get_token() -> str:
            return connection_token("mallory")

        options = ClientOptions(token=connection_token("alice", ttl=1), get_token=get_token)
        client = await open_sdk(sdk, service, options)
        await client.connected()
        assert (await client.event("disconnected"))["code"] == 3500

    await with_every_sdk(refresh)
