"""SIGHUP on a running service: channels, keys and secrets are read again, and clients stay connected."""

import asyncio
import base64
import hmac
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx2
from websockets.asyncio.client import ClientConnection, connect

from starling.auth.issue import issue_connection_token
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE, until
from tests.support.webhook_receiver import WebhookReceiver

BEFORE = """
default: {allow_subscribe_for_client: true, allow_publish_for_subscriber: true}
namespaces:
  kept: {history_size: 10, history_ttl: 60s, allow_subscribe_for_client: true}
  gone: {allow_subscribe_for_client: true}
"""
AFTER = """
default: {allow_subscribe_for_client: true}
namespaces:
  kept: {history_size: 2, history_ttl: 60s, allow_subscribe_for_client: true}
  new: {allow_subscribe_for_client: true}
"""
OLD_SECRET, NEW_SECRET = "an old secret of over thirty-two bytes", "a newer secret of over thirty-two bytes"
OLD_KEY, NEW_KEY = "key-number-one-0123456789", "key-number-two-0123456789"


class Reloading:
    """A service of two workers whose channels, keys and secret are in files of `directory`."""

    def __init__(self, directory: Path, broker_url: str, webhook_url: str = "") -> None:
        self.channels, self.keys, self.secret = (directory / name for name in ("channels.yaml", "keys", "secret"))
        self.webhook_secret = directory / "webhook-secret"
        self.webhook_secret.write_text(OLD_KEY)
        webhooks = {"STARLING_WEBHOOK_URL": webhook_url, "STARLING_WEBHOOK_SECRET_FILE": str(self.webhook_secret)}
        self.level = directory / "level"
        self.write(BEFORE, OLD_KEY, OLD_SECRET)
        self.level.write_text("info")
        self.starling = Starling(
            {
                "STARLING_BROKER_URL": broker_url,
                "STARLING_WORKERS": "2",
                "STARLING_CHANNELS_FILE": str(self.channels),
                "STARLING_API_KEYS_FILE": str(self.keys),
                "STARLING_TOKEN_HMAC_SECRET_FILE": str(self.secret),
                "STARLING_LOG_LEVEL_FILE": str(self.level),
                **(webhooks if webhook_url else {}),
            }
        )

    def write(self, channels: str, keys: str, secret: str) -> None:
        self.channels.write_text(channels)
        self.keys.write_text(keys)
        self.secret.write_text(secret)

    async def reload(self, event: str, count: int, **fields: Any) -> list[dict[str, Any]]:
        self.starling.process.send_signal(signal.SIGHUP)
        return await asyncio.to_thread(self.starling.reported, event, count, **fields)

    def call(self, method: str, key: str, body: Any) -> tuple[int, Any]:
        answer = httpx2.post(f"{self.starling.http}/api/{method}", json=body, headers={"X-API-Key": key})
        return answer.status_code, answer.json()


async def say(client: ClientConnection, number: int, **command: Any) -> Any:
    """The reply to a command; pushes before it are put aside."""
    await client.send(json.dumps({"id": number, **command}))
    while True:
        for line in str(await client.recv()).split("\n"):
            if (reply := json.loads(line)).get("id") == number:
                return reply


async def connected(service: Reloading, secret: str, channels: tuple[str, ...] = ()) -> tuple[ClientConnection, Any]:
    client = await connect(f"{service.starling.url}/connection/websocket")
    token = issue_connection_token(secret, "alice", 600, channels=channels)
    return client, await say(client, 1, connect={"token": token})


async def test_channels_keys_and_secrets_are_read_again_and_nobody_is_disconnected(tmp_path: Path) -> None:
    with RedisServer() as redis:
        service = Reloading(tmp_path, redis.url)
        starling = await asyncio.to_thread(service.starling.__enter__)
        try:
            await changes_take_effect(service, starling)
        finally:
            await asyncio.to_thread(starling.__exit__, None, None, None)


async def changes_take_effect(service: Reloading, starling: Starling) -> None:
    workers = starling.workers
    client, _ = await connected(service, OLD_SECRET)
    backend = httpx2.Client(base_url=starling.http, headers={"X-API-Key": OLD_KEY})
    for _ in range(3):
        assert backend.post("/api/publish", json={"channel": "plain", "data": 1}).status_code == 200
    for number, channel in enumerate(("kept:a", "gone:a", "plain"), 2):
        assert "subscribe" in await say(client, number, subscribe={"channel": channel})
    assert "publish" in await say(client, 5, publish={"channel": "plain", "data": 1})
    by_server, answer = await connected(service, OLD_SECRET, channels=("gone:b", "kept:b"))
    assert answer["connect"]["subs"].keys() == {"gone:b", "kept:b"}

    service.write("namespaces: {kept: {history_sice: 1}}", "short", OLD_SECRET)
    service.level.write_text("debug")
    lines = await service.reload("configuration_not_reloaded", 1)
    assert "STARLING_API_KEYS" in lines[0]["problem"]
    service.write("namespaces: {kept: {history_sice: 1}}", NEW_KEY, NEW_SECRET)
    lines = await service.reload("configuration_not_reloaded", 2)
    assert "namespaces.kept.history_sice" in lines[1]["problem"]
    assert service.call("info", OLD_KEY, {})[0] == 200, "all of it stays as it was"

    service.write(AFTER, NEW_KEY, NEW_SECRET)
    await service.reload("configuration_applied", 2, version=2)
    (line,) = starling.reported("configuration_needs_restart")
    assert line["settings"] == ["STARLING_LOG_LEVEL"]

    while "unsubscribe" not in (push := json.loads(str(await client.recv()))).get("push", {}):
        pass
    assert (push["push"]["channel"], push["push"]["unsubscribe"]["code"]) == ("gone:a", 2500)
    ended = json.loads(str(await by_server.recv()))["push"]
    assert (ended["channel"], ended["unsubscribe"]["code"]) == ("gone:b", 2500)
    assert (await say(client, 6, publish={"channel": "plain", "data": 1}))["error"]["code"] == 103
    assert "subscribe" in await say(client, 7, subscribe={"channel": "new:a"})
    assert service.call("info", OLD_KEY, {})[0] == 401
    assert backend.post("/api/publish", json={"channel": "plain", "data": 1}).status_code == 401, "nor on a kept one"
    backend.close()
    for number in range(4):
        assert service.call("publish", NEW_KEY, {"channel": "kept:a", "data": number})[0] == 200
    _, history = service.call("history", NEW_KEY, {"channel": "kept:a", "limit": -1})
    assert [publication["data"] for publication in history["result"]["publications"]] == [2, 3]
    _, refused = await asyncio.wait_for(connected_or_closed(service, OLD_SECRET), DEADLINE)
    assert refused == 3500
    # A token that still names the namespace connects its client, with the rest of what it names.
    newcomer, answer = await connected(service, NEW_SECRET, channels=("gone:b", "kept:b"))
    assert answer["connect"]["subs"].keys() == {"kept:b"}
    (line,) = starling.reported("subscriptions_left_out", reason="unknown_namespace")
    assert (line["user"], line["channels"]) == ("alice", ["gone:b"])
    await newcomer.close()
    assert "ping" in await say(by_server, 2, ping={})
    await by_server.close()

    os.kill(workers[0], signal.SIGTERM)
    await asyncio.to_thread(starling.reported, "configuration_applied", 3, version=2)
    await asyncio.to_thread(starling.until_ready)
    metrics = starling.metrics()
    assert metrics["starling_configuration_version"] == 2
    assert metrics["starling_configuration_reload_failed"] == 0
    await client.close()


async def connected_or_closed(service: Reloading, secret: str) -> tuple[ClientConnection, int | None]:
    client = await connect(f"{service.starling.url}/connection/websocket")
    await client.send(json.dumps({"id": 1, "connect": {"token": issue_connection_token(secret, "alice", 600)}}))
    await client.wait_closed()
    return client, client.close_code


async def test_webhooks_are_signed_with_the_secret_that_sighup_found(tmp_path: Path) -> None:
    with RedisServer() as redis, WebhookReceiver() as receiver:
        service = Reloading(tmp_path, redis.url, webhook_url=receiver.url)
        starling = await asyncio.to_thread(service.starling.__enter__)
        try:
            client, _ = await connected(service, OLD_SECRET)
            assert await signer(receiver, 0) == OLD_KEY
            service.webhook_secret.write_text("whsec_no-base64!")
            lines = await service.reload("configuration_not_reloaded", 1)
            assert "STARLING_WEBHOOK_SECRET" in lines[0]["problem"]
            service.webhook_secret.write_text(NEW_KEY)
            await service.reload("configuration_applied", 2, version=2)
            sent = len(receiver.requests)
            await client.close()
            assert await signer(receiver, sent) == NEW_KEY
        finally:
            await asyncio.to_thread(starling.__exit__, None, None, None)


async def signer(receiver: WebhookReceiver, number: int) -> str:
    """Which secret signed the request of this number, from 0, by the Standard Webhooks specification."""
    await until(lambda: len(receiver.requests) > number, "a webhook came")
    request = receiver.requests[number]
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    (fitting,) = [
        secret
        for secret in (OLD_KEY, NEW_KEY)
        if request.headers["webhook-signature"]
        == "v1," + base64.b64encode(hmac.digest(secret.encode(), signed, "sha256")).decode()
    ]
    return fitting
