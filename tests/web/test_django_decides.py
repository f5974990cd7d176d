"""docs/proxies.md, "Decide in Django": the real Django project of the page decides, by its session cookie."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.main import create_app
from starling.settings import load_settings
from tests.support.services import free_port
from tests.support.waiting import DEADLINE
from tests.web.test_proxies import ORIGIN, talking

pytestmark = pytest.mark.processes

DOCS = Path(__file__).parents[2] / "docs"
PROJECT = DOCS / "examples" / "django_decides.py"
CHANNELS = "namespaces:\n  chat:\n    subscribe_proxy: true\n"


def post(port: int, path: str, body: object) -> tuple[int, str]:
    """Post JSON to the project; return the status and the session cookie that it sets."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        cookies = answer.headers.get_all("Set-Cookie", [])
        return answer.status, next(
            (cookie.partition(";")[0] for cookie in cookies if cookie.startswith("sessionid=")), ""
        )
    finally:
        connection.close()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the running project, whose users are ada and bob."""
    port, directory = free_port(), tmp_path_factory.mktemp("django")
    environment = {**os.environ, "DATABASE": str(directory / "db.sqlite3")}
    command = [sys.executable, "-W", "error", str(PROJECT)]
    subprocess.run([*command, "setup"], env=environment, check=True, timeout=60)
    with subprocess.Popen(
        [*command, "runserver", "--noreload", f"127.0.0.1:{port}"], env=environment, stderr=subprocess.DEVNULL
    ) as process:

        def serves() -> bool:
            try:
                return post(port, "/login", {"username": "nobody", "password": "x"})[0] == 403
            except OSError:
                return False

        deadline = time.monotonic() + DEADLINE
        while not serves():
            assert time.monotonic() < deadline, "the project does not serve"
            time.sleep(0.1)
        yield port
        process.terminate()


@pytest.fixture
def service(project: int, tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "channels.yaml").write_text(CHANNELS)
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": "a test's own secret, longer than thirty-two bytes",
        "STARLING_CHANNELS_FILE": str(tmp_path / "channels.yaml"),
        "STARLING_ALLOWED_ORIGINS": ORIGIN,
        "STARLING_PROXY_CONNECT": f"http://127.0.0.1:{project}/starling/connect",
        "STARLING_PROXY_SUBSCRIBE": f"http://127.0.0.1:{project}/starling/subscribe",
        "STARLING_PROXY_COOKIES": "sessionid",
        "STARLING_PROXY_TIMEOUT_SECONDS": "20",
    }
    with TestClient(create_app(load_settings(environment), CollectorRegistry())) as client:
        yield client


def log_in(project: int, name: str) -> str:
    status, cookie = post(project, "/login", {"username": name, "password": f"{name}'s password"})
    assert status == 200
    return cookie


@pytest.mark.parametrize(
    ("name", "channel", "answer"),
    [
        ("ada", "chat:team", {"members": ["ada"]}),
        ("ada", "chat:lobby", {"members": ["ada", "bob"]}),
        ("bob", "chat:lobby", {"members": ["ada", "bob"]}),
        ("bob", "chat:team", 403),
        ("ada", "chat:nowhere", 403),
    ],
)
def test_the_session_cookie_decides_who_enters(
    project: int, service: TestClient, name: str, channel: str, answer: object
) -> None:
    with talking(service, origin=ORIGIN, cookie=log_in(project, name)) as talk:
        assert "connect" in talk.ask(connect={})
        reply = talk.ask(subscribe={"channel": channel})

    assert (reply["subscribe"]["data"] if "subscribe" in reply else reply["error"]["code"]) == answer


@pytest.mark.parametrize("cookie", ["", "sessionid=guessed", "other=1"])
def test_without_a_session_nobody_enters(service: TestClient, cookie: str) -> None:
    with talking(service, origin=ORIGIN, cookie=cookie) as talk:
        assert talk.ask(connect={}) == 4501


def test_the_page_prints_the_project_and_its_channels() -> None:
    page = (DOCS / "proxies.md").read_text()

    assert f"```python\n{PROJECT.read_text()}```" in page
    assert f"```yaml\n{CHANNELS}```" in page
