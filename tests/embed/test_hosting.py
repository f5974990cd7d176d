"""Importing a user's application in a worker: which service its Starling holds, and what is refused by name."""

import textwrap
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

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
    assert list(served.endpoints) == ["/connection/websocket"]


@pytest.mark.parametrize(
    ("call", "paths"),
    [
        ('Starling(prefix="/rt")', ["/rt/connection/websocket"]),
        ("Starling(client_middleware=True)", []),
    ],
)
def test_the_direct_endpoints_are_where_the_starling_says(hosted: Module, call: str, paths: list[str]) -> None:
    served = hosted.host(
        f"from starling import Starling\nfrom fastapi import FastAPI\nrealtime = {call}\napp = FastAPI()"
    )
    served.load()
    assert list(served.endpoints) == paths


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
def test_a_root_path_has_its_direct_endpoint_too(hosted: Module) -> None:
    served = hosted.host('from fastapi import FastAPI\napp = FastAPI(root_path="/shop")')
    served.load()
    assert set(served.endpoints) == {"/connection/websocket", "/shop/connection/websocket"}


@pytest.mark.parametrize(
    ("option", "named"),
    [("ping_seconds=10", "STARLING_PING_SECONDS"), ("allow_anonymous=True", "STARLING_ALLOW_ANONYMOUS")],
)
def test_options_in_code_that_contradict_the_server_are_named(hosted: Module, option: str, named: str) -> None:
    served = hosted.host(f"from starling import Starling\nrealtime = Starling({option})\napp = None")
    with pytest.raises(ApplicationError, match=named):
        served.load()


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
    import sys

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


def test_a_worker_whose_application_fails_ends_the_service_with_3(tmp_path: Path) -> None:
    (tmp_path / "broken_shop.py").write_text("raise RuntimeError('no pool')\n")
    environment = {**ENVIRONMENT, "STARLING_APP": "broken_shop:app", "PYTHONPATH": str(tmp_path)}
    with Served(environment, wait_ready=False) as served:
        assert served.process.wait(60) == 3
        [line] = served.reported("application_not_loaded")
        assert "no pool" in line["trace"]
