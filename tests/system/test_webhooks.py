"""Webhooks of a whole cluster: two workers over a real Redis, and one of them killed."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from starling.auth.issue import issue_connection_token
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer
from tests.support.waiting import until
from tests.support.webhook_receiver import WebhookReceiver

WEBHOOK_SECRET = "another secret of the test, for the webhooks"
TTL = 6
USERS = 8


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


@pytest.fixture
def starling(redis_server: RedisServer, receiver: WebhookReceiver, tmp_path: Path) -> Iterator[Starling]:
    """Two workers that report the receiver."""
    channels = tmp_path / "channels.yaml"
    channels.write_text("default: {allow_subscribe_for_client: true}\n")
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": str(channels),
        "STARLING_BROKER_URL": redis_server.limited_url,
        "STARLING_WORKERS": "2",
        "STARLING_PRESENCE_TTL_SECONDS": str(TTL),
        "STARLING_WEBHOOK_URL": receiver.url,
        "STARLING_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "STARLING_SUBSCRIBE_TO_PERSONAL_CHANNEL": "true",
    }
    with Starling(environment) as running:
        yield running


async def enter(starling: Starling, user: str, *channels: str) -> tuple[ClientConnection, str]:
    """A connected client that is in `channels`, and the id of its node."""
    client = await connect(f"{starling.url}/connection/websocket")
    await client.send(json.dumps({"id": 1, "connect": {"token": issue_connection_token(SECRET, user, 60)}}))
    reply = json.loads(await client.recv())
    assert "connect" in reply, reply
    for number, channel in enumerate(channels, start=2):
        await client.send(json.dumps({"id": number, "subscribe": {"channel": channel}}))
        assert "subscribe" in json.loads(await client.recv())
    return client, reply["connect"]["node"]


async def test_two_workers_report_each_event_once(starling: Starling, receiver: WebhookReceiver) -> None:
    nodes = set()
    clients = []
    for number in range(64):
        client, node = await enter(starling, f"u{number}", "news")
        clients.append(client)
        nodes.add(node)
        if len(nodes) == 2 and len(clients) >= USERS:
            break
    assert len(nodes) == 2, "the kernel gave every client to one worker"
    users = [f"u{number}" for number in range(len(clients))]
    # Each is in the channel and in one of its own.
    everyone = dict.fromkeys(users, 1)
    await until(lambda: len(receiver.reported("subscribe")) == 2 * len(users), "every subscription is reported")
    await until(lambda: len(receiver.reported("occupied")) == 1 + len(users), "every channel is reported")
    clients, last = clients[:-1], clients[-1]
    for client in clients:
        await client.close()
    await until(lambda: len(receiver.reported("disconnect")) == len(clients), "those that went are reported")
    await until(lambda: len(receiver.reported("vacated")) == len(clients), "so are their channels")
    assert ("vacated", "news") not in receiver.reported("vacated")
    await last.close()
    await until(lambda: ("vacated", "news") in receiver.reported("vacated"), "the last one leaves")
    await until(lambda: len(receiver.reported("disconnect")) == len(users), "the last one is reported")
    # What should not come would be reported by then.
    assert await asyncio.to_thread(starling.stop) == 0

    def by_user(kind: str) -> dict[str, int]:
        return dict(Counter(event["user"] for event in receiver.events if event["event"] == kind))

    assert by_user("connect") == by_user("disconnect") == everyone
    assert by_user("subscribe") == by_user("unsubscribe") == dict.fromkeys(users, 2)
    channels = {"news": 1} | {f"#{user}": 1 for user in users}
    for kind in ("occupied", "vacated"):
        assert dict(Counter(channel for _, channel in receiver.reported(kind))) == channels
    assert len({event["id"] for event in receiver.events}) == len(receiver.events)
    of_one = [event["event"] for event in receiver.events if event.get("user") == "u0"]
    assert of_one == ["connect", "subscribe", "subscribe", "unsubscribe", "unsubscribe", "disconnect"]

    for word in (WEBHOOK_SECRET, "pass-word", "path-word", "query-word"):
        assert word not in starling.output


async def test_a_killed_worker_s_channels_are_vacated_by_another(starling: Starling, receiver: WebhookReceiver) -> None:
    placed: dict[str, tuple[ClientConnection, str]] = {}
    for number in range(64):
        channel = f"room-{number}"
        client, node = await enter(starling, f"u{number}", channel, "shared")
        placed.setdefault(node, (client, channel))
        if len(placed) == 2:
            break
        if placed[node][0] is not client:
            await client.close()
    assert len(placed) == 2, "the kernel gave every client to one worker"
    names = {channel for _, channel in placed.values()}
    await until(
        lambda: {("occupied", name) for name in names} <= {*receiver.reported("occupied")}, "both rooms are reported"
    )
    reported_before = len(receiver.reported("vacated"))

    (one, own), (other, others) = placed.values()
    os.kill(starling.workers[0], signal.SIGKILL)
    ended = asyncio.create_task(one.wait_closed()), asyncio.create_task(other.wait_closed())
    done, _ = await asyncio.wait(ended, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    lost, kept = (own, others) if ended[0] in done else (others, own)

    await until(lambda: ("vacated", lost) in receiver.reported("vacated"), "the lost room is vacated")
    vacated = receiver.reported("vacated")[reported_before:]
    assert ("vacated", kept) not in vacated
    assert ("vacated", "shared") not in vacated
    await (other if ended[0] in done else one).close()
    await until(lambda: ("vacated", "shared") in receiver.reported("vacated"), "the last one leaves")
    # What should not come would be reported by then.
    assert await asyncio.to_thread(starling.stop) == 0
    vacated = receiver.reported("vacated")[reported_before:]
    assert [vacated.count(("vacated", name)) for name in (lost, kept, "shared")] == [1, 1, 1]
    for task in ended:
        task.cancel()


async def test_redis_away_and_back_loses_no_change_of_a_channel(
    starling: Starling, receiver: WebhookReceiver, redis_server: RedisServer
) -> None:
    client, _ = await enter(starling, "alice", "news")
    await until(lambda: ("occupied", "news") in receiver.reported("occupied"), "the channel is reported")
    redis_server.freeze()
    await client.close()
    await until(lambda: receiver.reported("disconnect"), "what needs no Redis is reported meanwhile")
    redis_server.thaw()
    await until(lambda: len(receiver.reported("vacated")) == 2, "both channels are vacated after all")
    assert {*receiver.reported("vacated")} == {("vacated", "news"), ("vacated", "#alice")}


async def test_a_stop_reports_the_clients_that_were_disconnected(starling: Starling, receiver: WebhookReceiver) -> None:
    entered = [await enter(starling, f"u{number}", "news") for number in range(6)]
    await until(lambda: len(receiver.reported("occupied")) == 7, "every channel is reported")
    assert await asyncio.to_thread(starling.stop) == 0

    gone = [event for event in receiver.events if event["event"] == "disconnect"]
    assert {event["user"] for event in gone} == {f"u{number}" for number in range(len(entered))}
    assert {event["code"] for event in gone} == {3001}
    vacated = [channel for _, channel in receiver.reported("vacated")]
    assert sorted(vacated) == sorted(["news", *(f"#u{number}" for number in range(len(entered)))])
    for client, _ in entered:
        await client.close()


async def test_a_client_that_subscribes_and_leaves_at_once_is_reported_if_it_got_content(
    redis_server: RedisServer, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    channels = tmp_path / "kept.yaml"
    channels.write_text(
        "default: {allow_subscribe_for_client: true, allow_publish_for_client: true, "
        "allow_history_for_subscriber: true, history_size: 9, history_ttl: 60s}\n"
    )
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": str(channels),
        "STARLING_BROKER_URL": redis_server.limited_url,
        "STARLING_WORKERS": "1",
        "STARLING_WEBHOOK_URL": receiver.url,
        "STARLING_WEBHOOK_SECRET": WEBHOOK_SECRET,
    }
    subscribe: dict[str, object] = {"subscribe": {"channel": "kept"}}
    unsubscribe: dict[str, object] = {"unsubscribe": {"channel": "kept"}}
    read: dict[str, object] = {"history": {"channel": "kept", "limit": 3}}
    recover: dict[str, object] = {"subscribe": {"channel": "kept", "recover": True, "offset": 0, "epoch": ""}}
    ways = {
        "nothing": [subscribe, unsubscribe],
        "recovery": [recover, unsubscribe],
        "history": [subscribe, read, unsubscribe],
    }
    with Starling(environment) as starling:
        writer, _ = await enter(starling, "writer", "quiet")
        for number in range(3):
            await writer.send(json.dumps({"id": 10 + number, "publish": {"channel": "kept", "data": number}}))
            assert "publish" in json.loads(await writer.recv())
        for way, commands in ways.items():
            spy, _ = await enter(starling, way)
            await spy.send("\n".join(json.dumps({"id": number, **each}) for number, each in enumerate(commands, 2)))
            replies: list[str] = []
            while len(replies) < len(commands):
                replies += str(await spy.recv()).splitlines()
            assert ("publications" in "".join(replies)) is (way != "nothing")
            await spy.close()
        await until(lambda: len(receiver.reported("disconnect")) == len(ways), "those that went are reported")
        await writer.close()
    seen = {way: [event["event"] for event in receiver.events if event.get("user") == way] for way in ways}
    both, neither = ["connect", "subscribe", "unsubscribe", "disconnect"], ["connect", "disconnect"]
    # They cancel each other where the first had not left yet.
    assert seen.pop("nothing") in (both, neither)
    assert seen == {"recovery": both, "history": both}
