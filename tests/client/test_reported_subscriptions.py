"""What those outside learn of a subscription that ends at once: whether the client got content of the channel."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.client.authority import Grant
from starling.client.client_connection import JsonConnection
from starling.engine.lifecycle import NoLifecycle
from starling.main import Application, build_application
from starling.protocol.commands import SubscribeRequest
from starling.protocol.messages import Publication
from starling.settings import load_settings
from tests.support.frame_clients import connected
from tests.support.json_transport import JsonTransport
from tests.support.waiting import until

OPTIONS = {
    "allow_subscribe_for_client": True,
    "allow_history_for_subscriber": True,
    "allow_presence_for_subscriber": True,
    "presence": True,
    "history_size": 10,
    "history_ttl": "60s",
}
CHANNELS = {"namespaces": {"kept": OPTIONS, "plain": {"allow_subscribe_for_client": True}}}
SUBSCRIBE: dict[str, Any] = {"subscribe": {}}
UNSUBSCRIBE: dict[str, Any] = {"unsubscribe": {}}
RECOVER: dict[str, Any] = {"subscribe": {"recover": True, "offset": 0, "epoch": ""}}


class Ends(NoLifecycle):
    """Keeps for each subscription that ended whether it was reported as unused."""

    def __init__(self) -> None:
        self.unused: list[bool] = []

    def unsubscribed(self, client: str, user: str, channel: str, address: str = "", *, unused: bool = False) -> None:
        self.unused.append(unused)


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
async def service(tmp_path: Path, ends: Ends) -> AsyncIterator[Application]:
    channels = tmp_path / "channels.json"
    channels.write_text(json.dumps(CHANNELS))
    environment = {"STARLING_TOKEN_HMAC_SECRET": "x" * 32, "STARLING_CHANNELS_FILE": str(channels)}
    service = build_application(load_settings(environment), CollectorRegistry(), lifecycle=ends)
    await service.engine.start()
    await until(lambda: service.engine.readiness.ready, "the node is ready")
    kept = service.engine.channels.options("kept:a").publish_options()
    await service.engine.publisher.publish("kept:a", Publication(data=Raw(b"1")), kept)
    yield service
    await service.engine.stop()


async def answered(transport: JsonTransport, count: int) -> None:
    await until(lambda: len(transport.lines) == count, f"{count} commands are answered")


async def carried_out(client: JsonConnection, transport: JsonTransport, channel: str, *frames: list[Any]) -> None:
    """Send commands of a channel, each frame once the one before is answered."""
    number = len(transport.lines)
    for frame in filter(None, frames):
        lines = []
        for command in frame:
            ((method, body),) = command.items()
            number += 1
            lines.append(json.dumps({"id": number, method: {"channel": channel, **body}}))
        client.on_message("\n".join(lines))
        await answered(transport, number)
    assert "error" not in str(transport.lines)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("channel", ["plain:a", "kept:a"])
async def test_a_subscription_that_ends_in_its_frame_is_unused(
    service: Application, ends: Ends, channel: str, live: bool
) -> None:
    if live:
        await carried_out(*connected(service), channel, [SUBSCRIBE])
    await carried_out(*connected(service), channel, [SUBSCRIBE, UNSUBSCRIBE] * 3)
    assert ends.unused == [True] * 3


@pytest.mark.parametrize("query", [{"history": {"limit": 5}}, {"presence": {}}, {"presence_stats": {}}])
@pytest.mark.parametrize("split", [0, 1, 2])
async def test_who_read_in_the_channel_has_used_its_subscription(
    service: Application, ends: Ends, query: dict[str, Any], split: int
) -> None:
    commands = [SUBSCRIBE, query, UNSUBSCRIBE]
    await carried_out(*connected(service), "kept:a", commands[:split], commands[split:])
    assert ends.unused == [False]


async def test_who_recovered_publications_has_used_its_subscription(service: Application, ends: Ends) -> None:
    await carried_out(*connected(service), "kept:a", [RECOVER, UNSUBSCRIBE])
    assert ends.unused == [False]


async def test_what_a_backend_sends_with_a_subscription_is_content(service: Application, ends: Ends) -> None:
    client, transport = connected(service)
    options = service.engine.channels.options("plain:a")
    for data in (Raw(b'{"secret":1}'), Raw()):
        grant = Grant(options, data=data)
        client.carry_out(client.session.subscribe(SubscribeRequest("plain:a"), time.monotonic(), grant))
        await until(lambda: "plain:a" in client.session.subscriptions, "the client is in the channel")
        await carried_out(client, transport, "plain:a", [UNSUBSCRIBE])
    assert ends.unused == [False, True]
