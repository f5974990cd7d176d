"""What is asked of the public port in other ways than its pages say: HEAD, unknown paths, slashes too many."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from starlette.testclient import WebSocketDenialResponse
from structlog.testing import capture_logs

from starling.main import Application, build_application
from starling.settings import load_settings
from starling.telemetry.refusals import RefusalLog


@pytest.fixture(scope="module")
def built() -> Application:
    return build_application(load_settings({"STARLING_DEV": "true"}), CollectorRegistry())


@pytest.fixture(scope="module")
def client(built: Application) -> Iterator[TestClient]:
    application = built.asgi

    async def endless() -> Any:
        while True:
            yield b"more"

    @application.get("/endless")
    async def endless_stream() -> StreamingResponse:
        return StreamingResponse(endless())

    with TestClient(application, follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize(
    "path",
    ["/", "/livez", "/readyz", "/startupz", "/docs", "/openapi.json", "/static/page.js", "/nothing", "/api/info"],
)
def test_head_answers_as_get_does_without_the_content(client: TestClient, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    same = ("content-type", "content-length", "allow", "content-security-policy")
    assert [head.headers.get(name) for name in same] == [got.headers.get(name) for name in same]


def test_head_of_an_endless_stream_ends(client: TestClient) -> None:
    assert (client.head("/endless").status_code, client.head("/endless").content) == (200, b"")


def test_head_is_no_second_operation_in_the_api_description(client: TestClient) -> None:
    assert all("head" not in operations for operations in client.get("/openapi.json").json()["paths"].values())


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/connection/websocket/", "/connection/websocket"),
        ("//connection/websocket", "/connection/websocket"),
        ("/connection//websocket", "/connection/websocket"),
        ("/ws/", "/ws"),
        ("/items/7/ws/", "/items/7/ws"),
        ("/conection/websocket", "/connection/websocket"),
        ("/connection/web-socket", "/connection/websocket"),
        ("/nothing", ""),
        ("/connection/sockjs", ""),
        ("/connection/ssee", ""),
        ("/connection/websocket" + "t" * 60, ""),
    ],
)
def test_a_websocket_to_a_path_that_no_endpoint_has_is_404_logged_and_counted(
    built: Application, client: TestClient, path: str, meant: str
) -> None:
    metrics = built.engine.metrics
    before = metrics.refused["unknown_path"]
    # The tests before have used up the lines of this reason.
    metrics.refusal_log = RefusalLog()
    # The TestClient takes two slashes at the start for a host.
    with (
        capture_logs() as logs,
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(f"ws://testserver{path}"),
    ):
        pass
    assert refused.value.status_code == 404
    detail = json.loads(refused.value.content)["detail"]
    assert path in detail
    assert f"did you mean {meant}?" in detail if meant else "/connection/websocket" in detail
    assert [(line["path"], line["reason"]) for line in logs] == [(path, "unknown_path")]
    assert metrics.refused["unknown_path"] == before + 1


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/conection/websocket", "/connection/websocket"),
        ("/connection/http-stream", "/connection/http_stream"),
        ("/emulations", "/emulation"),
        ("/orders", ""),
        ("/" + "x" * 5000, ""),
    ],
)
def test_an_address_that_is_spelt_wrong_names_the_right_one_in_developer_mode(
    client: TestClient, path: str, meant: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["detail"].partition(": did you mean ")[2] == (f"{meant}?" if meant else "")


def test_outside_developer_mode_nothing_is_compared() -> None:
    options = {"STARLING_TOKEN_HMAC_SECRET": "s" * 32}
    with TestClient(build_application(load_settings(options), CollectorRegistry()).asgi) as production:
        assert production.get("/emulations").json() == {"detail": "there is no endpoint at /emulations"}


@pytest.mark.parametrize("path", ["/docs/", "/static", "/livez/", "//docs", "/api/info/"])
def test_a_slash_too_many_is_never_redirected_to_the_host_that_was_sent(client: TestClient, path: str) -> None:
    answer = client.request("GET", f"http://evil.example{path}", headers={"X-API-Key": "dev"})
    assert "location" not in answer.headers
    assert answer.status_code in {404, 405}


@pytest.mark.parametrize("length", ["9" * 5000, "0" * 5000 + "9" * 30, "9" * 19])
def test_a_content_length_of_thousands_of_digits_is_too_large_and_no_failure(client: TestClient, length: str) -> None:
    answer = client.post("/api/info", headers={"X-API-Key": "dev", "Content-Length": length}, content=b"{}")
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/ws", "/ws/7", "/items/foo/ws", "/connection/websocket"])
def test_a_websocket_address_in_a_browser_is_426_with_what_to_do(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert "WebSocket endpoint" in answer.json()["detail"]
