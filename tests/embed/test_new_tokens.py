"""What a new token changes for a client whose hooks said something else, and in channels that the token names."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from starling import Accept, Client, Starling
from starling.auth.issue import issue_subscription_token
from starling.auth.tokens import Credentials
from starling.testing import RunningService, service
from starling.testing.client import ServiceClient
from starling.testing.service import SECRET
from starling.web.authority import RevocableVerifier

CHANNELS = """
namespaces:
  room: {presence: true, allow_subscribe_for_client: true}
"""
HOOK_INFO = {"from": "hook"}
LATER = 3600


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningService]:
    (tmp_path / "channels.yaml").write_text(CHANNELS)
    starling = Starling(environment={}, token_hmac_secret=SECRET, channels_file=tmp_path / "channels.yaml")

    @starling.on_connect
    async def connect(client: Client) -> Accept | None:
        if client.user == "kept":
            return Accept(info=HOOK_INFO, meta={"plan": "hook"})
        return Accept(expire_at=time.time() + 60) if client.user == "ending" else None

    @starling.on_subscribe
    async def subscribe(client: Client, channel: str) -> Accept | None:
        if channel.endswith("kept"):
            return Accept(info=HOOK_INFO)
        return Accept(expire_at=time.time() + 60) if channel.endswith("ending") else None

    @starling.rpc("meta")
    async def meta(client: Client) -> Any:
        return client.meta.decode()

    async with service(starling) as started:
        yield started


async def shown(running: RunningService, channel: str, name: str = "conn_info") -> Any:
    """What presence shows of the only client in a channel."""
    (info,) = (await running.starling.presence(channel)).values()
    raw = bytes(getattr(info, name) or b"")
    return raw.decode()


def subscription(user: str, channel: str, ttl: float = LATER, **claims: Any) -> str:
    return issue_subscription_token(SECRET, user, channel, ttl, **claims)


async def refresh(running: RunningService, client: ServiceClient, within: float = 2.0, **claims: Any) -> dict[str, Any]:
    return await client.command("refresh", {"token": running.token(client.user, **claims)}, within=within)


async def test_what_a_hook_said_of_a_client_stays_until_a_token_says_something_else(running: RunningService) -> None:
    client = await running.connect("kept", info={"n": 1}, meta={"plan": "token"})
    await client.subscribe("room:a")

    await refresh(running, client, info={"n": 1}, meta={"plan": "token"})
    assert await shown(running, "room:a") == '{"from":"hook"}'
    assert await client.command("rpc", {"method": "meta", "data": {}}) == {"data": '{"plan":"hook"}'}

    await refresh(running, client, info={"n": 2}, meta={"plan": "token"})
    assert await shown(running, "room:a") == '{"n":2}'
    assert await client.command("rpc", {"method": "meta", "data": {}}) == {"data": '{"plan":"hook"}'}

    await refresh(running, client, info={"n": 2}, meta={"plan": "new"})
    assert await shown(running, "room:a") == '{"n":2}'
    assert await client.command("rpc", {"method": "meta", "data": {}}) == {"data": '{"plan":"new"}'}


async def test_what_a_hook_said_of_a_subscription_stays_until_a_token_says_something_else(
    running: RunningService,
) -> None:
    client, channel = await running.connect("ann"), "$room:kept"
    await client.subscribe(channel, token=subscription("ann", channel, info={"n": 1}))

    for info, seen in (({"n": 1}, '{"from":"hook"}'), ({"n": 2}, '{"n":2}'), ({"n": 2}, '{"n":2}'), (None, "")):
        await client.command("sub_refresh", {"channel": channel, "token": subscription("ann", channel, info=info)})
        assert await shown(running, channel, "chan_info") == seen


async def test_no_token_moves_the_end_that_a_hook_set_for_a_connection(running: RunningService) -> None:
    client = await running.connect("ending")

    assert await refresh(running, client) == {}
    await running.turn(59)
    assert (await refresh(running, client), client.closed) == ({}, None)
    await running.turn(2)
    assert client.closed == 3005


async def test_a_token_that_ends_before_the_hooks_end_is_renewed_until_then(running: RunningService) -> None:
    client = await running.connect("ending", ttl=30)

    assert (await refresh(running, client, ttl=40))["expires"]
    await running.turn(39)
    assert await refresh(running, client, ttl=40) == {}
    await running.turn(22)
    assert client.closed == 3005


async def test_a_backend_moves_the_end_that_a_hook_set(running: RunningService) -> None:
    client = await running.connect("ending")
    await running.starling.refresh("ending", expire_at=int(time.time()) + LATER)
    await running.turn(100)

    assert client.closed is None
    assert (await refresh(running, client))["expires"]


@pytest.fixture
def slow_keys(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Has each verification of a connection token wait, as for keys that must be fetched.

    The first event is set when one waits, and the second has it go on.
    """
    waits, go_on, verify = asyncio.Event(), asyncio.Event(), RevocableVerifier.connection

    async def slowly(self: RevocableVerifier, token: str) -> Credentials:
        waits.set()
        await go_on.wait()
        return await verify(self, token)

    monkeypatch.setattr(RevocableVerifier, "connection", slowly)
    return waits, go_on


async def test_the_end_that_a_backend_sets_while_a_new_token_is_verified_stands_in_place_of_the_hooks(
    running: RunningService, slow_keys: tuple[asyncio.Event, asyncio.Event]
) -> None:
    waits, go_on = slow_keys
    client = await running.connect("ending")
    refreshing = asyncio.create_task(refresh(running, client))
    await waits.wait()
    await running.starling.refresh("ending", expire_at=int(time.time()) + LATER)
    go_on.set()

    assert (await refreshing)["expires"]
    await running.turn(100)
    assert client.closed is None


async def test_the_time_that_the_verification_of_a_token_takes_ends_no_channel_of_it_earlier(
    running: RunningService, slow_keys: tuple[asyncio.Event, asyncio.Event]
) -> None:
    waits, go_on = slow_keys
    now = int(time.time())
    client = await running.connect("ann", subs={"room:a": {"expire_at": now + 100}})
    refreshing = asyncio.create_task(refresh(running, client, LATER, subs={"room:a": {"expire_at": now + 110}}))
    await waits.wait()
    await running.turn(60)
    go_on.set()
    await refreshing

    await running.turn(20)
    assert client.closed is None
    await running.turn(31)
    assert client.closed == 3006


@pytest.mark.parametrize("channel", ["$room:ending", "room:ending"])
async def test_no_token_moves_the_end_that_a_hook_set_for_a_subscription(running: RunningService, channel: str) -> None:
    client, token = await running.connect("ann"), subscription("ann", channel)
    first = await client.command("subscribe", {"channel": channel, "token": token if channel[0] == "$" else ""})

    assert "expires" not in first
    assert await client.command("sub_refresh", {"channel": channel, "token": token}) == {}
    await running.turn(59)
    assert await client.command("sub_refresh", {"channel": channel, "token": token}) == {}
    await running.turn(2)
    assert {"channel": channel, "unsubscribe": {"code": 2501, "reason": "expired"}} in [
        event.get("push") for event in client.events
    ]


async def test_what_a_new_token_says_of_its_channels_counts_from_then_on(running: RunningService) -> None:
    now = int(time.time())
    client = await running.connect("ann", subs={"room:a": {"info": {"n": 1}, "expire_at": now + 60}})

    await refresh(running, client, subs={"room:a": {"info": {"n": 2}, "expire_at": now + 120}})
    assert await shown(running, "room:a", "chan_info") == '{"n":2}'
    await running.turn(100)
    assert client.closed is None
    await refresh(running, client, subs={"room:a": {"info": {"n": 2}, "expire_at": now + 150}}, info="new")
    assert (await shown(running, "room:a", "chan_info"), await shown(running, "room:a")) == ('{"n":2}', '"new"')
    await running.turn(60)
    assert client.closed == 3006


async def test_a_subscription_of_the_clients_own_is_not_changed_by_the_token_of_its_connection(
    running: RunningService,
) -> None:
    client = await running.connect("ann", subs={"room:a": {"info": {"n": 1}}})
    await client.command("unsubscribe", {"channel": "room:a"})
    await client.subscribe("room:a", token=subscription("ann", "room:a", info="own"))

    await refresh(running, client, subs={"room:a": {"info": {"n": 2}, "expire_at": int(time.time()) + 60}})

    await running.turn(100)
    assert await shown(running, "room:a", "chan_info") == '"own"'


async def test_a_client_that_is_on_its_way_into_a_channel_is_shown_by_its_new_token(tmp_path: Path) -> None:
    (tmp_path / "channels.yaml").write_text(CHANNELS)
    starling = Starling(environment={}, token_hmac_secret=SECRET, channels_file=tmp_path / "channels.yaml")
    async with service(starling) as running:
        client = await running.connect("ann", info={"n": 1})
        presence = starling.broker.presence
        assert presence is not None
        entered, go_on, add = asyncio.Event(), asyncio.Event(), presence.add

        async def slow_add(channel: str, info: Any) -> bool:
            first = await add(channel, info)
            if not entered.is_set():
                entered.set()
                await go_on.wait()
            return first

        presence.add = slow_add  # type: ignore[method-assign]
        subscribing = asyncio.create_task(client.subscribe("room:a"))
        await entered.wait()
        await refresh(running, client, info={"n": 2})
        go_on.set()
        await subscribing

        assert await shown(running, "room:a") == '{"n":2}'
