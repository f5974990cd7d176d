"""What clients and an application that is hooked into the service say to each other, over every SDK."""

import asyncio

import pytest

from tests.sdk.client import ClientOptions, Refused
from tests.sdk.conftest import OpenClient, until_others_return
from tests.sdk.tokens import connection_token, user
from tests.support.running import Starling
from tests.support.waiting import DEADLINE

CLOSED = "starling_connections_closed_total{"


async def test_connect_data_goes_to_the_application_and_returns(open_client: OpenClient, narrow: Starling) -> None:
    options = ClientOptions(token=connection_token("alice"), data={"device": "phone"}, name="shop", version="1.2")
    client = await open_client(options, of=narrow)

    connected = await client.connected()
    assert connected["data"] == {"user": "alice", "sent": {"device": "phone"}}


async def test_a_method_answers(open_client: OpenClient, narrow: Starling) -> None:
    client = await open_client(user(), of=narrow)
    await client.connected()
    assert await client.rpc("double", {"number": 21}) == {"doubled": 42}


async def test_a_call_made_before_connecting_is_answered_after_it(open_client: OpenClient, narrow: Starling) -> None:
    client = await open_client(user(), of=narrow)
    await client.connect()
    assert await client.rpc("double", {"number": 1}) == {"doubled": 2}


async def test_a_method_that_the_application_does_not_have_is_104(open_client: OpenClient, narrow: Starling) -> None:
    client = await open_client(user(), of=narrow)
    await client.connected()
    with pytest.raises(Refused) as refusal:
        await client.rpc("halve", {"number": 1})
    assert refusal.value.code == 104


async def test_without_an_application_calls_are_not_available(open_client: OpenClient) -> None:
    client = await open_client(user())
    await client.connected()
    with pytest.raises(Refused) as refusal:
        await client.rpc("double", {"number": 1})
    assert refusal.value.code == 108


async def test_an_application_refuses_with_a_code_of_its_choice(open_client: OpenClient, narrow: Starling) -> None:
    client = await open_client(user(), of=narrow)
    await client.connected()
    await client.subscribe("open:members")
    unsubscribed = await client.event("unsubscribed", channel="open:members")
    assert (unsubscribed["code"], unsubscribed["reason"]) == (101, "unauthorized")


async def test_a_fault_of_the_application_is_temporary_for_its_clients(
    open_client: OpenClient, narrow: Starling
) -> None:
    client = await open_client(user(), of=narrow)
    await client.connected()
    await client.subscribe("open:broken")
    # The SDK subscribes again and again, for the fault may pass.
    await client.error(100, channel="open:broken")
    await client.error(100, channel="open:broken")
    assert await client.subscription_state("open:broken") == "subscribing"


async def test_an_application_turns_a_client_away_with_3507_for_good(open_client: OpenClient, narrow: Starling) -> None:
    client = await open_client(user("banned"), of=narrow)
    await client.connect()
    disconnected = await client.event("disconnected")
    assert (disconnected["code"], disconnected["reason"]) == (3507, "permission denied")
    await until_others_return(open_client)
    assert await client.state() == "disconnected"


async def test_an_application_turns_a_client_away_with_a_code_that_brings_it_back(
    open_client: OpenClient, narrow: Starling
) -> None:
    def closes() -> float:
        metrics = narrow.metrics()
        return sum(value for name, value in metrics.items() if name.startswith(CLOSED) and 'code="4100"' in name)

    before = await asyncio.to_thread(closes)
    client = await open_client(user("moved"), of=narrow)
    await client.connect()
    async with asyncio.timeout(DEADLINE):
        while await asyncio.to_thread(closes) < before + 2:
            await asyncio.sleep(0.1)
    assert await client.state() == "connecting"
    await client.disconnect()
