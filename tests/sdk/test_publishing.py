"""Publications go from a client to clients of every SDK and wire format: whole, in order, and only where allowed."""

from typing import Any

import pytest

from tests.sdk.client import Refused
from tests.sdk.conftest import SDKS, OpenClient, OpenSdk
from tests.sdk.tokens import user
from tests.support.running import Starling


async def test_a_publication_reaches_clients_of_every_sdk_in_order(open_sdk: OpenSdk, service: Starling) -> None:
    readers = []
    for sdk in SDKS:
        reader = await open_sdk(sdk, service, user())
        await reader.connect()
        await reader.subscribed("open:all")
        readers.append(reader)

    for number, publisher in enumerate(readers):
        for item in range(5):
            await publisher.publish("open:all", {"from": number, "item": item})

    expected = [{"from": number, "item": item} for number in range(len(SDKS)) for item in range(5)]
    for reader in readers:
        assert await reader.publications(len(expected), "open:all") == expected


async def test_a_publication_says_who_published_it(open_client: OpenClient, room: str) -> None:
    alice = await open_client(user("alice", info={"name": "Alice"}))
    bob = await open_client(user("bob"))
    connected = await alice.connected()
    await bob.connect()
    await bob.subscribed(f"history:{room}")

    await alice.publish(f"history:{room}", 1)
    publication = await bob.event("publication")
    assert publication["offset"] == 1
    info = publication["info"]
    assert (info["user"], info["client"], info["conn_info"]) == ("alice", connected["client"], {"name": "Alice"})


@pytest.mark.parametrize(
    "data",
    [
        "plain",
        "Grüße, 你好, 🦜",
        'a \\ " and / and \n and \u2028',
        {"nested": [{"deep": [[[]]]}, None, True, -1.5, ""]},
        0,
        False,
        "x" * 60_000,
    ],
    ids=["text", "unicode", "escapes", "nested", "zero", "false", "large"],
)
async def test_data_arrives_as_it_was(open_client: OpenClient, data: Any) -> None:
    client = await open_client(user())
    await client.connect()
    await client.subscribed("open:data")
    await client.publish("open:data", data)
    assert await client.publications(1, "open:data") == [data]


async def test_a_channel_may_bear_any_name_of_the_world(open_client: OpenClient) -> None:
    client = await open_client(user())
    await client.connect()
    channel = "open:Straße/你好 🦜?&=#%"
    await client.subscribed(channel)
    await client.publish(channel, 1)
    assert await client.publications(1, channel) == [1]


@pytest.mark.parametrize(
    ("channel", "code"),
    [("quiet:room", 103), ("token:room", 103), ("nowhere:room", 102), ("open:{}", 107)],
)
async def test_publishing_without_the_right_is_refused(open_client: OpenClient, channel: str, code: int) -> None:
    client = await open_client(user())
    await client.connected()
    with pytest.raises(Refused) as refusal:
        await client.publish(channel, 1)
    assert refusal.value.code == code


async def test_the_right_of_subscribers_is_theirs_only(open_client: OpenClient) -> None:
    client = await open_client(user("alice"))
    await client.connected()
    with pytest.raises(Refused) as refusal:
        await client.publish("users:room#alice", 1)
    assert refusal.value.code == 103

    await client.subscribed("users:room#alice")
    await client.publish("users:room#alice", 1)
    assert await client.publications(1, "users:room#alice") == [1]
