"""A route of the application in a channel."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from msgspec import Raw
from starlette.websockets import WebSocketDisconnect

from starling import Starling
from starling.embed.listening import ListenerTooSlow
from starling.embed.methods import MethodFailed
from starling.engine.broker import PublishOptions
from starling.protocol.messages import Publication
from tests.support.running import SECRET


@pytest.fixture
def realtime(tmp_path: Path) -> Starling:
    (tmp_path / "channels.yaml").write_text(
        "namespaces:\n"
        "  kept: {history_size: 10, history_ttl: 60s}\n"
        "  any: {publication_data_format: any}\n"
        "  raw: {publication_data_format: binary}\n"
    )
    return Starling(
        environment={},
        token_hmac_secret=SECRET,
        channels_file=tmp_path / "channels.yaml",
        write_buffer_bytes=4096,
    )


@pytest.mark.parametrize("channel", ["live", "kept:1"])
async def test_a_listener_gets_what_is_published_from_now_on(realtime: Starling, channel: str) -> None:
    async with realtime.running():
        await realtime.publish(channel, "before")
        async with realtime.listen(channel) as messages:
            sent: list[Any] = ["text", {"a": [1, None]}, None, 3.5]
            for value in sent:
                await realtime.publish(channel, value)
            assert [await anext(messages) for _ in sent] == sent
        assert (await realtime.channels()).channels == {}


async def test_listeners_of_one_channel_do_not_disturb_each_other(realtime: Starling) -> None:
    async with realtime.running(), realtime.listen("live") as slow:
        async with realtime.listen("live") as fast:
            for number in range(50):
                await realtime.publish("live", f"{number:0200}")
                await anext(fast)
        with pytest.raises(ListenerTooSlow):
            await anext(slow)


async def test_a_listener_that_leaves_while_it_enters_again_stays_outside(realtime: Starling) -> None:
    async with realtime.running():
        engine = realtime._built.engine
        async with realtime.listen("kept:1"):
            before = set(engine.tasks._running)
            for receiver in engine.hub.subscribers.of("kept:1"):
                receiver.lose_state("kept:1")
            entering = engine.tasks._running - before
        assert entering
        await asyncio.wait(entering)
        assert (await realtime.channels()).channels == {}
        assert not engine.subscriptions._streams


@pytest.mark.parametrize("channel", ["live", "kept:1"])
async def test_nothing_is_left_of_a_route_that_is_cancelled_while_it_enters(
    realtime: Starling, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def waits(channel: str) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def route() -> None:
        async with realtime.listen(channel):
            pass

    async with realtime.running():
        engine = realtime._built.engine
        # The memory broker never keeps anybody waiting.
        monkeypatch.setattr(realtime._built.broker, "subscribe", waits)
        entering = asyncio.create_task(route())
        await asked.wait()
        entering.cancel()
        await asyncio.wait([entering])
        assert channel not in engine.hub.subscribers.channels
        assert not engine.subscriptions._locks


async def test_a_channel_that_there_cannot_be_is_refused(realtime: Starling) -> None:
    async with realtime.running():
        for channel, code in {"nowhere:1": 102, "": 107, "raw:1": 108}.items():
            with pytest.raises(MethodFailed) as refused:
                async with realtime.listen(channel):
                    pass
            assert refused.value.code == code


async def published(realtime: Starling, channel: str, data: bytes) -> None:
    """Publish bytes as they are."""
    await realtime.broker.publish(channel, Publication(Raw(data)), PublishOptions())


UNREADABLE = (b"\xff", b"{", b'"\\ud800"', b"[" * 257 + b"]" * 257)


async def test_what_is_no_json_costs_a_listener_that_one_publication(realtime: Starling) -> None:
    async with realtime.running(), realtime.listen("any:1") as messages:
        for number, data in enumerate(UNREADABLE):
            await published(realtime, "any:1", data)
            await realtime.publish("any:1", number)
        assert [await anext(messages) for _ in UNREADABLE] == list(range(len(UNREADABLE)))
        for data in (b"1e400", b"1" * 1000, b"[" * 256 + b"]" * 256):
            await published(realtime, "any:1", data)
            assert await anext(messages) == json.loads(data)


def test_a_websocket_goes_on_after_what_is_no_json(realtime: Starling) -> None:
    app = FastAPI()

    @app.websocket("/joined")
    async def joined(websocket: WebSocket) -> None:
        await websocket.accept()
        async with realtime.join("any:1", websocket):
            await websocket.send_text("joined")
            await websocket.receive_text()

    @app.post("/say")
    async def say() -> None:
        for data in (*UNREADABLE, b'"after"'):
            await published(realtime, "any:1", data)

    realtime.install(app)
    with TestClient(app) as client, client.websocket_connect("/joined") as websocket:
        assert websocket.receive_text() == "joined"
        client.post("/say")
        assert websocket.receive_text() == "after"
        websocket.send_text("leave")


def test_a_websocket_gets_text_as_it_is_and_other_data_as_json(realtime: Starling) -> None:
    app = FastAPI()
    realtime.install(app)

    @app.websocket("/mine")
    async def mine(websocket: WebSocket) -> None:
        await websocket.accept()
        async with realtime.join("live", websocket):
            await websocket.send_text("in")
            async for _ in websocket.iter_text():
                pass

    @app.post("/say")
    async def say(value: Any) -> None:
        await realtime.publish("live", value)

    @app.post("/say-json")
    async def say_json() -> None:
        await realtime.publish("live", {"a": 1})

    @app.post("/flood")
    async def flood() -> None:
        await realtime.broadcast(["live"], "x" * 5000)

    with TestClient(app) as client, client.websocket_connect("/mine") as socket:
        assert socket.receive_text() == "in"
        client.post("/say?value=Gr%C3%BC%C3%9Fe")
        client.post("/say-json")
        assert [socket.receive_text(), socket.receive_text()] == ["Grüße", '{"a":1}']
        client.post("/flood")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1013
