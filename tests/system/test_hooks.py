"""The example of docs/hooks.md, loaded by the running service and spoken to by a client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from starling.auth.issue import issue_connection_token
from tests.support.running import SECRET, Starling

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def starling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    """One worker with the example's hooks, where everyone may enter and publish."""
    channels = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text("default: {allow_subscribe_for_client: true, allow_publish_for_client: true}\n")
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": str(channels),
        "STARLING_HOOKS": "hooks_example",
        "STARLING_HOOKS_PATH": str(EXAMPLES),
    }
    with Starling(environment) as running:
        yield running


async def ask(client: ClientConnection, command_id: int, **command: Any) -> dict[str, Any]:
    await client.send(json.dumps({"id": command_id, **command}))
    while True:
        for line in str(await client.recv()).splitlines():
            reply: dict[str, Any] = json.loads(line)
            if reply.get("id") == command_id:
                return reply


async def enter(starling: Starling, user: str) -> tuple[ClientConnection, dict[str, Any]]:
    client = await connect(f"{starling.url}/connection/websocket")
    return client, await ask(client, 1, connect={"token": issue_connection_token(SECRET, user, 60)})


async def test_on_connect_greets_and_rejects(starling: Starling) -> None:
    alice, reply = await enter(starling, "alice")
    assert reply["connect"]["data"] == {"greeting": "hello alice"}
    await alice.close()

    mallory, reply = await enter(starling, "mallory")
    assert reply["error"] == {"code": 403, "message": "you are banned"}
    await mallory.close()


async def test_on_subscribe_keeps_others_out(starling: Starling) -> None:
    bob, _ = await enter(starling, "bob")

    assert (await ask(bob, 2, subscribe={"channel": "alices-room"}))["error"]["code"] == 103
    assert "subscribe" in await ask(bob, 3, subscribe={"channel": "elsewhere"})
    await bob.close()


async def test_on_publish_adds_who_wrote_and_refuses_another_shape(starling: Starling) -> None:
    bob, _ = await enter(starling, "bob")
    await ask(bob, 2, subscribe={"channel": "room"})

    assert (await ask(bob, 3, publish={"channel": "room", "data": {"text": 7}}))["error"]["code"] == 107
    await bob.send(json.dumps({"id": 4, "publish": {"channel": "room", "data": {"text": "hi"}}}))
    lines = [json.loads(line) for _ in range(2) for line in str(await bob.recv()).splitlines()]

    (push,) = [line["push"] for line in lines if "push" in line]
    assert push["pub"]["data"]["text"] == "hi"
    assert push["pub"]["data"]["by"] == "bob"
    await bob.close()


async def test_methods_answer(starling: Starling) -> None:
    bob, connected = await enter(starling, "bob")

    assert (await ask(bob, 2, rpc={"method": "add", "data": {"a": 1, "b": 2}}))["rpc"]["data"] == {"sum": 3}
    who = (await ask(bob, 3, rpc={"method": "whoami"}))["rpc"]["data"]
    assert who == {"user": "bob", "client": connected["connect"]["client"]}
    assert (await ask(bob, 4, rpc={"method": "nothing"}))["error"]["code"] == 104
    await bob.close()
