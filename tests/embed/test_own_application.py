"""A user's FastAPI application with Starling in it: under TestClient and under `starling serve`."""

import asyncio
import inspect
import json
import sys
import urllib.request
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any, get_args

import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from structlog.testing import capture_logs
from websockets.asyncio.client import connect

from starling import Client, CurrentUser, OptionalUser, Starling, require
from starling.auth.issue import issue_connection_token
from starling.embed.methods import MethodFailed
from starling.settings import SettingsError
from starling.testing import service
from tests.support.running import SECRET
from tests.support.running import Starling as Served
from tests.support.waiting import until

ENVIRONMENT = {"STARLING_TOKEN_HMAC_SECRET": SECRET, "STARLING_API_KEYS": "a-key-of-the-backend"}
JSON = "centrifuge-json"


def token(user: str) -> str:
    # Parameters of tests are made long before the tests run.
    return issue_connection_token(SECRET, user, 3600)


def bearer(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(user)}"}


def shop(**options: Any) -> tuple[FastAPI, Starling]:
    realtime = Starling(environment=ENVIRONMENT, **options)
    app = FastAPI(lifespan=realtime.lifespan)
    app.include_router(realtime.router)

    @app.post("/orders")
    async def order(number: int, user: CurrentUser) -> dict[str, object]:
        await realtime.publish("orders", {"number": number})
        return {"user": user}

    @app.get("/me")
    async def me(user: OptionalUser) -> dict[str, object]:
        return {"user": user}

    @app.get("/news/{topic}")
    async def news(topic: str, user: str = Depends(require("subscribe", "{topic}"))) -> dict[str, object]:
        return {"user": user}

    @app.post("/api/orders")
    async def own_api() -> dict[str, object]:
        return {"own": True}

    @app.websocket("/my/ws")
    async def mine(websocket: WebSocket, user: CurrentUser) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{user}: {text}")

    return app, realtime


@pytest.fixture
def client() -> Iterator[TestClient]:
    app, _ = shop()
    with TestClient(app) as client:
        yield client


def test_a_route_publishes_to_a_client_of_the_endpoint(client: TestClient) -> None:
    with client.websocket_connect("/connection/websocket", subprotocols=[JSON]) as socket:
        channels = issue_connection_token(SECRET, "ann", 60, channels=["orders"])
        socket.send_json({"id": 1, "connect": {"token": channels}})
        assert "connect" in socket.receive_json()
        answer = client.post("/orders?number=7", headers=bearer("bob"))
        assert answer.json() == {"user": "bob"}
        assert socket.receive_json()["push"]["pub"]["data"] == {"number": 7}


@pytest.mark.parametrize(
    "headers", [bearer("eve"), {"Cookie": f"session={token('eve')}"}, {"Sec-WebSocket-Protocol": ""}]
)
def test_http_and_websocket_routes_take_the_token_in_the_same_ways(client: TestClient, headers: dict[str, str]) -> None:
    known = "Sec-WebSocket-Protocol" not in headers
    expected = 200 if known else 401
    assert client.post("/orders?number=1", headers=headers).status_code == expected
    assert client.get("/me", headers=headers).json() == {"user": "eve" if known else None}
    if known:
        with client.websocket_connect("/my/ws", headers=headers) as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "eve: hello"
    else:
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/my/ws"):
            pass


def test_a_token_that_is_refused_is_401_on_both_kinds_of_route(client: TestClient) -> None:
    bad = {"Authorization": "Bearer a.b.c"}
    assert client.get("/me", headers=bad).status_code == 401
    assert client.post("/orders?number=1", headers=bad).status_code == 401


def test_a_websocket_route_of_the_user_refuses_pages_of_foreign_origins(client: TestClient) -> None:
    headers = {**bearer("eve"), "Origin": "https://elsewhere.example"}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/my/ws", headers=headers):
        pass


def test_a_websocket_route_of_the_user_is_refused_where_the_worker_is_full() -> None:
    app, _ = shop(max_connections=1)
    with TestClient(app) as client, client.websocket_connect("/connection/websocket"):
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/my/ws", headers=bearer("e")):
            pass
        assert refused.value.status_code == 503
        assert "retry-after" in refused.value.headers


@pytest.mark.parametrize(
    ("command", "environment", "warned"),
    [
        (["uvicorn", "shop:app"], {}, False),
        (["uvicorn", "shop:app", "--workers", "1"], {}, False),
        (["uvicorn", "shop:app", "--workers", "2"], {}, True),
        (["gunicorn", "-w", "4", "shop:app"], {}, True),
        (["fastapi", "run", "--workers=3"], {}, True),
        (["uvicorn", "shop:app"], {"WEB_CONCURRENCY": "2"}, True),
        (["uvicorn", "shop:app"], {"WEB_CONCURRENCY": "many"}, False),
    ],
)
async def test_workers_that_memory_does_not_join_are_warned_about(
    monkeypatch: pytest.MonkeyPatch, command: list[str], environment: dict[str, str], warned: bool
) -> None:
    monkeypatch.setattr(sys, "argv", command)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    app, realtime = shop()
    with capture_logs() as lines:
        async with realtime.lifespan(app):
            pass
    assert ("memory_broker_with_workers" in [line["event"] for line in lines]) == warned


def test_require_decides_by_the_rules_of_the_channel(client: TestClient) -> None:
    assert client.get("/news/secret", headers=bearer("ann")).status_code == 403
    granted = issue_connection_token(SECRET, "ann", 60, channels=["sport"])
    answer = client.get("/news/sport", headers={"Authorization": f"Bearer {granted}"})
    assert answer.json() == {"user": "ann"}
    assert client.get("/news/sport").status_code == 401


def test_require_takes_the_user_of_a_ticket(client: TestClient) -> None:
    def ticket(**claims: Any) -> str:
        key = {"X-API-Key": "a-key-of-the-backend"}
        made = client.post("/api/ticket", headers=key, json={"user": "ann", **claims}).json()
        return str(made["result"]["ticket"])

    assert client.get("/news/sport", params={"ticket": ticket(channels=["sport"])}).json() == {"user": "ann"}
    assert client.get("/news/secret", params={"ticket": ticket(channels=["sport"])}).status_code == 403


@pytest.mark.parametrize("name", ["%7Bx", "%00", "%E2%80%AE", "x" * 256, "nowhere:1"])
def test_require_of_a_channel_that_there_cannot_be_is_no_fault_of_the_application(
    client: TestClient, name: str
) -> None:
    assert client.get(f"/news/{name}", headers=bearer("ann")).status_code == 404
    assert client.get(f"/news/{name}").status_code == 401


def test_require_refuses_a_verb_that_there_is_not_where_it_is_written() -> None:
    with pytest.raises(ValueError, match=r"subscrib'.*the verbs are subscribe, publish"):
        require("subscrib", "orders")
    with pytest.raises(ValueError, match="the verbs are"):
        Starling(environment=ENVIRONMENT).require("read", "orders")


def test_only_the_paths_of_methods_belong_to_the_server_api(client: TestClient) -> None:
    assert client.post("/api/orders").json() == {"own": True}
    key = {"X-API-Key": "a-key-of-the-backend"}
    assert "result" in client.post("/api/publish", headers=key, json={"channel": "a", "data": 1}).json()
    assert client.post("/api/publish", json={"channel": "a", "data": 1}).status_code == 401
    for path in ("/", "/docs-of-starling", "/ws/1"):
        assert client.get(path).status_code == 404


def test_a_path_of_both_is_refused_at_the_start_by_its_name() -> None:
    app, _ = shop()

    @app.get("/{anything}")
    async def everything(anything: str) -> None:
        """Also /livez."""

    app.router.routes.insert(0, app.router.routes.pop())
    with pytest.raises(SettingsError, match=r"/\{anything\}.*/livez"), TestClient(app):
        pass


def test_prefixes_move_the_paths_of_starling() -> None:
    app, _ = shop(prefix="/rt", api_prefix="/backend")
    with TestClient(app) as client:
        key = {"X-API-Key": "a-key-of-the-backend"}
        assert client.post("/rt/backend/info", headers=key, json={}).status_code == 200
        assert client.get("/rt/livez").status_code == 200
        assert client.get("/livez").status_code == 404


def test_install_keeps_the_lifespan_that_is_there() -> None:
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager

    seen: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, int]]:
        seen.append("start")
        yield {"pool": 5}
        seen.append("stop")

    app = FastAPI(lifespan=own)

    @app.get("/pool")
    async def pool(request: Request, user: CurrentUser) -> dict[str, object]:
        return {"pool": request.state.pool, "user": user}

    realtime = Starling(environment=ENVIRONMENT)
    realtime.install(app)
    with TestClient(app) as client:
        assert client.get("/pool", headers=bearer("ann")).json() == {"pool": 5, "user": "ann"}
    assert seen == ["start", "stop"]


def test_two_applications_with_two_clients_each_live_in_one_process() -> None:
    first, _ = shop()
    second, _ = shop()
    with TestClient(first) as one, TestClient(second) as two:
        for client in (one, two, one, two):
            assert client.post("/orders?number=1", headers=bearer("ann")).status_code == 200


def test_one_application_is_entered_again_and_again_and_twice_at_once() -> None:
    app, _ = shop()
    for _ in range(3):
        with TestClient(app) as client:
            reaches_a_client(client)
    with TestClient(app) as one, TestClient(app) as two:
        for client in (one, two, one):
            reaches_a_client(client)


def reaches_a_client(client: TestClient) -> None:
    """A publication of a route reaches a client of the endpoint."""
    with client.websocket_connect("/connection/websocket") as socket:
        channels = issue_connection_token(SECRET, "ann", 60, channels=["orders"])
        socket.send_json({"id": 1, "connect": {"token": channels}})
        assert "connect" in socket.receive_json()
        client.post("/orders?number=3", headers=bearer("bob"))
        assert socket.receive_json()["push"]["pub"]["data"] == {"number": 3}


async def test_a_starling_that_runs_again_keeps_its_hooks_and_nothing_else() -> None:
    app, realtime = shop()

    @realtime.rpc
    async def who(client: Client) -> str:
        return client.user

    for _ in range(2):
        async with realtime.lifespan(app), service(realtime) as running:
            ann = await running.connect("ann", channels=["orders"])
            assert (await ann.command("rpc", {"method": "who"}))["data"] == "ann"
            assert (await realtime.channels()).channels.keys() == {"orders"}

    @realtime.rpc
    async def late(client: Client) -> str:
        return "late"

    async with service(realtime) as running:
        bob = await running.connect("bob")
        assert (await bob.command("rpc", {"method": "late"}))["data"] == "late"
        assert (await realtime.channels()).channels == {}


def test_two_starlings_in_one_application_are_distinguished_by_their_own_dependencies() -> None:
    first = Starling(environment=ENVIRONMENT)
    second = Starling(environment={**ENVIRONMENT, "STARLING_TOKEN_HMAC_SECRET": SECRET + "!"}, prefix="/two")
    app = FastAPI()
    first.install(app)
    second.install(app)

    async def mine(user: str) -> dict[str, object]:
        return {"user": user}

    mine.__annotations__["user"] = first.CurrentUser
    app.get("/first")(mine)

    @app.get("/news", dependencies=[Depends(first.require("subscribe", "news"))])
    async def news() -> None:
        """Show the news."""

    @app.get("/any")
    async def whose(user: CurrentUser) -> None:
        """Which of the two?"""

    with TestClient(app) as client:
        assert client.get("/first", headers=bearer("ann")).json() == {"user": "ann"}
        assert client.get("/news", headers=bearer("ann")).status_code == 403
        granted = issue_connection_token(SECRET, "ann", 60, channels=["news"])
        assert client.get("/news", headers={"Authorization": f"Bearer {granted}"}).status_code == 200
        with pytest.raises(RuntimeError, match=r"realtime\.CurrentUser"):
            client.get("/any", headers=bearer("ann"))


def test_without_a_starling_the_error_names_the_remedy() -> None:
    app = FastAPI()

    @app.get("/me")
    async def me(user: CurrentUser) -> None:
        """Answer nothing."""

    with pytest.raises(RuntimeError, match=r"realtime\.install\(app\)"):
        TestClient(app).get("/me")


async def test_methods_are_typed_and_raise_what_the_server_api_answers() -> None:
    app, realtime = shop()
    async with realtime.lifespan(app):
        answer = await realtime.broadcast(["a", "b"], {"text": "hi"})
        assert len(answer.responses) == 2
        with pytest.raises(MethodFailed, match="108"):
            await realtime.presence("a")
        with pytest.raises(TypeError, match="idempotency_key"):
            await realtime.publish("a", 1, idempotency="x")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"data: .*Pydantic model"):
            await realtime.publish("a", object())
        with pytest.raises(MethodFailed, match=r"107.*\$\.channel"):
            await realtime.publish(7, 1)  # type: ignore[arg-type]


async def test_data_may_be_what_pydantic_can_write() -> None:
    class Order(BaseModel):
        number: int
        placed: date

    async with service() as running:
        ann = await running.connect("ann", channels=["orders"])
        await running.starling.publish("orders", [Order(number=1, placed=date(2026, 1, 2)), None, Decimal("1.5")])
        await ann.expect("orders", [{"number": 1, "placed": "2026-01-02"}, None, "1.5"])


def test_every_method_of_the_server_api_can_be_called_in_the_process() -> None:
    _, realtime = shop()
    # Streams have an object of their own.
    names = {name for name in realtime._methods.by_name if not name.startswith("stream_")}
    assert {name for name in names if not callable(getattr(realtime, name, None))} == set()


def test_the_options_of_methods_are_typed_as_the_server_api_has_them() -> None:
    _, realtime = shop()
    for name, method in realtime._methods.by_name.items():
        if name.startswith("stream_"):
            continue
        parameters = inspect.signature(getattr(realtime, name)).parameters.values()
        typed = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
        for parameter in parameters:
            if parameter.kind is parameter.VAR_KEYWORD:
                (options,) = get_args(parameter.annotation)
                typed |= set(options.__annotations__)
        assert typed == set(method.request.__struct_fields__), name


def test_metrics_count_the_connections_of_the_users_routes() -> None:
    app, realtime = shop()
    app.mount("/metrics", realtime.metrics_app)
    with TestClient(app) as client:
        with client.websocket_connect("/my/ws", headers=bearer("ann")) as socket:
            socket.send_text("x")
            socket.receive_text()
            assert 'starling_connections{transport="application"} 1.0' in client.get("/metrics/").text
        assert 'starling_connections{transport="application"} 0.0' in client.get("/metrics/").text


@pytest.mark.processes
async def test_the_example_runs_under_starling_serve_with_drain_and_origin_check() -> None:
    environment = {**ENVIRONMENT, "STARLING_APP": "docs.examples.orders:app"}
    with Served(environment) as served:
        channels = issue_connection_token(SECRET, "ann", 60, channels=["orders"])
        async with (
            connect(f"{served.url}/connection/websocket") as listener,
            connect(f"{served.url}/my/ws", additional_headers=bearer("bob")) as own,
        ):
            await listener.send(json.dumps({"id": 1, "connect": {"token": channels}}))
            assert "connect" in json.loads(await listener.recv())
            request = urllib.request.Request(f"{served.http}/orders?number=7", method="POST", headers=bearer("bob"))
            with urllib.request.urlopen(request) as answer:
                assert json.loads(answer.read()) == {"ordered_by": "bob"}
            assert json.loads(await listener.recv())["push"]["pub"]["data"] == {"number": 7}
            await own.send("hello")
            assert await own.recv() == "bob: hello"
            await until(lambda: served.metrics()['starling_connections{transport="application"}'] == 1)
            assert await asyncio.to_thread(served.stop) == 0
            await own.wait_closed()
            assert own.close_code == 1012
