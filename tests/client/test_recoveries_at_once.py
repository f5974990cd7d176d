"""Subscriptions of one client that recover: a few at a time, so that its reads hold up nobody's subscriptions."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.client.authority import Identity
from starling.client.client_connection import JsonConnection
from starling.client.read_gate import RECOVERIES_AT_ONCE
from starling.engine.receiver import TokenFacts
from starling.main import Application, build_application
from starling.protocol.messages import Publication
from starling.settings import load_settings
from tests.support.json_transport import JsonTransport
from tests.support.waiting import until

OPTIONS = {
    "allow_subscribe_for_client": True,
    "allow_history_for_subscriber": True,
    "history_size": 10,
    "history_ttl": "60s",
}
CHANNELS = 30
RECOVER = {"recover": True, "offset": 0, "epoch": ""}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Application]:
    channels = tmp_path / "channels.json"
    channels.write_text(json.dumps({"default": OPTIONS}))
    environment = {"STARLING_TOKEN_HMAC_SECRET": "x" * 32, "STARLING_CHANNELS_FILE": str(channels)}
    service = build_application(load_settings(environment), CollectorRegistry())
    await service.engine.start()
    await until(lambda: service.engine.readiness.ready, "the node is ready")
    kept = service.engine.channels.options("c0").publish_options()
    for number in range(CHANNELS):
        await service.engine.publisher.publish(f"c{number}", Publication(data=Raw(b"1")), kept)
    yield service
    await service.engine.stop()


async def test_a_few_recover_at_a_time_and_what_recovers_nothing_waits_for_none(
    service: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscriptions, go_on = service.engine.subscriptions, asyncio.Event()
    join, inside, most = subscriptions.join, 0, 0

    async def slow_join(subscriber: Any, options: Any, since: Any, **how: Any) -> None:
        nonlocal inside, most
        if since is not None:
            inside += 1
            most = max(most, inside)
            await go_on.wait()
            inside -= 1
        await join(subscriber, options, since, **how)

    monkeypatch.setattr(subscriptions, "join", slow_join)
    client = JsonConnection(service.context.dispatcher, Identity("alice", token=TokenFacts("alice")))
    transport = JsonTransport()
    client.open(transport)
    client.on_message('{"id":1,"connect":{}}')
    client.on_message(
        "\n".join(
            json.dumps({"id": number + 2, "subscribe": {"channel": f"c{number}", **RECOVER}})
            for number in range(CHANNELS)
        )
    )
    await until(lambda: inside == RECOVERIES_AT_ONCE, "as many as may recover do")
    client.on_message('{"id":100,"subscribe":{"channel":"new"}}')
    await until(lambda: transport.lines[-1]["id"] == 100, "who recovers nothing is answered")
    assert inside == RECOVERIES_AT_ONCE

    go_on.set()
    await until(lambda: len(transport.lines) == CHANNELS + 2, "all are answered")
    assert most == RECOVERIES_AT_ONCE
    assert sum(bool(line.get("subscribe", {}).get("recovered")) for line in transport.lines) == CHANNELS
