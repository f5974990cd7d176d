"""The tutorial's own three programs, moved onto Starling in a few lines each (docs/from-the-tutorial.md)."""

import asyncio
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect

from starling import Starling
from starling.auth.issue import issue_connection_token
from starling.embed.hosting import check_application
from starling.settings import load_settings
from starling.testing import ExpectationFailed, service
from tests.support.running import SECRET
from tests.support.running import Starling as Served
from tests.support.services import RedisServer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PROGRAMS = ("tutorial_echo", "tutorial_items", "tutorial_chat")
BOTH = pytest.mark.parametrize("package", ["tests.embed.before", "docs.examples"], ids=["before", "after"])
Loader = Callable[[str], FastAPI]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    """Import a program anew, in the environment of this test."""
    monkeypatch.setenv("STARLING_TOKEN_HMAC_SECRET", SECRET)
    monkeypatch.setenv("STARLING_CHANNELS_FILE", str(EXAMPLES / "sdk_chat.yaml"))
    monkeypatch.setenv("STARLING_TOKEN_IN_QUERY", "true")
    loaded = []

    def program(name: str) -> FastAPI:
        loaded.append(name)
        sys.modules.pop(name, None)
        app = importlib.import_module(name).app
        assert isinstance(app, FastAPI)
        return app

    yield program
    for name in loaded:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_is_moved_in_a_few_lines(program: str) -> None:
    before = (Path(__file__).parent / "before" / f"{program}.py").read_text().splitlines()
    after = (EXAMPLES / f"{program}.py").read_text().splitlines()
    added = [line for line in difflib.ndiff(before, after) if line.startswith("+ ") and line[2:].strip()]
    assert len(added) <= 10, added


@pytest.mark.parametrize("program", [*PROGRAMS, "sdk_chat", "orders"])
def test_starling_serve_takes_each_program_of_the_pages(load: Loader, program: str) -> None:
    load(f"docs.examples.{program}")
    sys.modules.pop(f"docs.examples.{program}")
    check_application(load_settings(os.environ), f"docs.examples.{program}:app")


@BOTH
def test_the_echo_answers_and_its_page_is_served(load: Loader, package: str) -> None:
    with TestClient(load(f"{package}.tutorial_echo")) as client:
        assert "new WebSocket" in client.get("/").text
        with client.websocket_connect("/ws") as socket:
            for text in ("hello", "Grüße 🐦"):
                socket.send_text(text)
                assert socket.receive_text() == f"Message text was: {text}"


@BOTH
@pytest.mark.parametrize("way", ["cookie", "query"])
def test_an_item_takes_a_cookie_or_a_token_with_path_and_query(load: Loader, package: str, way: str) -> None:
    token = issue_connection_token(SECRET, "ann", 60)
    with TestClient(load(f"{package}.tutorial_items")) as client:
        query = f"?q=3&token={token}" if way == "query" else "?q=3"
        headers = {"Cookie": f"session={token}"} if way == "cookie" else {}
        with client.websocket_connect(f"/items/foo/ws{query}", headers=headers) as socket:
            socket.send_text("hi")
            name = token if package == "tests.embed.before" else "ann"
            assert socket.receive_text() == f"You are: {name}"
            assert socket.receive_text() == "Query parameter q is: 3"
            assert socket.receive_text() == "Message text was: hi, for item ID: foo"


@BOTH
@pytest.mark.parametrize("query", ["", "?q=3", "?q=no-number&token=x"])
def test_an_item_refuses_clients_without_a_token_and_bad_parameters(load: Loader, package: str, query: str) -> None:
    with (
        TestClient(load(f"{package}.tutorial_items")) as client,
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"/items/foo/ws{query}"),
    ):
        pass


def test_an_item_refuses_a_token_that_is_none_where_the_tutorial_takes_any_text(load: Loader) -> None:
    with (
        TestClient(load("docs.examples.tutorial_items")) as client,
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/items/foo/ws?token=anything"),
    ):
        pass


@BOTH
def test_the_chat_sends_to_all_and_reports_who_leaves(load: Loader, package: str) -> None:
    with TestClient(load(f"{package}.tutorial_chat")) as client, client.websocket_connect("/ws/1") as one:
        one.send_text("hello")
        assert [one.receive_text(), one.receive_text()] == ["You wrote: hello", "Client #1 says: hello"]
        with client.websocket_connect("/ws/2") as two:
            two.send_text("hi")
            assert [two.receive_text(), two.receive_text()] == ["You wrote: hi", "Client #2 says: hi"]
            assert one.receive_text() == "Client #2 says: hi"
            # The end of its block would cancel the route.
            two.close()
            assert one.receive_text() == "Client #2 left the chat"


@pytest.mark.processes
async def test_the_chat_spans_pods_and_closes_with_1012() -> None:
    with RedisServer() as redis:
        environment = {
            "STARLING_DEV": "true",
            "STARLING_APP": "docs.examples.tutorial_chat:app",
            "STARLING_BROKER_URL": redis.url,
        }
        with Served(environment) as one, Served(environment) as other:
            async with connect(f"{other.url}/ws/2", proxy=None) as bob:
                await bob.send("hi")
                assert [await bob.recv(), await bob.recv()] == ["You wrote: hi", "Client #2 says: hi"]
                async with connect(f"{one.url}/ws/1", proxy=None) as ann:
                    await ann.send("hello")
                    assert [await ann.recv(), await ann.recv()] == ["You wrote: hello", "Client #1 says: hello"]
                    assert await bob.recv() == "Client #1 says: hello"
                    assert await asyncio.to_thread(one.stop) == 0
                    await ann.wait_closed()
                    assert ann.close_code == 1012
                assert await bob.recv() == "Client #1 left the chat"


def test_a_room_of_sdk_clients_takes_who_is_signed_in_and_keeps_what_was_said(load: Loader) -> None:
    async def talk(realtime: Starling) -> None:
        async with service(realtime) as running:
            ann = await running.connect("ann")
            bob = await running.connect("bob")
            for client in (ann, bob):
                await client.subscribe("chat:lobby")
            await ann.publish("chat:lobby", {"text": "hello"})
            await bob.expect("chat:lobby", {"from": "ann", "text": "hello"})
            with pytest.raises(ExpectationFailed, match=r"107(.|\n)*data\.text"):
                await ann.publish("chat:lobby", {"words": "hello"})
            with pytest.raises(ExpectationFailed, match="103"):
                await ann.subscribe("news")
            shown = (await ann.command("presence", {"channel": "chat:lobby"}))["presence"].values()
            assert {entry["chan_info"]["name"] for entry in shown} == {"Ann", "Bob"}
            ann.disconnect()
            await bob.expect("chat:lobby", {"from": "", "text": "ann left the chat"})
            assert len(await running.published("chat:lobby")) == 2

    load("docs.examples.sdk_chat")
    asyncio.run(talk(sys.modules["docs.examples.sdk_chat"].realtime))
