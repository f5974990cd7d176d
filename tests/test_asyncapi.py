"""docs/asyncapi.json: every endpoint for clients, and messages that are those of the wire."""

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from starlette.routing import Route, WebSocketRoute

from starling.main import create_app
from starling.settings import load_settings
from tools.docs.asyncapi import document

ROOT = Path(__file__).parents[1]
# The FastAPI tutorial's own endpoints have no protocol but text.
TUTORIAL = {"/ws", "/items/{item_id}/ws", "/ws/{client_id}"}


def test_every_endpoint_for_clients_is_described() -> None:
    routes = create_app(load_settings({"STARLING_DEV": "true"}), CollectorRegistry()).routes
    websockets = {route.path for route in routes if isinstance(route, WebSocketRoute)}
    others = {route.path for route in routes if isinstance(route, Route)}
    clients = {path for path in others if path.startswith(("/connection/", "/sse", "/emulation"))}
    described = {channel["address"] for channel in document()["channels"].values()}
    assert {address.replace("{channel}", "{channel:path}") for address in described} | described >= (
        websockets - TUTORIAL
    ) | clients
    assert {address.partition("{")[0] for address in described} == {
        path.partition("{")[0] for path in (websockets - TUTORIAL) | clients
    }


def test_commands_have_the_fields_that_clients_send() -> None:
    schemas = document()["components"]["schemas"]
    assert {"id", "connect", "subscribe", "publish", "presence", "history", "rpc", "refresh"} <= set(
        schemas["Command"]["properties"]
    )
    assert {"channel", "token", "recover", "epoch", "offset", "delta", "tf"} <= set(
        schemas["SubscribeRequest"]["properties"]
    )
    assert {"data", "offset", "tags", "info"} <= set(schemas["Publication"]["properties"])
    assert not schemas["ConnectRequest"].get("required")


def test_every_reference_leads_to_something() -> None:
    whole = document()

    def references(part: object) -> list[str]:
        if isinstance(part, dict):
            return [found for key, value in part.items() for found in ([value] if key == "$ref" else references(value))]
        return [found for one in part for found in references(one)] if isinstance(part, list) else []

    for reference in references(whole):
        target: object = whole
        for step in reference.removeprefix("#/").split("/"):
            assert isinstance(target, dict)
            target = target[step]


@pytest.mark.long
@pytest.mark.processes
def test_the_parser_of_asyncapi_finds_no_problem() -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    done = subprocess.run(["make", "asyncapi-check"], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(document()['channels'])} endpoints" in done.stdout
