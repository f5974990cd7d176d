"""What a namespace takes as publications, whichever way they come: from clients, hooks and the server API."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from starlette.testclient import WebSocketTestSession

from starling.main import create_app
from starling.protocol.client_pb2 import Command, Reply
from starling.settings import load_settings

FORMATS = {"json": "json", "object": "json_object", "bytes": "binary", "any": "any", "old": ""}
HOOKS = """
async def on_publish(client, channel, data: bytes):
    return {b'"to bytes"': b"\\xff", b'"to a number"': b"1" * 5000, b'"to a list"': []}.get(data)
"""
UNREADABLE = [
    b"\xff",
    b"{",
    b"[" * 257 + b"]" * 257,
    b"1" * 1001,
    b"[-0." + b"1" * 1000 + b"]",
    b'"\\ud800"',
    b'{"a":"\\udfff"}',
    b"\xef\xbb\xbf1",
    '"é"'.encode("latin-1"),
    b"NaN",
    b"1 2",
    b'"\x00"',
]
READABLE = [b"null", b" [1] ", b"1e400", b"1" * 1000, b"[" * 256 + b"]" * 256, '"é"'.encode(), b'"\\ud83d\\ude00"']
OBJECTS = [b"{}", b' \n{"a":"b"}', b'{"n":1e5}']


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("formats")
    namespaces: dict[str, Any] = {
        name: {"publication_data_format": value, "presence": True} for name, value in FORMATS.items()
    }
    kept = {"history_size": 100, "history_ttl": "60s"}
    namespaces |= {f"kept-{name}": {**options, **kept} for name, options in namespaces.items()}
    (folder / "channels.json").write_text(json.dumps({"namespaces": namespaces}))
    (folder / "format_hooks.py").write_text(HOOKS)
    environment = {
        "STARLING_DEV": "true",
        "STARLING_CHANNELS_FILE": str(folder / "channels.json"),
        "STARLING_HOOKS": "format_hooks",
        "STARLING_HOOKS_PATH": str(folder),
    }
    with TestClient(create_app(load_settings(environment), CollectorRegistry())) as client:
        client.headers["X-API-Key"] = "dev"
        yield client


def protobuf(session: WebSocketTestSession, command: Any) -> Any:
    body = command.SerializeToString()
    assert len(body) < 2**14
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 | 128, len(body) // 128])
    session.send_bytes(length + body)
    answer = session.receive_bytes()
    start = 1 if answer[0] < 128 else 2
    return Reply.FromString(answer[start:])


@pytest.fixture
def publisher(service: TestClient) -> Iterator[WebSocketTestSession]:
    with service.websocket_connect("/connection/websocket?format=protobuf") as session:
        connect = Command(id=1)
        connect.connect.SetInParent()
        assert protobuf(session, connect).connect.client
        yield session


def published(publisher: WebSocketTestSession, channel: str, data: bytes) -> tuple[int, str]:
    command = Command(id=2)
    command.publish.channel, command.publish.data = channel, data
    error = protobuf(publisher, command).error
    return error.code, error.message


def over_the_api(service: TestClient, method: str, body: dict[str, Any]) -> Any:
    return service.post(f"/api/{method}", json=body).json()


def stored(service: TestClient, channel: str) -> int:
    return len(over_the_api(service, "history", {"channel": channel, "limit": -1})["result"]["publications"])


@pytest.mark.parametrize(
    ("namespace", "data", "refused"),
    [
        *(("json", data, "json") for data in UNREADABLE),
        *(("json", data, "") for data in READABLE + OBJECTS),
        *(("object", data, "json_object") for data in UNREADABLE + READABLE),
        *(("object", data, "") for data in OBJECTS),
        *((name, data, "") for name in ("bytes", "any", "old") for data in UNREADABLE + OBJECTS),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_a_publication_is_held_to_the_format_of_its_namespace_from_clients_and_over_the_api(
    service: TestClient, publisher: WebSocketTestSession, namespace: str, data: bytes, refused: str
) -> None:
    channel = f"kept-{namespace}:{len(data)}-{abs(hash(data))}"
    before = stored(service, channel)
    words = f"publication_data_format: {refused}"

    code, message = published(publisher, channel, data)
    assert code == (107 if refused else 0)
    assert words in message or not refused
    if data:
        body = {"channel": channel, "b64data": base64.b64encode(data).decode()}
        answers = [
            over_the_api(service, "publish", body),
            over_the_api(service, "broadcast", {**body, "channels": [channel]})["result"]["responses"][0],
        ]
        for answer in answers:
            assert ("error" in answer) is bool(refused)
            assert not refused or (answer["error"]["code"] == 107 and words in answer["error"]["message"])
    assert stored(service, channel) == before + (0 if refused else 3)


@pytest.mark.parametrize("data", [b'"to bytes"', b'"to a number"'])
def test_what_a_hook_makes_of_a_publication_is_held_to_the_format_too(
    service: TestClient, publisher: WebSocketTestSession, data: bytes
) -> None:
    assert published(publisher, "json:hook", data)[0] == 107
    assert published(publisher, "any:hook", data) == (0, "")


def test_a_hook_cannot_make_another_kind_of_json_of_an_object(
    service: TestClient, publisher: WebSocketTestSession
) -> None:
    assert published(publisher, "json:hook", b'"to a list"') == (0, "")
    assert published(publisher, "object:hook", b'"to a list"')[0] == 107


def test_json_of_the_api_is_held_to_the_format_as_its_bytes_are(service: TestClient) -> None:
    number = "1" * 1001
    answer = service.post("/api/publish", content=f'{{"channel":"json:a","data":{number}}}').json()
    assert answer["error"]["code"] == 107
    assert "publication_data_format: json" in answer["error"]["message"]
    assert over_the_api(service, "publish", {"channel": "object:a", "data": [1]})["error"]["code"] == 107
    assert "result" in over_the_api(service, "publish", {"channel": "object:a", "data": {"a": 1}})


@pytest.mark.parametrize("data", ["[" * 257 + "]" * 257, '{"a":' * 900 + "1" + "}" * 900, "-" + "1" * 1000])
def test_json_that_is_refused_is_so_in_the_words_of_its_option_and_alone(service: TestClient, data: str) -> None:
    fits = "[" * 256 + "]" * 256
    with service.websocket_connect("/connection/websocket") as session:
        session.send_text(json.dumps({"id": 1, "connect": {}}))
        session.receive_text()
        errors = []
        for number, each in ((2, fits), (3, data), (4, "1")):
            session.send_text(f'{{"id":{number},"publish":{{"channel":"json:a","data":{each}}}}}')
            reply = json.loads(session.receive_text())
            errors += [reply["error"]] if "error" in reply else []

    def call(method: str, body: str) -> Any:
        return service.post(f"/api{method}", content=body).json()

    publish = f'{{"channel":"json:a","data":{data}}}'
    assert "result" in call("/publish", publish.replace(data, fits))
    replies = call("/batch", f'{{"commands":[{{"publish":{publish}}},{{"info":{{}}}}]}}')["replies"]
    assert "info" in replies[1]
    errors += [
        call("/publish", publish)["error"],
        call("", f'{{"method":"publish","params":{publish}}}')["error"],
        call("/broadcast", f'{{"channels":["json:a"],"data":{data}}}')["result"]["responses"][0]["error"],
        replies[0]["error"],
    ]
    assert [error["code"] for error in errors] == [107] * 5
    assert all("publication_data_format: json" in error["message"] for error in errors)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("presence_set", '"channel":"json:a","user":"bot"'),
        ("subscribe", '"channel":"json:a","user":"alice"'),
        ("ticket", '"user":"alice"'),
    ],
)
def test_what_others_see_of_a_user_is_json_that_all_can_read(service: TestClient, method: str, body: str) -> None:
    for info in ("1" * 1001, "[" * 300 + "]" * 300):
        error = service.post(f"/api/{method}", content=f'{{{body},"info":{info}}}').json()["error"]
        assert error["code"] == 107
    assert "info: it is not JSON" in service.post(f"/api/{method}", content=f'{{{body},"info":{"1" * 1001}}}').text


def test_json_clients_are_refused_in_a_channel_of_binary_data_with_108(service: TestClient) -> None:
    with service.websocket_connect("/connection/websocket") as session:
        session.send_text(json.dumps({"id": 1, "connect": {}}))
        client = json.loads(session.receive_text())["connect"]["client"]
        commands: list[dict[str, Any]] = [
            {"subscribe": {"channel": "bytes:a"}},
            {"history": {"channel": "kept-bytes:a", "limit": 1}},
        ]
        for number, command in enumerate(commands, 2):
            session.send_text(json.dumps({"id": number, **command}))
            assert json.loads(session.receive_text())["error"]["code"] == 108

        # Nor does a backend bring it into one; the connection stays.
        over_the_api(service, "subscribe", {"user": "", "client": client, "channel": "bytes:a"})
        session.send_text(json.dumps({"id": 9, "ping": {}}))
        assert json.loads(session.receive_text())["id"] == 9
    assert over_the_api(service, "channels", {"pattern": "bytes:*"})["result"]["channels"] == {}


@pytest.mark.parametrize("field", ["b64info", "b64data"])
def test_what_others_would_see_of_a_subscription_is_json_too(service: TestClient, field: str) -> None:
    body = {"user": "alice", "channel": "json:a", field: base64.b64encode(b"\xff").decode()}
    answer = over_the_api(service, "subscribe", body)
    assert answer["error"]["code"] == 107
    assert field in answer["error"]["message"]


def test_unreadable_publications_in_a_history_are_left_out_for_json_clients_and_the_rest_is_whole(
    service: TestClient, publisher: WebSocketTestSession
) -> None:
    for data in (b'"first"', b"\xff", b"1" * 5000, b'"last"'):
        assert published(publisher, "kept-any:mixed", data) == (0, "")
    with service.websocket_connect("/connection/websocket") as session:
        session.send_text(json.dumps({"id": 1, "connect": {}}))
        session.receive_text()
        session.send_text(json.dumps({"id": 2, "history": {"channel": "kept-any:mixed", "limit": -1}}))
        history = json.loads(session.receive_text())["history"]
        assert [publication["data"] for publication in history["publications"]] == ["first", "last"]
        assert history["offset"] == 4

        since: dict[str, Any] = {"recoverable": True, "recover": True, "offset": 1, "epoch": history["epoch"]}
        session.send_text(json.dumps({"id": 3, "subscribe": {"channel": "kept-any:mixed", **since}}))
        subscribed = json.loads(session.receive_text())["subscribe"]
        assert subscribed["recovered"]
        assert [publication["data"] for publication in subscribed["publications"]] == ["last"]


def test_a_subscription_by_the_api_leaves_out_what_a_json_client_cannot_read_too(
    service: TestClient, publisher: WebSocketTestSession
) -> None:
    channel = "kept-any:by-api"
    for data in (b'"first"', b"\xff", b'"last"'):
        assert published(publisher, channel, data) == (0, "")
    epoch = over_the_api(service, "history", {"channel": channel, "limit": 0})["result"]["epoch"]
    with service.websocket_connect("/connection/websocket") as session:
        session.send_text(json.dumps({"id": 1, "connect": {}}))
        client = json.loads(session.receive_text())["connect"]["client"]
        since = {"offset": 0, "epoch": epoch}
        over_the_api(service, "subscribe", {"user": "", "client": client, "channel": channel, "recover_since": since})
        over_the_api(service, "publish", {"channel": channel, "data": "live"})
        received: list[Any] = []
        while received[-1:] != ["live"]:
            message = session.receive()
            assert message["type"] == "websocket.send", message
            pushes = (json.loads(line)["push"] for line in message["text"].splitlines())
            received += [push["pub"]["data"] for push in pushes if "pub" in push]
        assert received == ["first", "last", "live"]
