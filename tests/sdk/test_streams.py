"""Append-only streams read by the SDKs as they are: from the start, on after a lost connection, and to the end."""

import pytest

from tests.sdk.backend import order
from tests.sdk.client import Client
from tests.sdk.conftest import OpenClient
from tests.sdk.tokens import user
from tests.support.running import Starling


@pytest.fixture
async def client(open_client: OpenClient) -> Client:
    client = await open_client(user())
    await client.connected()
    return client


async def test_a_reader_gets_all_of_a_stream_over_a_lost_connection_and_stops_it(
    client: Client, service: Starling, room: str
) -> None:
    channel = f"answers:{room}"
    await order(service, "stream_open", channel=channel)
    for text in ("Once ", "upon "):
        await order(service, "stream_append", channel=channel, text=text)
    await client.subscribed(channel)
    assert await client.publications(1, channel) == [{"text": "Once upon "}]

    await order(service, "stream_append", channel=channel, text="a ")
    assert await client.publications(1, channel) == [{"text": "a "}]
    await client.cut()
    for text in ("ti", "me"):
        await order(service, "stream_append", channel=channel, text=text)
    await order(service, "stream_append", channel=channel, text="!")

    rest = ""
    while not rest.endswith("!"):
        (publication,) = await client.publications(1, channel)
        rest += publication["text"]
    assert rest == "time!"
    await client.publish(channel, {"cancel": "enough"})
    assert (await order(service, "stream_info", channel=channel))["status"] == "cancelled"
