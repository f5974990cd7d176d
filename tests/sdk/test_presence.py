"""Who is in a channel, and who comes and goes, as clients see it."""

import pytest

from tests.sdk.client import Refused, SubscriptionOptions
from tests.sdk.conftest import OpenClient
from tests.sdk.tokens import subscription_token, user


async def test_presence_reports_who_is_in_the_channel(open_client: OpenClient, room: str) -> None:
    alice = await open_client(user("alice", info={"name": "Alice"}))
    bob = await open_client(user("bob"))
    ids = [(await client.connected())["client"] for client in (alice, bob)]
    channel = f"presence:{room}"
    await alice.subscribed(channel)
    token = subscription_token(channel, "bob", info={"role": "guest"})
    await bob.subscribed(channel, SubscriptionOptions(token=token))
    await alice.event("join", channel=channel)
    await alice.event("join", channel=channel)

    clients = await alice.presence(channel)
    assert sorted(clients) == sorted(ids)
    assert clients[ids[0]]["user"] == "alice"
    assert clients[ids[0]]["conn_info"] == {"name": "Alice"}
    assert clients[ids[1]]["chan_info"] == {"role": "guest"}
    assert await bob.presence_stats(channel) == (2, 2)


async def test_two_connections_of_one_user_are_two_clients(open_client: OpenClient, room: str) -> None:
    phone, laptop = await open_client(user("alice")), await open_client(user("alice"))
    channel = f"presence:{room}"
    for client in (phone, laptop):
        await client.connected()
        await client.subscribed(channel)
    await laptop.event("join", channel=channel)
    assert await laptop.presence_stats(channel) == (2, 1)


async def test_joins_and_leaves_are_reported(open_client: OpenClient, room: str) -> None:
    alice, bob = await open_client(user("alice")), await open_client(user("bob"))
    channel = f"presence:{room}"
    await alice.connected()
    await alice.subscribed(channel)
    await bob.connected()
    await bob.subscribed(channel)

    while (join := await alice.event("join", channel=channel))["info"]["user"] != "bob":
        assert join["info"]["user"] == "alice"
    await bob.unsubscribe(channel)
    assert (await alice.event("leave", channel=channel))["info"]["user"] == "bob"

    await bob.resubscribe(channel)
    await alice.event("join", channel=channel)
    await bob.cut()
    assert (await alice.event("leave", channel=channel))["info"]["user"] == "bob"


async def test_joins_are_sent_to_those_who_asked(open_client: OpenClient, room: str) -> None:
    curious, other, guest = [await open_client(user(name)) for name in ("curious", "other", "guest")]
    channel = f"joins:{room}"
    for client in (curious, other, guest):
        await client.connected()
    await curious.subscribed(channel, SubscriptionOptions(join_leave=True))
    await other.subscribed(channel)
    await guest.subscribed(channel)

    while (await curious.event("join", channel=channel))["info"]["user"] != "guest":
        pass
    assert other.named("join") == []


@pytest.mark.parametrize(("channel", "code"), [("open:room", 108), ("presence:outside", 103)])
async def test_presence_is_kept_and_shown_only_where_it_is_said(
    open_client: OpenClient, channel: str, code: int
) -> None:
    client = await open_client(user())
    await client.connected()
    with pytest.raises(Refused) as refusal:
        await client.presence(channel)
    assert refusal.value.code == code
    with pytest.raises(Refused) as refusal:
        await client.presence_stats(channel)
    assert refusal.value.code == code
