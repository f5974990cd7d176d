"""A project of a user next to Starling: its own package is called `app`, as in the tutorial of FastAPI."""

import json
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.support.running import serving

MODELS = """
from dataclasses import dataclass


@dataclass
class Greeting:
    text: str
"""
HOOKS = """
from starling import Client, Refuse
from starling.hooks import Client as SameClient

from app.models import Greeting


async def on_connect(client: Client) -> dict[str, str]:
    assert Client is SameClient
    if client.user == "mallory":
        raise Refuse("you are banned", 403)
    return {"greeting": Greeting(f"hello from {__name__}").text}


async def add(client: Client, data: dict[str, int]) -> int:
    return sum(data.values())


rpc = {"add": add}
"""


@pytest.mark.parametrize("package_file", [True, False], ids=["package", "namespace"])
async def test_a_users_package_app_with_models_and_hooks_works_next_to_starling(
    tmp_path: Path, package_file: bool
) -> None:
    package = tmp_path / "app"
    package.mkdir()
    (package / "models.py").write_text(MODELS)
    (package / "hooks.py").write_text(HOOKS)
    if package_file:
        (package / "__init__.py").write_text("")
    settings = {"STARLING_DEV": "true", "STARLING_HOOKS": "app.hooks", "STARLING_HOOKS_PATH": str(tmp_path)}
    async with serving(settings) as starling, connect(f"{starling.url}/connection/websocket") as client:

        async def ask(command: dict[str, Any]) -> dict[str, Any]:
            await client.send(json.dumps(command))
            reply: dict[str, Any] = json.loads(await client.recv())
            return reply

        assert (await ask({"id": 1, "connect": {}}))["connect"]["data"] == {"greeting": "hello from app.hooks"}
        reply = await ask({"id": 2, "rpc": {"method": "add", "data": {"a": 1, "b": 2}}})
        assert reply["rpc"]["data"] == 3
