"""What a backend orders over the server API, as clients of every SDK live through it."""

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from tests.sdk.backend import order
from tests.sdk.client import Client, SubscriptionOptions
from tests.sdk.conftest import SDKS, OpenClient, OpenSdk, until_others_return, with_every_sdk
from tests.sdk.tokens import user
from tests.support.running import Starling


async def test_a_backend_publishes_with_tags(open_client: OpenClient, service: Starling, room: str) -> None:
    client = await open_client(user())
    await client.connected()
    await client.subscribed(f"open:{room}")

    await order(service, "publish", channel=f"open:{room}", data={"price": 7}, tags={"ticker": "AAPL"})
    publication = await client.event("publication")
    assert (publication["data"], publication["tags"]) == ({"price": 7}, {"ticker": "AAPL"})
    assert not publication.get("info")


async def test_a_backend_takes_a_client_out_of_a_channel_with_2000_for_good(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    channel = f"open:{room}"
    client = await open_client(user(room))
    await client.connected()
    await client.subscribed(channel)

    await order(service, "unsubscribe", user=room, channel=channel)
    unsubscribed = await client.event("unsubscribed", channel=channel)
    assert (unsubscribed["code"], unsubscribed["reason"]) == (2000, "server unsubscribe")
    assert await client.subscription_state(channel) == "unsubscribed"
    await client.publish(channel, "not for it")

    await client.resubscribe(channel)
    await client.event("subscribed", channel=channel)
    await client.publish(channel, "for it")
    assert await client.publications(1, channel) == ["for it"]


@pytest.mark.parametrize(
    ("code", "reason"), [(2500, "insufficient state"), (2600, "server unsubscribe"), (2999, "own")]
)
async def test_a_backend_makes_every_sdk_subscribe_again_by_a_code_from_2500_on(
    open_sdk: OpenSdk, service: Starling, room: str, code: int, reason: str
) -> None:
    async def scenario(sdk: str) -> None:
        name, channel = room + sdk, f"open:{room}{sdk}"
        client = await open_sdk(sdk, service, user(name))
        await client.connected()
        await client.subscribed(channel)
        given = {"reason": "own"} if reason == "own" else {}
        await order(service, "unsubscribe", user=name, channel=channel, code=code, **given)
        assert (await client.event("subscribing", channel=channel, code=code))["reason"] == reason
        await client.event("subscribed", channel=channel)
        await client.publish(channel, "for it")
        assert await client.publications(1, channel) == ["for it"]

    await with_every_sdk(scenario)


async def test_a_client_whose_state_is_invalid_fetches_it_anew_by_2502_and_3014(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    channel = f"recovery:{room}"
    client = await open_client(user(room))
    await client.connected()
    asked = []

    async def get_state(of: str) -> dict[str, Any]:
        asked.append(of)
        position = await order(service, "history", channel=of)
        return {"offset": position["offset"], "epoch": position["epoch"]}

    await order(service, "publish", channel=channel, data=1)
    await client.subscribed(channel, SubscriptionOptions(get_state=get_state))
    assert asked == [channel]
    await client.event("subscribing", channel=channel)

    await order(service, "unsubscribe", user=room, channel=channel, code=2502)
    assert (await client.event("subscribing", channel=channel))["reason"] == "state invalidated"
    await client.event("subscribed", channel=channel)
    assert asked == [channel] * 2

    await order(service, "disconnect", user=room, disconnect={"code": 3014, "reason": "state invalidated"})
    await client.event("connecting", code=3014)
    await client.event("subscribed", channel=channel)
    assert asked == [channel] * 3
    await order(service, "publish", channel=channel, data=2)
    assert await client.publications(1, channel) == [2]


async def test_a_backend_enters_a_client_in_a_channel_and_takes_it_out(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    channel = f"recovery:{room}"
    client = await open_client(user(room))
    await client.connected()
    for number in range(3):
        await order(service, "publish", channel=channel, data=number)
    epoch = (await order(service, "history", channel=channel))["epoch"]

    since = {"offset": 1, "epoch": epoch}
    await order(service, "subscribe", user=room, channel=channel, data={"motto": "in"}, recover_since=since)
    subscribed = await client.event("subscribed", channel=channel)
    assert subscribed["data"] == {"motto": "in"}
    await order(service, "publish", channel=channel, data=3)
    assert await client.publications(3, channel) == [1, 2, 3]

    await order(service, "unsubscribe", user=room, channel=channel)
    await client.event("unsubscribed", channel=channel)


async def test_a_backend_that_ends_the_time_of_a_connection_ends_it_with_3005(
    open_sdk: OpenSdk, service: Starling, room: str
) -> None:
    async def end(sdk: str) -> None:
        client = await open_sdk(sdk, service, user(room + sdk))
        await client.connected()
        await order(service, "refresh", user=room + sdk, expired=True)
        await client.event("connecting", code=3005)
        # Its token is good still.
        await client.event("connected")

    await with_every_sdk(end)


async def test_a_backend_gives_a_connection_another_end_and_the_client_lives_on(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    client = await open_client(user(room))
    await client.connected()
    await order(service, "refresh", user=room, expire_at=int(time.time()) + 600)
    await client.subscribed(f"open:{room}")
    assert len(client.named("connected")) == 1


async def disconnected_with(open_sdk: OpenSdk, service: Starling, name: str, code: int | None) -> list[Client]:
    """A client of every SDK that was connected and then disconnected by a backend."""
    clients = []
    for sdk in SDKS:
        client = await open_sdk(sdk, service, user(name))
        await client.connected()
        clients.append(client)
    disconnect = {"disconnect": {"code": code, "reason": "by the backend"}} if code else {}
    await order(service, "disconnect", user=name, **disconnect)
    return clients


async def test_a_backend_that_disconnects_a_client_stops_it_with_3503(
    open_sdk: OpenSdk, service: Starling, room: str
) -> None:
    clients = await disconnected_with(open_sdk, service, room, None)
    for client in clients:
        disconnected = await client.event("disconnected")
        assert (disconnected["code"], disconnected["reason"]) == (3503, "force disconnect")


@pytest.mark.parametrize("code", [3004, 3006, 3009, 3011, 3013, 4000, 4499])
async def test_these_codes_of_a_backend_bring_every_sdk_back(
    open_sdk: OpenSdk, service: Starling, room: str, code: int
) -> None:
    for client in await disconnected_with(open_sdk, service, room, code):
        assert (await client.event("connecting", code=code))["reason"] == "by the backend"
        await client.event("connected")


async def test_code_3000_of_a_backend_ends_the_connection_without_a_code_and_every_sdk_reconnects(
    open_sdk: OpenSdk, service: Starling, room: str
) -> None:
    for client in await disconnected_with(open_sdk, service, room, 3000):
        assert (await client.event("connecting", code=1))["reason"] == "transport closed"
        await client.event("connected")


async def test_these_codes_of_a_backend_stop_every_sdk(open_sdk: OpenSdk, service: Starling, room: str) -> None:
    stopped = {}
    for code in (3504, 3507, 3999, 4500, 4999):
        stopped[code] = await disconnected_with(open_sdk, service, f"{room}-{code}", code)
    for code, clients in stopped.items():
        for client in clients:
            assert (await client.event("disconnected"))["code"] == code
    await asyncio.gather(*(until_others_return(partial(open_sdk, sdk, service)) for sdk in SDKS))
    for clients in stopped.values():
        for client in clients:
            assert await client.state() == "disconnected"


async def test_a_subscription_that_a_backend_made_for_a_time_ends_with_3006(
    open_client: OpenClient, service: Starling, room: str
) -> None:
    name = f"timed-{room}"
    client = await open_client(user(name))
    await client.connected()
    await order(service, "subscribe", user=name, channel=f"open:{room}", expire_at=time.time() + 1.2)
    await client.event("subscribed", channel=f"open:{room}")

    assert (await client.event("connecting", code=3006))["reason"] == "subscription expired"
    await client.event("connected")
    # It was the backend's, so nobody subscribes again.
    await client.event("unsubscribed", channel=f"open:{room}")
