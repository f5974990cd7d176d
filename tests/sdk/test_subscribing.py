"""A client enters and leaves channels with every SDK: by what a namespace allows, by tokens, and never otherwise."""

import asyncio

import pytest

from tests.sdk.client import Client, ClientOptions, SubscriptionOptions, Unauthorized
from tests.sdk.conftest import OpenClient, OpenJavaScript, OpenSdk, with_every_sdk
from tests.sdk.tokens import connection_token, subscription_token, user
from tests.support.running import Starling
from tests.support.waiting import DEADLINE


async def refused(client: Client, channel: str, options: SubscriptionOptions | None = None) -> int:
    """The code with which a subscription is refused for good."""
    await client.subscribe(channel, options)
    event = await client.event("unsubscribed", channel=channel)
    assert await client.subscription_state(channel) == "unsubscribed"
    assert await client.state() == "connected"
    return int(event["code"])


async def test_a_client_subscribes_leaves_and_returns(open_client: OpenClient) -> None:
    client = await open_client(user())
    await client.connect()

    subscribed = await client.subscribed("open:door")
    assert (subscribed["recoverable"], subscribed["positioned"], subscribed["recovered"]) == (False, False, False)
    await client.unsubscribe("open:door")
    assert (await client.event("unsubscribed", channel="open:door"))["code"] == 0

    await client.resubscribe("open:door")
    await client.event("subscribed", channel="open:door")
    await client.publish("open:door", "back")
    assert await client.publications(1, "open:door") == ["back"]


async def test_who_left_gets_nothing_more(open_client: OpenClient) -> None:
    client = await open_client(user())
    await client.connect()
    await client.subscribed("open:left")
    await client.subscribed("open:marker")
    await client.unsubscribe("open:left")

    await client.publish("open:left", "not for you")
    await client.publish("open:marker", "all that came before is through")
    await client.publications(1, "open:marker")
    assert [event for event in client.named("publication") if event["channel"] == "open:left"] == []


async def test_subscribing_and_leaving_ten_times_at_once_ends_in_the_last_state(open_client: OpenClient) -> None:
    client = await open_client(user())
    await client.connected()
    await client.subscribe("open:fickle")
    for _ in range(10):
        await client.unsubscribe("open:fickle")
        await client.resubscribe("open:fickle")

    async with asyncio.timeout(DEADLINE):
        while await client.subscription_state("open:fickle") != "subscribed":
            await asyncio.sleep(0.02)
    await client.publish("open:fickle", "in")
    assert await client.publications(1, "open:fickle") == ["in"]
    assert len(client.named("connected")) == 1


async def test_subscribing_before_connecting_waits_for_the_connection(open_client: OpenClient) -> None:
    client = await open_client(user())
    await client.subscribe("open:early")
    await client.connect()
    await client.event("subscribed", channel="open:early")


async def test_a_hundred_subscriptions_in_one_go(open_client: OpenClient) -> None:
    client = await open_client(user())
    channels = [f"history:many-{number}" for number in range(100)]
    for channel in channels:
        await client.subscribe(channel)
    await client.connect()
    for channel in channels:
        await client.event("subscribed", channel=channel)
    await client.publish(channels[-1], 1)
    assert await client.publications(1, channels[-1]) == [1]


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("quiet:{braces}", 107),
        ("nowhere:news", 102),
        ("token:secret", 103),
        ("$open:private", 103),
        ("users:room#bob", 103),
        ("users:room#bob,carol", 103),
        ("open:" + "x" * 251, 107),
    ],
)
async def test_a_client_may_not_enter_invalid_or_foreign_channels(
    open_client: OpenClient, channel: str, code: int
) -> None:
    client = await open_client(user("alice"))
    await client.connect()
    assert await refused(client, channel) == code


@pytest.mark.parametrize("channel", ["users:room#alice", "users:room#bob,alice", "open:" + "x" * 250])
async def test_a_client_may_enter_channels_whose_names_allow_it(open_client: OpenClient, channel: str) -> None:
    client = await open_client(user("alice"))
    await client.connect()
    await client.subscribed(channel)


@pytest.mark.parametrize("channel", ["token:room", "$token:room", "users:room#bob", "$chat"])
async def test_a_subscription_token_opens_the_channel_it_names(open_client: OpenClient, channel: str) -> None:
    client = await open_client(user("alice"))
    await client.connect()
    token = subscription_token(channel, "alice", data={"motto": "welcome"})
    subscribed = await client.subscribed(channel, SubscriptionOptions(token=token))
    assert subscribed["data"] == {"motto": "welcome"}


async def test_a_subscription_token_comes_by_callback(open_client: OpenClient) -> None:
    async def get_token(channel: str) -> str:
        return subscription_token(channel, "alice")

    client = await open_client(user("alice"))
    await client.connect()
    await client.subscribed("token:callback", SubscriptionOptions(get_token=get_token))


@pytest.mark.parametrize(
    "token",
    [
        "invalid",
        subscription_token("token:other", "alice"),
        subscription_token("token:room", "mallory"),
        connection_token("alice"),
    ],
    ids=["no token", "of another channel", "of another user", "a connection token"],
)
async def test_a_wrong_subscription_token_is_refused_and_the_connection_stays(
    open_client: OpenClient, token: str
) -> None:
    client = await open_client(user("alice"))
    await client.connect()
    assert await refused(client, "token:room", SubscriptionOptions(token=token)) == 103


async def test_a_callback_that_says_unauthorized_ends_the_subscription(open_client: OpenClient) -> None:
    async def get_token(channel: str) -> str:
        raise Unauthorized

    client = await open_client(user())
    await client.connected()
    assert await refused(client, "token:room", SubscriptionOptions(get_token=get_token)) == 1


async def test_an_expired_subscription_token_lets_the_sdk_fetch_another(open_client: OpenClient) -> None:
    async def get_token(channel: str) -> str:
        return subscription_token(channel)

    client = await open_client(user())
    await client.connect()
    options = SubscriptionOptions(token=subscription_token("token:late", ttl=-5), get_token=get_token)
    await client.subscribe("token:late", options)
    await client.error(109, channel="token:late")
    await client.event("subscribed", channel="token:late")


async def test_a_subscription_token_is_refreshed_as_it_ends_and_nothing_is_missed(
    open_sdk: OpenSdk, service: Starling
) -> None:
    async def refresh(sdk: str) -> None:
        lifetimes = iter((1, 600))
        refreshed = asyncio.Event()

        async def get_token(channel: str) -> str:
            lifetime = next(lifetimes)
            if lifetime == 600:
                refreshed.set()
            return subscription_token(channel, ttl=lifetime)

        client = await open_sdk(sdk, service, user())
        await client.connect()
        await client.subscribed(f"token:{sdk}", SubscriptionOptions(get_token=get_token))
        await asyncio.wait_for(refreshed.wait(), DEADLINE)
        await client.publish(f"token:{sdk}", "still here")
        assert await client.publications(1, f"token:{sdk}") == ["still here"]
        assert len(client.named("subscribed")) == 1

    await with_every_sdk(refresh)


async def test_a_client_that_is_in_a_channel_by_its_token_cannot_enter_it_again(open_client: OpenClient) -> None:
    client = await open_client(user("alice", channels=["open:both"]))
    await client.connect()
    await client.event("subscribed", channel="open:both")
    assert await refused(client, "open:both") == 105


async def test_commands_of_one_frame_are_all_answered(open_javascript: OpenJavaScript) -> None:
    client = await open_javascript(user())
    await client.connect()
    await client.subscribed("open:batch")

    await client.publish_batch("open:batch", list(range(50)))
    assert await client.publications(50, "open:batch") == list(range(50))


async def test_an_authorization_header_sent_with_the_connect_command_counts(open_javascript: OpenJavaScript) -> None:
    headers = {"authorization": f"Bearer {connection_token('alice')}"}
    client = await open_javascript(ClientOptions(headers=headers))
    await client.connect()
    await client.subscribed("users:room#alice")


@pytest.mark.parametrize("sdk", ["python-json", "python-protobuf"], indirect=True)
async def test_a_token_in_the_handshake_counts(open_client: OpenClient) -> None:
    client = await open_client(ClientOptions(handshake_token=connection_token("alice")))
    await client.connect()
    await client.subscribed("users:room#alice")


@pytest.mark.parametrize("sdk", ["python-json"], indirect=True)
async def test_an_expired_token_in_the_handshake_is_reported_as_such(open_client: OpenClient) -> None:
    client = await open_client(ClientOptions(handshake_token=connection_token("alice", ttl=-5)))
    await client.connect()
    await client.error(109)


async def test_a_filter_by_tags_is_refused_where_the_namespace_does_not_allow_it(open_client: OpenClient) -> None:
    client = await open_client(user())
    await client.connected()
    assert await refused(client, "open:tickers", SubscriptionOptions(ticker="AAPL")) == 107


async def test_who_asks_for_differences_gets_whole_publications(open_client: OpenClient, room: str) -> None:
    client = await open_client(user())
    await client.connected()
    await client.subscribed(f"recovery:{room}", SubscriptionOptions(delta=True))
    text = "the same long sentence again and again, " * 20
    for number in range(3):
        await client.publish(f"recovery:{room}", {"number": number, "text": text})
    assert await client.publications(3, f"recovery:{room}") == [{"number": n, "text": text} for n in range(3)]
