"""Hooks that an application registers at its Starling."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from starling import Accept, Client, Refuse, Request, Starling
from starling.client.hook_function import HooksError
from starling.testing import ExpectationFailed, service

NAMESPACES = """
default: {allow_subscribe_for_client: true, allow_publish_for_client: true}
namespaces:
  chat: {allow_subscribe_for_client: true, allow_publish_for_client: true}
  room: {subscribe_by_hook: true}
"""
SECRET = "the secret of these tests, of more than 32 bytes"


@pytest.fixture
def realtime(tmp_path: Path) -> Starling:
    (tmp_path / "channels.yaml").write_text(NAMESPACES)
    return Starling(environment={}, token_hmac_secret=SECRET, channels_file=tmp_path / "channels.yaml")


async def test_a_function_takes_its_channel_or_its_namespace_or_all(realtime: Starling) -> None:
    @realtime.on_publish
    async def everywhere(client: Client, channel: str) -> str:
        return "everywhere"

    @realtime.on_publish("chat")
    async def in_namespace(client: Client, channel: str) -> str:
        return "namespace"

    @realtime.on_publish("chat:red")
    async def in_channel(client: Client, channel: str) -> str:
        return "channel"

    async with service(realtime) as running:
        ann = await running.connect("ann")
        for channel, answer in {
            "chat:red": "channel",
            "chat:blue": "namespace",
            "chat": "namespace",
            "chats": "everywhere",
        }.items():
            await ann.subscribe(channel)
            await ann.publish(channel, "?")
            await ann.expect(channel, answer)


async def test_a_function_grants_refuses_and_reads_what_the_client_sends(realtime: Starling) -> None:
    class Wanted(BaseModel):
        key: int

    @realtime.on_subscribe("room")
    async def enter(client: Client, channel: str, data: Wanted) -> Accept | None:
        if data.key == 0:
            raise Refuse("wrong key", 403)
        return Accept(data={"key": data.key}) if data.key == 7 else None

    async with service(realtime) as running:
        ann = await running.connect("ann")
        assert (await ann.subscribe("room:1", data={"key": 7}))["data"] == {"key": 7}
        for data, refusal in (({"key": 0}, "wrong key"), ({"key": 1}, "103"), ({}, r"107(.|\n)*data\.key")):
            with pytest.raises(ExpectationFailed, match=refusal):
                await ann.subscribe("room:2", data=data)


async def test_on_connect_authenticates_and_ends_are_reported(realtime: Starling) -> None:
    ends: list[tuple[str, Any]] = []

    @realtime.on_connect
    async def who(client: Client, request: Request) -> Accept | None:
        return None if client.user else Accept(request.headers["x-user"], channels=["chat:1"])

    @realtime.on_unsubscribe("chat")
    async def left(client: Client, channel: str) -> None:
        ends.append((client.user, channel))

    @realtime.on_disconnect
    async def gone(client: Client, code: int) -> None:
        ends.append((client.user, code))

    async with service(realtime) as running:
        bob = await running.connect(headers=[("X-User", "bob")])
        ann = await running.connect("ann", channels=["chat:1"])
        await realtime.publish("chat:1", 1)
        await bob.expect("chat:1", 1)
        await ann.expect("chat:1", 1)
        bob.disconnect()
    assert set(ends) >= {("bob", "chat:1"), ("bob", 1000)}


async def test_methods_have_the_name_that_is_given_or_that_of_the_function(realtime: Starling) -> None:
    @realtime.rpc
    async def add(client: Client, data: list[int]) -> int:
        return sum(data)

    @realtime.rpc("order.get")
    async def order(client: Client, state: Any) -> str:
        return str(state.pool)

    app = FastAPI()
    app.state.pool = "a pool"
    async with realtime.lifespan(app), service(realtime) as running:
        ann = await running.connect("ann")
        assert (await ann.command("rpc", {"method": "add", "data": [1, 2]}))["data"] == 3
        assert (await ann.command("rpc", {"method": "order.get"}))["data"] == "a pool"
        with pytest.raises(ExpectationFailed, match="104"):
            await ann.command("rpc", {"method": "none"})


def test_what_cannot_be_called_is_refused_where_it_is_registered(realtime: Starling) -> None:
    async def bad(client: Client) -> None:
        """Lacks the channel."""

    def plain(client: Client, channel: str) -> None:
        """Is no coroutine."""

    async def good(client: Client, channel: str) -> None:
        """Is one."""

    with pytest.raises(HooksError, match=r"on_publish\(client: .*async def"):
        realtime.on_publish(bad)
    with pytest.raises(HooksError, match=r'on_subscribe\("chat"\) is not a coroutine'):
        realtime.on_subscribe("chat")(plain)  # type: ignore[type-var]
    with pytest.raises(HooksError, match=r'nowhere:1"\): unknown channel'):
        realtime.on_subscribe("nowhere:1")
    realtime.on_subscribe("chat")(good)
    with pytest.raises(HooksError, match=r'on_subscribe\("chat"\) is registered twice'):
        realtime.on_subscribe("chat")(good)
    with pytest.raises(HooksError, match="on_connect takes no target"):
        realtime.on_connect("chat")  # type: ignore[type-var]


async def test_what_no_function_takes_is_left_to_the_hooks_module(tmp_path: Path) -> None:
    (tmp_path / "channels.yaml").write_text(NAMESPACES)
    (tmp_path / "module_behind.py").write_text(
        "async def on_publish(client, channel):\n    return 'module'\n\n\n"
        "async def add(client, data: list[int]):\n    return sum(data)\n\n\nrpc = {'add': add}\n"
    )
    realtime = Starling(
        environment={},
        token_hmac_secret=SECRET,
        channels_file=tmp_path / "channels.yaml",
        hooks="module_behind",
        hooks_path=tmp_path,
    )

    @realtime.on_publish("chat")
    async def own(client: Client, channel: str) -> str:
        return "own"

    async with service(realtime) as running:
        ann = await running.connect("ann")
        for channel, answer in {"chat:1": "own", "news": "module"}.items():
            await ann.subscribe(channel)
            await ann.publish(channel, "?")
            await ann.expect(channel, answer)
        assert (await ann.command("rpc", {"method": "add", "data": [2, 3]}))["data"] == 5
