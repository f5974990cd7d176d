"""Importing a user's application in a worker: which service its Starling holds, and what is refused by name."""

import json
import re
import sys
import textwrap
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from starlette.testclient import WebSocketDenialResponse
from structlog.testing import capture_logs
from typer.testing import CliRunner

from starling import Starling
from starling.auth.issue import issue_connection_token
from starling.cli.entry import cli
from starling.embed.hosting import Hosted, import_application
from starling.embed.service import without_unasked_parts
from starling.main import build_application
from starling.server.service import ApplicationError
from starling.settings import SettingsError, load_settings
from tests.support.running import SECRET
from tests.support.running import Starling as Served

ENVIRONMENT = {"STARLING_TOKEN_HMAC_SECRET": SECRET}


@pytest.fixture
def hosted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> "Module":
    monkeypatch.syspath_prepend(tmp_path)
    return Module(tmp_path, f"own_{abs(hash(request.node.name))}")


class Module:
    """A user's module, and the service that hosts it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / f"{name}.py"
        self.target = f"{name}:app"

    def host(self, text: str, **environment: str) -> Hosted:
        self.path.write_text(textwrap.dedent(text))
        settings = without_unasked_parts(load_settings({**ENVIRONMENT, **environment}))
        return Hosted(build_application(settings, CollectorRegistry()), settings, self.target)


def test_the_applications_starling_holds_the_servers_service(hosted: Module) -> None:
    served = hosted.host(
        """
        from fastapi import FastAPI
        from starling import Starling
        realtime = Starling()
        app = FastAPI(lifespan=realtime.lifespan)
        """
    )
    served.load()
    assert list(served.endpoints) == ["/connection/websocket", "/connection/uni_websocket"]


@pytest.mark.parametrize(
    ("call", "paths"),
    [
        ('Starling(prefix="/rt")', ["/rt/connection/websocket", "/rt/connection/uni_websocket"]),
        ("Starling(client_middleware=True)", []),
    ],
)
def test_the_direct_endpoints_are_where_the_starling_says(hosted: Module, call: str, paths: list[str]) -> None:
    served = hosted.host(
        f"from starling import Starling\nfrom fastapi import FastAPI\nrealtime = {call}\napp = FastAPI()\n"
        "realtime.install(app)"
    )
    served.load()
    assert list(served.endpoints) == paths


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
def test_a_root_path_has_its_direct_endpoint_too(hosted: Module) -> None:
    served = hosted.host('from fastapi import FastAPI\napp = FastAPI(root_path="/shop")')
    served.load()
    paths = ("/connection/websocket", "/connection/uni_websocket")
    assert set(served.endpoints) == {*paths, *(f"/shop{path}" for path in paths)}


@pytest.mark.parametrize(
    ("option", "named"),
    [("ping_seconds=10", "STARLING_PING_SECONDS"), ("allow_anonymous=True", "STARLING_ALLOW_ANONYMOUS")],
)
def test_options_in_code_that_contradict_the_server_are_named(hosted: Module, option: str, named: str) -> None:
    served = hosted.host(f"from starling import Starling\nrealtime = Starling({option})\napp = None")
    with pytest.raises(ApplicationError, match=named):
        served.load()


@pytest.mark.parametrize(("line", "raised"), [("raise SystemExit(3)", "SystemExit: 3"), ("1 / 0", "division by zero")])
def test_a_module_that_ends_while_it_is_imported_is_named_with_the_line(hosted: Module, line: str, raised: str) -> None:
    with pytest.raises(ApplicationError, match=f"cannot be imported: {raised}") as failed:
        hosted.host(line).load()
    assert f'{hosted.path.name}", line 1' in failed.value.trace


def test_an_option_in_code_that_the_server_has_too_is_accepted(hosted: Module) -> None:
    text = """
        from fastapi import FastAPI
        from starling import Starling
        realtime = Starling(ping_seconds=12)
        app = FastAPI()
        """
    hosted.host(text, STARLING_PING_SECONDS="12").load()


@pytest.mark.parametrize(
    ("route", "method", "clashes"),
    [
        ("/livez", "get", True),
        ("/api/{method}", "post", True),
        ("/api/publish", "post", True),
        ("/api/publish", "get", False),
        ("/api/orders", "post", False),
        ("/connection/websocket", "websocket", True),
    ],
)
def test_a_route_clashes_only_where_it_takes_a_path_of_starlings(
    hosted: Module, route: str, method: str, clashes: bool
) -> None:
    served = hosted.host(
        f"""
        from fastapi import FastAPI, WebSocket
        app = FastAPI()

        @app.{method}("{route}")
        async def own({"websocket: WebSocket" if method == "websocket" else ""}):
            pass
        """
    )
    if clashes:
        with pytest.raises(ApplicationError, match="of your application also matches"):
            served.load()
    else:
        served.load()


@pytest.mark.parametrize(
    ("routes", "clashes"),
    [
        ("inner = APIRouter()\ninner.get('/readyz')(answer)\napp.include_router(inner)", True),
        ("inner = APIRouter()\ninner.get('/z')(answer)\napp.include_router(inner, prefix='/ready')", False),
        ("inner = APIRouter()\ninner.get('z')(answer)\napp.include_router(inner, prefix='/ready')", True),
        ("app.get('/{path:path}')(answer)", False),
        ("app.mount('/', FastAPI())", False),
        ("app.get('/{name}')(answer)", True),
    ],
)
def test_routes_of_included_routers_clash_and_what_takes_the_rest_does_not(
    hosted: Module, routes: str, clashes: bool
) -> None:
    text = f"from fastapi import APIRouter, FastAPI\nasync def answer(): return 'own'\napp = FastAPI()\n{routes}"
    served = hosted.host(text)
    if clashes:
        with pytest.raises(ApplicationError, match="/readyz of Starling"):
            served.load()
    else:
        served.load()
        with TestClient(served) as client:
            assert client.get("/readyz").json() != "own"


def test_what_takes_every_path_clashes_where_it_stands_before_starlings(hosted: Module) -> None:
    app = FastAPI()

    @app.get("/{path:path}")
    async def everything(path: str) -> None:
        """Also /livez."""

    realtime = Starling(environment=ENVIRONMENT)
    realtime.install(app)
    with pytest.raises(SettingsError, match="/livez of Starling"), TestClient(app):
        pass


ASKED = {
    "STARLING_PAGES": "true",
    "STARLING_TUTORIAL": "true",
    "STARLING_API_DOCS": "true",
    "STARLING_DEV": "true",
    "STARLING_MAX_LAG_SECONDS": "0",
}
PARTS = {
    "/": "text/html; charset=utf-8",
    "/static/style.css": "text/css; charset=utf-8",
    "/starling/docs": "text/html; charset=utf-8",
    "/starling/static/docs.js": "text/javascript; charset=utf-8",
    "/starling/static/swagger-ui/swagger-ui.css": "text/css; charset=utf-8",
}
OWN = """
from fastapi import FastAPI
from starling import Starling
realtime = Starling(api_prefix="/backend")
app = FastAPI()

@app.get("/own")
async def own():
    return "own"
"""


@pytest.mark.parametrize("included", ["", "\nrealtime.install(app)\n"], ids=["beside", "included"])
@pytest.mark.parametrize("below", ["", "/shop"])
def test_pages_docs_and_tutorial_are_served_where_they_are_asked_for(hosted: Module, included: str, below: str) -> None:
    text = OWN + included + (f"\napp.root_path = {below!r}\n" if below else "")
    served = hosted.host(text, **ASKED)
    served.load()
    with TestClient(served) as client:
        # A proxy may remove the path below which the application is, or leave it.
        for start in dict.fromkeys(["", below]):
            for path, kind in PARTS.items():
                assert client.get(start + path).headers["content-type"] == kind
            assert client.get(f"{start}/static/none").status_code == 404
            assert client.get(f"{start}/own").json() == "own"
            assert client.get(f"{start}/livez").json() == {"alive": True}
            document = client.get(f"{start}/starling/openapi.json").json()
            assert "/backend/publish" in document["paths"]
            assert "servers" not in document
            with client.websocket_connect(f"{start}/ws") as socket:
                socket.send_text("hi")
                assert socket.receive_text() == "Message text was: hi"
            with client.websocket_connect(f"{start}/connection/websocket") as socket:
                socket.send_json({"id": 1, "connect": {}})
                assert "connect" in socket.receive_json()


def test_without_a_question_none_of_the_parts_is_served(hosted: Module) -> None:
    served = hosted.host(OWN)
    served.load()
    with TestClient(served) as client:
        assert [client.get(path).status_code for path in PARTS] == [404] * len(PARTS)


def test_streams_over_http_and_their_cors_are_there_too(hosted: Module) -> None:
    served = hosted.host(OWN.replace('api_prefix="/backend"', 'prefix="/rt"'))
    served.load()
    headers = {"Origin": "http://testserver", "Access-Control-Request-Method": "POST"}
    with TestClient(served) as client:
        answer = client.post("/rt/connection/http_stream", json={"id": 1, "connect": {}}, headers=headers)
        assert answer.json()["push"]["disconnect"]["code"] == 3500
        assert answer.headers["access-control-allow-origin"] == "http://testserver"
        assert client.options("/rt/connection/http_stream", headers=headers).status_code == 204


def test_the_applications_middleware_sees_the_client_endpoint_where_it_is_asked_for(hosted: Module) -> None:
    text = """
        from fastapi import FastAPI
        from starling import Starling
        realtime = Starling(client_middleware=True)
        app = FastAPI()
        seen = []

        class Watch:
            def __init__(self, app):
                self.app = app

            async def __call__(self, scope, receive, send):
                seen.append(scope.get("path"))
                await self.app(scope, receive, send)

        app.add_middleware(Watch)
        """
    with pytest.raises(ApplicationError, match=r"realtime\.install\(app\)"):
        hosted.host(text).load()
    sys.modules.pop(hosted.path.stem)
    served = hosted.host(text + "\n        realtime.install(app)\n")
    served.load()
    with TestClient(served) as client, client.websocket_connect("/connection/websocket") as socket:
        socket.send_json({"id": 1, "connect": {"token": issue_connection_token(SECRET, "ann", 60)}})
        assert "connect" in socket.receive_json()
    assert "/connection/websocket" in sys.modules[hosted.path.stem].seen


def test_a_module_that_fails_shows_its_own_lines_only(hosted: Module) -> None:
    served = hosted.host("def divide():\n    return 1 / 0\n\napp = divide()")
    with pytest.raises(ApplicationError, match="division by zero") as caught:
        served.load()
    assert "return 1 / 0" in caught.value.trace
    assert caught.value.trace.count("File ") == 2
    assert "hosting.py" not in caught.value.trace


def test_a_module_that_imports_what_is_missing_shows_where(hosted: Module) -> None:
    with pytest.raises(ApplicationError, match="no_such_module") as caught:
        hosted.host("import no_such_module_at_all").load()
    assert "import no_such_module_at_all" in caught.value.trace


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("no_such_module_here:app", "write module:name"),
        ("json", "write module:name"),
        ("json:nothing", "has no nothing"),
        ("json:__name__", "no ASGI"),
    ],
)
def test_a_target_that_names_nothing_is_refused_with_the_remedy(target: str, remedy: str) -> None:
    with pytest.raises(ApplicationError, match=remedy):
        import_application(target)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("app = FastAPI()", None),
        ("app = FastAPI()\nrealtime = Starling(ping_seconds=7)", "STARLING_PING_SECONDS"),
        ("app = FastAPI()\napp.get('/livez')(lambda: 1)", "/livez of your application"),
        ("realtime = Starling()\n@realtime.on_publish\nasync def f(client): ...", r"on_publish\(client\)"),
        ("app = 1 / 0", "app = 1 / 0"),
    ],
)
def test_starling_check_finds_what_a_worker_would_refuse(
    hosted: Module, monkeypatch: pytest.MonkeyPatch, text: str, problem: str | None
) -> None:
    hosted.path.write_text(f"from fastapi import FastAPI\nfrom starling import Starling\n{text}\n")
    for name, value in {**ENVIRONMENT, "STARLING_APP": hosted.target}.items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(cli, ["check"])
    if problem is None:
        assert (shown.exit_code, shown.output.partition(":")[0]) == (0, "The configuration is good")
    else:
        assert shown.exit_code == 2
        assert re.search(problem, shown.output), shown.output


def test_reload_watches_the_directory_of_an_application_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watched: list[Path] = []

    def serve(environment: dict[str, str], paths: Iterable[Path]) -> int:
        watched.extend(paths)
        return 0

    monkeypatch.setattr("starling.cli.reloading.serve_reloading", serve)
    monkeypatch.chdir(tmp_path)
    for name in ("APP", "DEV"):
        # The command writes its arguments there.
        monkeypatch.setenv(f"STARLING_{name}", "")
    shown = CliRunner().invoke(cli, ["serve", "shop:app", "--dev", "--reload"])
    assert (shown.exit_code, watched) == (0, [tmp_path]), shown.output


def test_preloading_is_refused_where_the_import_starts_a_thread(hosted: Module) -> None:
    served = hosted.host(
        """
        import threading
        from fastapi import FastAPI
        app = FastAPI()
        over = threading.Event()
        thread = threading.Thread(target=over.wait, daemon=True)
        thread.start()
        """
    )
    try:
        with pytest.raises(SettingsError, match="STARLING_PRELOAD_APP"):
            served.preload()
    finally:
        module = sys.modules[hosted.path.stem]
        module.over.set()
        module.thread.join()


def test_a_plain_asgi_application_without_a_lifespan_runs_with_the_service(hosted: Module) -> None:
    served = hosted.host(
        """
        async def app(scope, receive, send):
            if scope["type"] != "http":
                raise ValueError(scope["type"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": scope["path"].encode()})
        """
    )
    served.load()
    with TestClient(served) as client:
        assert client.get("/anything").content == b"/anything"
        assert client.get("/readyz").status_code == 200
        # As Django's application raises for every WebSocket.
        with (
            capture_logs() as lines,
            pytest.raises(WebSocketDenialResponse) as refused,
            client.websocket_connect("/anything"),
        ):
            pass
        assert refused.value.status_code == 404
        assert [(line["reason"], line["path"]) for line in lines if "reason" in line] == [("unknown_path", "/anything")]


@pytest.mark.processes
def test_a_worker_whose_application_fails_ends_the_service_with_3(tmp_path: Path) -> None:
    (tmp_path / "broken_shop.py").write_text("raise RuntimeError('no pool')\n")
    environment = {**ENVIRONMENT, "STARLING_APP": "broken_shop:app", "PYTHONPATH": str(tmp_path)}
    with Served(environment, wait_ready=False) as served:
        assert served.process.wait(60) == 3
        [line] = served.reported("application_not_loaded")
        assert "no pool" in line["trace"]


@pytest.mark.processes
def test_a_preloaded_application_is_imported_once_and_serves_in_every_worker(tmp_path: Path) -> None:
    (tmp_path / "preloaded_shop.py").write_text(
        "import os\nfrom fastapi import FastAPI\nfrom starling import Starling\n"
        "imported_by = os.getpid()\nrealtime = Starling()\napp = FastAPI()\nrealtime.install(app)\n\n\n"
        "@app.get('/pids')\nasync def pids():\n    return [imported_by, os.getpid()]\n"
    )
    environment = {**ENVIRONMENT, "STARLING_APP": "preloaded_shop:app", "PYTHONPATH": str(tmp_path)}
    with Served({**environment, "STARLING_PRELOAD_APP": "true"}) as served:
        with urllib.request.urlopen(f"{served.http}/pids") as answer:
            imported_by, worker = json.loads(answer.read())
        assert imported_by == served.process.pid
        assert worker != imported_by


@pytest.mark.processes
def test_a_start_names_the_route_that_clashes_and_a_preload_the_thread_that_a_fork_loses(tmp_path: Path) -> None:
    (tmp_path / "clashing_shop.py").write_text(
        "from fastapi import FastAPI\napp = FastAPI()\n\n\n@app.get('/livez')\nasync def own():\n    return 1\n"
    )
    (tmp_path / "threaded_shop.py").write_text(
        "import threading\nfrom fastapi import FastAPI\napp = FastAPI()\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    with Served({**environment, "STARLING_APP": "clashing_shop:app"}, wait_ready=False) as served:
        assert served.process.wait(60) == 3
        [line] = served.reported("application_not_loaded")
        assert "/livez of your application also matches /livez of Starling" in line["problem"]
    preload = {"STARLING_APP": "threaded_shop:app", "STARLING_PRELOAD_APP": "true"}
    with Served({**environment, **preload}, wait_ready=False) as served:
        assert served.process.wait(60) == 2
        assert "STARLING_PRELOAD_APP: the application starts a thread" in served.output


@pytest.mark.processes
def test_the_banner_of_a_hosted_application_names_only_what_is_served(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from fastapi import FastAPI\napp = FastAPI()\n")
    settings = {"STARLING_DEV": "true", "STARLING_LOG_FORMAT": "auto", "STARLING_API_DOCS": "true"}
    with Served({**settings, "STARLING_APP": "shop:app", "PYTHONPATH": str(tmp_path)}) as served:
        banner = served.output
        assert f"Application http://localhost:{served.port} (shop:app)" in banner
        labels = re.findall(r"^  (\w[\w ]*?) +http://", banner, re.MULTILINE)
        assert labels == ["Application", "Server API", "Console"]
        docs = next(line.split()[2] for line in banner.splitlines() if line.startswith("  Server API"))
        with urllib.request.urlopen(docs, timeout=10) as answer:
            assert "Starling" in answer.read().decode()
