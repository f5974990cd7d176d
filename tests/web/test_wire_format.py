"""The client endpoint speaks JSON in text frames, or Protobuf in binary ones to who asks for it."""

import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.main import create_app
from starling.settings import load_settings

ENDPOINT = "/connection/websocket"
JSON_CONNECT = json.dumps({"id": 1, "connect": {}})
# Its length, then field 1 (id) as the number 1 and field 4 (connect) as a message without fields.
PROTOBUF_CONNECT = b"\x04\x08\x01\x22\x00"


@pytest.fixture
def client() -> Iterator[TestClient]:
    application = create_app(load_settings({"STARLING_DEV": "true"}), CollectorRegistry())
    with TestClient(application) as running:
        yield running


@pytest.mark.parametrize(
    ("query", "offered", "chosen"),
    [
        ("", [], None),
        ("?format=json", [], None),
        ("?format=unknown", [], None),
        ("", ["centrifuge-json"], "centrifuge-json"),
        ("", ["unknown", "centrifuge-json"], "centrifuge-json"),
        ("?format=protobuf", ["centrifuge-json"], "centrifuge-json"),
    ],
)
def test_json_is_spoken_in_text(client: TestClient, query: str, offered: list[str], chosen: str | None) -> None:
    with client.websocket_connect(ENDPOINT + query, subprotocols=offered) as session:
        assert session.accepted_subprotocol == chosen
        session.send_text(JSON_CONNECT)
        reply = json.loads(session.receive_text())
    assert reply["id"] == 1
    assert reply["connect"]["client"]


@pytest.mark.parametrize(
    ("query", "offered", "chosen"),
    [
        ("?format=protobuf", [], None),
        ("?a=1&format=protobuf", ["unknown"], None),
        ("", ["centrifuge-protobuf"], "centrifuge-protobuf"),
        ("?format=json", ["unknown", "centrifuge-protobuf"], "centrifuge-protobuf"),
    ],
)
def test_protobuf_is_spoken_in_binary(client: TestClient, query: str, offered: list[str], chosen: str | None) -> None:
    with client.websocket_connect(ENDPOINT + query, subprotocols=offered) as session:
        assert session.accepted_subprotocol == chosen
        session.send_bytes(PROTOBUF_CONNECT)
        reply = session.receive_bytes()
    length, fields = reply[0], reply[1:]
    assert length == len(fields)
    assert fields.startswith(b"\x08\x01")
