"""How a conversation ends: final codes stop every SDK, the others bring it back."""

import asyncio
import json
import secrets
import time
from functools import partial

import pytest
from websockets.asyncio.client import connect

from starling.engine.lifecycle import NoLifecycle
from starling.protocol.commands import Command
from starling.protocol.decisions import Decision
from starling.protocol.session import Session
from tests.sdk.client import Client, ClientOptions, Refused, SubscriptionOptions
from tests.sdk.conftest import SDKS, OpenClient, OpenJavaScript, OpenSdk, until_others_return, with_every_sdk
from tests.sdk.javascript_sdk import JavaScriptClient
from tests.sdk.serving import serving, serving_here
from tests.sdk.tokens import connection_token, subscription_token, user
from tests.support.running import Starling
from tests.support.waiting import DEADLINE

JAVASCRIPT = pytest.mark.parametrize("sdk", ["javascript-json", "javascript-protobuf"], indirect=True)


async def stopped(client: Client, open_client: OpenClient) -> tuple[int, str]:
    """Code and reason of the end; afterwards the SDK does not return."""
    disconnected = await client.event("disconnected")
    connections = len(client.named("connected"))
    await until_others_return(open_client)
    assert await client.state() == "disconnected"
    assert len(client.named("connected")) == connections
    return disconnected["code"], disconnected["reason"]


async def returned(client: Client) -> tuple[int, str]:
    """Code and reason of the end of a connection that the SDK makes again."""
    while (connecting := await client.event("connecting"))["code"] == 0:
        pass
    await client.event("connected")
    return connecting["code"], connecting["reason"]


# Final codes


async def test_a_frame_that_is_no_command_is_3501(open_client: OpenClient) -> None:
    client = await open_client(user())
    await client.connected()
    await client.inject("nonsense")
    assert await stopped(client, open_client) == (3501, "bad request")


@pytest.mark.parametrize("sdk", ["javascript-json"], indirect=True)
@pytest.mark.parametrize(
    "frame",
    [
        *("[]", '{"id": 8, "connect": {}}'),
        *(
            pytest.param(frame, marks=pytest.mark.long)
            for frame in ('{"id": 7}', '{"subscribe": {"channel": "open:a"}}')
        ),
    ],
)
async def test_a_command_out_of_place_is_3501(open_client: OpenClient, frame: str) -> None:
    client = await open_client(user())
    await client.connected()
    await client.inject(frame)
    assert await stopped(client, open_client) == (3501, "bad request")


@pytest.mark.parametrize("sdk", ["javascript-json"], indirect=True)
async def test_silence_instead_of_a_connect_command_is_3502(open_client: OpenClient, narrow: Starling) -> None:
    client = await open_client(ClientOptions(token=connection_token(), mute="all"), of=narrow)
    await client.connect()
    assert await stopped(client, open_client) == (3502, "stale")


async def test_more_channels_in_the_token_than_allowed_are_3505(open_client: OpenClient, narrow: Starling) -> None:
    client = await open_client(user("alice", channels=[f"open:{number}" for number in range(4)]), of=narrow)
    await client.connect()
    assert await stopped(client, open_client) == (3505, "channel limit")


async def test_one_channel_more_than_allowed_is_106_and_the_rest_stays(
    open_client: OpenClient, narrow: Starling
) -> None:
    client = await open_client(user("alice"), of=narrow)
    await client.connected()
    for number in range(3):
        await client.subscribed(f"open:{number}")
    await client.subscribe("open:one-more")
    assert (await client.event("unsubscribed"))["code"] == 106

    await client.unsubscribe("open:0")
    await client.resubscribe("open:one-more")
    await client.event("subscribed", channel="open:one-more")


async def test_an_answer_in_bytes_that_are_no_json_ends_a_json_client_with_3506(
    open_javascript: OpenJavaScript, narrow: Starling
) -> None:
    client = await open_javascript(user(), of=narrow)
    await client.connected()
    with pytest.raises(Refused):
        await client.rpc("binary", None)
    assert await stopped(client, open_javascript) == (3506, "inappropriate protocol")


@pytest.mark.parametrize(
    "data",
    [
        *(b"\x00\xff\x10", b"[" * 300 + b"]" * 300),
        *(pytest.param(data, marks=pytest.mark.long) for data in (b"1" * 5000, b'"\\ud800"', b"NaN")),
    ],
)
async def test_what_json_clients_cannot_read_costs_them_that_publication_alone(
    open_javascript: OpenJavaScript, room: str, data: bytes
) -> None:
    reader = await open_javascript(user("reader"))
    binary_reader = await open_javascript(user("binary"), protobuf=True)
    writer = await open_javascript(user("writer"), protobuf=True)
    for client in (reader, binary_reader, writer):
        await client.connected()
        await client.subscribed(f"any:{room}")

    await writer.publish_binary(f"any:{room}", data)
    await writer.publish(f"any:{room}", "after it")
    assert await reader.publications(1, f"any:{room}") == ["after it"]
    assert len(await binary_reader.publications(2, f"any:{room}")) == 2
    assert await reader.state() == "connected"


async def test_what_json_clients_cannot_read_is_refused_in_a_channel_of_json(
    open_javascript: OpenJavaScript, room: str
) -> None:
    writer = await open_javascript(user("writer"), protobuf=True)
    await writer.connected()
    with pytest.raises(Refused, match="publication_data_format: json") as refused:
        await writer.publish_binary(f"open:{room}", b"\xff")
    assert refused.value.code == 107


async def test_a_message_that_nobody_takes_is_3508(open_javascript: OpenJavaScript, narrow: Starling) -> None:
    client = await open_javascript(user())
    await client.connected()
    await client.send({"number": 1})
    assert await stopped(client, open_javascript) == (3508, "not available")

    received = await open_javascript(user(), of=narrow)
    await received.connected()
    await received.send({"number": 1})
    async with asyncio.timeout(DEADLINE):
        while await received.rpc("received", None) != [{"number": 1}]:
            await asyncio.sleep(0.02)


@JAVASCRIPT
async def test_errors_without_end_are_3509(open_client: OpenClient) -> None:
    client = await open_client(user())
    await client.connected()
    refusals = await asyncio.gather(
        *(client.publish("token:forbidden", number) for number in range(310)), return_exceptions=True
    )
    assert await stopped(client, open_client) == (3509, "too many errors")
    assert sum(isinstance(refusal, Refused) and refusal.code == 103 for refusal in refusals) >= 300


# Codes that bring the SDK back


@JAVASCRIPT
async def test_a_client_that_reads_too_slowly_is_cut_with_3008_and_returns(
    open_client: OpenClient, open_javascript: OpenJavaScript, room: str
) -> None:
    slow, reader = await open_client(user("slow")), await open_client(user("reader"))
    writer = await open_javascript(user("writer"))
    for client in (slow, reader, writer):
        await client.connected()
    for client in (slow, reader):
        await client.subscribed(f"open:{room}")

    assert isinstance(slow, JavaScriptClient)
    await slow.freeze()
    large = secrets.token_hex(25_000)
    for number in range(200):
        await writer.publish(f"open:{room}", [number, large])
    await slow.thaw()

    assert await returned(slow) == (3008, "slow")
    await slow.event("subscribed", channel=f"open:{room}")
    assert await reader.publications(200, f"open:{room}") == [[number, large] for number in range(200)]


@pytest.mark.parametrize("sdk", ["javascript-json"], indirect=True)
async def test_a_client_that_does_not_answer_pings_is_cut_with_3012_and_returns(
    open_client: OpenClient, narrow: Starling
) -> None:
    client = await open_client(ClientOptions(token=connection_token(), mute="pongs"), of=narrow)
    await client.connected()
    assert await returned(client) == (3012, "no pong")


async def test_a_stopping_service_disconnects_clients_with_3001_and_they_return(
    open_sdk: OpenSdk, channels_file: str, room: str
) -> None:
    async with serving(channels_file) as first:
        clients = [await open_sdk(sdk, first, user()) for sdk in SDKS]
        for client in clients:
            await client.connected()
            await client.subscribed(f"open:{room}")
    async with serving(channels_file, in_place_of=first):
        for client in clients:
            assert await returned(client) == (3001, "shutdown")
            await client.event("subscribed", channel=f"open:{room}")
            await client.disconnect()


async def test_what_is_never_renewed_ends_connections_with_3005_and_subscriptions_with_2501(
    open_sdk: OpenSdk, channels_file: str
) -> None:
    async def renewal_fails() -> str:
        raise RuntimeError("the backend is away")

    async def none_for_a_channel(channel: str) -> str:
        raise RuntimeError("the backend is away")

    async with serving(channels_file, {"STARLING_EXPIRY_GRACE_SECONDS": "1"}) as service:
        connections, subscribers = [], []
        for sdk in SDKS:
            options = ClientOptions(token=connection_token(ttl=4, expire_at=0), get_token=renewal_fails)
            subscribers.append(await open_sdk(sdk, service, options))
            options = ClientOptions(token=connection_token(ttl=4), get_token=renewal_fails)
            connections.append(await open_sdk(sdk, service, options))
        for client in (*connections, *subscribers):
            await client.connected()
        for client in subscribers:
            token = subscription_token("token:brief", ttl=4)
            await client.subscribed("token:brief", SubscriptionOptions(token=token, get_token=none_for_a_channel))

        for client in connections:
            assert (await client.event("connecting", code=3005))["reason"] == "connection expired"
            # Back with the same token, the SDK learns that it is expired, and keeps asking for another.
            await client.error(109)
        for client in subscribers:
            subscribing = await client.event("subscribing", channel="token:brief", code=2501)
            assert subscribing["reason"] == "expired"
            await client.error(109, channel="token:brief")
            assert await client.state() == "connected"
        for client in (*connections, *subscribers):
            await client.disconnect()


async def test_a_subscription_of_the_token_whose_end_comes_ends_the_connection_with_3006(
    open_sdk: OpenSdk, service: Starling, room: str
) -> None:
    async def play(sdk: str) -> None:
        ends = iter((time.time() + 4, time.time() + 600))

        async def get_token() -> str:
            return connection_token(subs={f"open:{room}": {"expire_at": next(ends)}})

        client = await open_sdk(sdk, service, ClientOptions(get_token=get_token))
        await client.connected()
        await client.event("subscribed", channel=f"open:{room}")
        assert (await client.event("connecting", code=3006))["reason"] == "subscription expired"
        # With its former token it learns that this one is expired, and fetches the next.
        await client.event("subscribed", channel=f"open:{room}")
        await until_others_return(partial(open_sdk, sdk, service))
        assert await client.state() == "connected"

    await with_every_sdk(play)


async def test_a_fault_of_the_service_itself_is_3004_and_the_client_returns(
    open_sdk: OpenSdk, channels_file: str
) -> None:
    # No input is known that brings a fault about, so a part of the service is broken here, for one call of each client.
    faults = dict.fromkeys(SDKS, "lifecycle")

    class Faulty(NoLifecycle):
        def connected(self, client: str, user: str, address: str = "") -> None:
            if faults.pop(user, None):
                raise RuntimeError("a fault of the service")

    async with serving_here(channels_file, Faulty()) as service:

        async def play(sdk: str) -> None:
            client = await open_sdk(sdk, service, user(sdk))
            await client.connect()
            assert await returned(client) == (3004, "internal server error")
            await client.disconnect()

        await with_every_sdk(play)
    assert faults == {}


async def test_a_fault_while_a_command_is_read_is_3004_too(
    open_sdk: OpenSdk, channels_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = Session.receive

    def receive_or_fail(session: Session, command: Command, now: float) -> list[Decision]:
        if command.rpc is not None:
            raise RuntimeError("a fault of the service")
        return receive(session, command, now)

    monkeypatch.setattr(Session, "receive", receive_or_fail)
    async with serving_here(channels_file) as service:

        async def play(sdk: str) -> None:
            client = await open_sdk(sdk, service, user(sdk))
            await client.connected()
            calling = asyncio.create_task(client.rpc("double", {}))
            assert await returned(client) == (3004, "internal server error")
            await asyncio.gather(calling, return_exceptions=True)
            await client.disconnect()

        await with_every_sdk(play)


# Ends that no SDK can be brought into, or that it cannot report


async def test_a_client_that_vanishes_is_3000_in_the_numbers_and_in_the_log(service: Starling) -> None:
    name = 'starling_connections_closed_total{code="3000",transport="json"}'
    before = (await asyncio.to_thread(service.metrics)).get(name, 0)
    async with connect(f"{service.url}/connection/websocket") as socket:
        await socket.send(json.dumps({"id": 1, "connect": {"token": connection_token("vanishing")}}))
        await asyncio.wait_for(socket.recv(), DEADLINE)
        socket.transport.abort()

    async with asyncio.timeout(DEADLINE):
        while (await asyncio.to_thread(service.metrics)).get(name, 0) < before + 1:
            await asyncio.sleep(0.1)
    (line,) = await asyncio.to_thread(service.reported, "client_disconnected", user="vanishing")
    assert (line["code"], line["reason"]) == (3000, "connection closed")


async def test_a_connection_whose_time_was_over_before_it_began_is_110(service: Starling) -> None:
    headers = {"Authorization": f"Bearer {connection_token('alice', ttl=1)}"}
    async with connect(f"{service.url}/connection/websocket", additional_headers=headers) as socket:
        await asyncio.sleep(1.2)
        await socket.send(json.dumps({"id": 1, "connect": {}}))
        reply = json.loads(await asyncio.wait_for(socket.recv(), 10))
    assert reply["error"] == {"code": 110, "message": "expired"}
