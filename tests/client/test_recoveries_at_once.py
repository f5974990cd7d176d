"""Subscriptions of one client that may bring much: a few at a time, so that its reads delay no other client."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry

from starling.client.authority import Grant, Identity
from starling.client.client_connection import JsonConnection
from starling.client.read_gate import RECOVERIES_AT_ONCE, SMALL_RECOVERIES_AT_ONCE
from starling.engine.append_store import StreamKind
from starling.engine.channels_document import parse_channels
from starling.engine.receiver import TokenFacts
from starling.engine.stream_chunks import text_chunk
from starling.engine.stream_contract import ANSWER_BYTES
from starling.engine.transport import VANISHED
from starling.main import Application, build_application
from starling.protocol.codes import ERROR_UNKNOWN_CHANNEL
from starling.protocol.messages import Publication
from starling.settings import load_settings
from tests.support.frame_clients import connected
from tests.support.json_transport import JsonTransport
from tests.support.waiting import until

OPTIONS = {
    "allow_subscribe_for_client": True,
    "allow_history_for_subscriber": True,
    "history_size": 10,
    "history_ttl": "60s",
}
STREAM = {"stream": "text", "stream_max_bytes": 2**21, "allow_subscribe_for_client": True}
HOOKS = """
import asyncio

called, go_on = asyncio.Event(), asyncio.Event()

async def on_subscribe(client, channel, data):
    if channel == "asked":
        called.set()
        await go_on.wait()
"""
CHANNELS = 30
RECOVER = {"recover": True, "offset": 0, "epoch": ""}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Application]:
    channels = tmp_path / "channels.json"
    channels.write_text(json.dumps({"default": OPTIONS, "namespaces": {"answers": STREAM}}))
    (tmp_path / "hooks_that_wait.py").write_text(HOOKS)
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": "x" * 32,
        "STARLING_CHANNELS_FILE": str(channels),
        "STARLING_HOOKS": "hooks_that_wait",
        "STARLING_HOOKS_PATH": str(tmp_path),
    }
    service = build_application(load_settings(environment), CollectorRegistry())
    await service.engine.start()
    await until(lambda: service.engine.readiness.ready, "the node is ready")
    kept = service.engine.channels.options("c0").publish_options()
    for number in range(CHANNELS):
        await service.engine.publisher.publish(f"c{number}", Publication(data=Raw(b"1")), kept)
    yield service
    await service.engine.stop()
    del sys.modules["hooks_that_wait"]


def subscribe(client: JsonConnection, prefix: str, count: int, **more: Any) -> None:
    commands = [{"id": 2 + number, "subscribe": {"channel": f"{prefix}{number}", **more}} for number in range(count)]
    client.on_message("\n".join(map(json.dumps, commands)))


@pytest.mark.parametrize(("prefix", "more"), [("c", RECOVER), ("answers:", RECOVER), ("answers:", {})])
async def test_a_few_subscriptions_that_may_bring_much_go_at_a_time_and_no_other_waits_for_them(
    service: Application, monkeypatch: pytest.MonkeyPatch, prefix: str, more: dict[str, Any]
) -> None:
    subscriptions, go_on = service.engine.subscriptions, asyncio.Event()
    join, inside, most = subscriptions.join, 0, 0

    async def slow_join(subscriber: Any, options: Any, since: Any, **how: Any) -> None:
        nonlocal inside, most
        if subscriber.channel != "new":
            inside += 1
            most = max(most, inside)
            await go_on.wait()
            inside -= 1
        await join(subscriber, options, since, **how)

    monkeypatch.setattr(subscriptions, "join", slow_join)
    client, transport = connected(service)
    subscribe(client, prefix, CHANNELS, **more)
    await until(lambda: inside == RECOVERIES_AT_ONCE, "as many as may be under way are")
    client.on_message('{"id":100,"subscribe":{"channel":"new"}}')
    await until(lambda: transport.lines[-1]["id"] == 100, "a subscription that recovers nothing is answered")
    assert inside == RECOVERIES_AT_ONCE

    go_on.set()
    await until(lambda: len(transport.lines) == CHANNELS + 2, "all are answered")
    assert most == RECOVERIES_AT_ONCE
    assert sum("subscribe" in line for line in transport.lines) == CHANNELS + 1
    assert not any("error" in line for line in transport.lines)


async def test_a_stream_whose_rest_follows_its_answer_keeps_no_other_subscription_waiting(
    service: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, options = service.engine.append_streams, service.engine.channels.options("answers:0")
    count = RECOVERIES_AT_ONCE + 1
    for number in range(count):
        await streams.open(f"answers:{number}", options)
        for _ in range(2):
            chunk = text_chunk("x" * (ANSWER_BYTES - 100))
            await streams.append(f"answers:{number}", options, chunk, StreamKind.TEXT)
    go_on, pushed = asyncio.Event(), 0

    async def slow_catch_up(self: JsonConnection, frames: Any, left: Any) -> bool:
        nonlocal pushed
        pushed += 1
        await go_on.wait()
        return False

    # A client that takes one page after the other, and never has all.
    monkeypatch.setattr(JsonConnection, "catch_up", slow_catch_up)
    client, transport = connected(service)
    subscribe(client, "answers:", count, **RECOVER)
    await until(lambda: sum("subscribe" in line for line in transport.lines) == count, "each has its answer", 10)
    assert pushed == count
    go_on.set()


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("size", [1, 100_000])
async def test_small_recoveries_make_room_for_more_at_a_time_and_large_ones_do_not(
    service: Application, size: int, by_token: bool
) -> None:
    kept = service.engine.channels.options("c0").publish_options()
    for number in range(CHANNELS):
        await service.engine.publisher.publish(f"c{number}", Publication(data=Raw(b"1" * size)), kept)
    if by_token:
        names = [f"c{number}" for number in range(CHANNELS)]
        grants = {name: Grant(service.engine.channels.options(name)) for name in names}
        identity = Identity("alice", token=TokenFacts("alice"), subscriptions=grants)
        client, transport = JsonConnection(service.context.dispatcher, identity), JsonTransport()
        client.open(transport)
        client.on_message(json.dumps({"id": 1, "connect": {"subs": dict.fromkeys(names, RECOVER)}}))
        await until(lambda: transport.lines, "it is connected")
        assert all(sub["recovered"] for sub in transport.lines[0]["connect"]["subs"].values())
    else:
        client, transport = connected(service)
        subscribe(client, "c", CHANNELS, **RECOVER)
        await until(lambda: len(transport.lines) == CHANNELS + 1, "all are answered")
    gate, room = client.gates.recovering, 0
    for _ in range(SMALL_RECOVERIES_AT_ONCE):
        entering = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        if not entering.done():
            entering.cancel()
            break
        room += 1
    assert room == (min(RECOVERIES_AT_ONCE + CHANNELS, SMALL_RECOVERIES_AT_ONCE) if size == 1 else RECOVERIES_AT_ONCE)


async def test_no_more_are_answered_in_a_tick_than_may_go_at_a_time(service: Application) -> None:
    kept = service.engine.channels.options("c0").publish_options()
    for number in range(CHANNELS):
        await service.engine.publisher.publish(f"c{number}", Publication(data=Raw(b"1" * 100_000)), kept)
    client, transport = connected(service)
    subscribe(client, "c", CHANNELS, **RECOVER)
    while len(transport.lines) == 1:
        await asyncio.sleep(0)
    # Over the memory broker they wait for nothing, and whether the client takes the first shows only after this tick.
    assert len(transport.lines) == 1 + RECOVERIES_AT_ONCE
    transport.replies_wait = True
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(transport.lines) == 1 + RECOVERIES_AT_ONCE
    transport.replies_wait = False
    client.on_drained()
    await until(lambda: len(transport.lines) == 1 + CHANNELS, "all are answered")


async def test_nothing_waits_for_the_replies_of_a_client_that_vanished_while_a_hook_was_asked(
    service: Application,
) -> None:
    hooks = sys.modules["hooks_that_wait"]
    client, transport = connected(service)
    client.on_message(json.dumps({"id": 2, "subscribe": {"channel": "asked", **RECOVER}}))
    await until(hooks.called.is_set, "the hook is asked")
    # Its socket was lost while replies waited in it, which nobody will take any more.
    transport.replies_wait = True
    client.on_close(VANISHED, "")
    hooks.go_on.set()
    await until(lambda: not _tasks_of("Dispatcher._run"), "its command has ended", 10)


def _tasks_of(name: str) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") == name]


async def test_a_subscription_that_waits_while_its_namespace_goes_is_refused(service: Application) -> None:
    client, transport = connected(service)
    transport.replies_wait = True
    subscribe(client, "answers:", 1)
    await asyncio.sleep(0)
    reload_without_namespaces(service)
    transport.replies_wait = False
    client.on_drained()
    await until(lambda: transport.lines[-1].get("id") == 2, "it is answered")
    assert transport.lines[-1]["error"]["code"] == ERROR_UNKNOWN_CHANNEL.code
    assert "answers:0" not in service.engine.hub.subscribers.channels


async def test_a_channel_of_a_token_that_waits_while_its_namespace_goes_is_left_out(service: Application) -> None:
    options = {channel: service.engine.channels.options(channel) for channel in ("answers:0", "own")}
    subscriptions = {channel: Grant(known) for channel, known in options.items()}
    identity = Identity("alice", token=TokenFacts("alice"), subscriptions=subscriptions)
    client, transport = JsonConnection(service.context.dispatcher, identity), JsonTransport()
    client.open(transport)
    transport.replies_wait = True
    client.on_message('{"id":1,"connect":{}}')
    await asyncio.sleep(0)
    reload_without_namespaces(service)
    transport.replies_wait = False
    client.on_drained()
    await until(lambda: transport.lines, "it is connected")
    assert list(transport.lines[0]["connect"]["subs"]) == ["own"]
    assert "answers:0" not in service.engine.hub.subscribers.channels
    assert client.close_code is None


def reload_without_namespaces(service: Application) -> None:
    engine = service.engine
    engine.channels.replace_with(parse_channels({"default": OPTIONS}, developer=False))
    for connection in list(engine.hub.connections):
        assert isinstance(connection, JsonConnection)
        connection.renew_options(engine.channels)
