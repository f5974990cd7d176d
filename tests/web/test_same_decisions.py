"""A hooks module, its functions as decorators register them, and a Django project take the same decisions alike."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling import Starling
from starling.auth.issue import issue_connection_token
from starling.main import create_app
from starling.settings import load_settings
from tests.support.decisions import hooks
from tests.support.decisions.cases import CASES, Case
from tests.support.services import free_port
from tests.support.waiting import DEADLINE
from tests.web.test_proxies import KEY, ORIGIN, SECRET, talking

pytestmark = pytest.mark.processes

DIRECTORY = Path(__file__).parents[1] / "support" / "decisions"
EVENTS = ("CONNECT", "SUBSCRIBE", "PUBLISH", "RPC")
BOARD = {"history_size": 10, "history_ttl": "60s"}
ROOM = {"allow_tags_filter": True, "presence": True, "allow_user_limited_channels": True}
BY_HOOK = {
    "room": {"subscribe_by_hook": True, **ROOM},
    "board": {"allow_publish_for_client": True, **BOARD},
}
DECIDED_BY = {
    "hooks": BY_HOOK,
    "decorators": BY_HOOK,
    "django": {
        "room": {"subscribe_proxy": True, **ROOM},
        "board": {"publish_proxy": True, **BOARD},
    },
}


@pytest.fixture(scope="module")
def project() -> Iterator[str]:
    """The address of the Django project."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-W", "error", str(DIRECTORY / "django_project.py"), "runserver", "--noreload", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + DEADLINE
        while not _serves(address):
            assert time.monotonic() < deadline, "the project does not serve"
            assert process.poll() is None, "the project has ended"
            time.sleep(0.05)
        yield f"http://{address}"
        process.terminate()


def _serves(address: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{address}/connect", timeout=20)
    except urllib.error.HTTPError as error:
        return error.code == 405
    except OSError:
        return False
    return False


@pytest.fixture(scope="module", params=list(DECIDED_BY))
def service(
    request: pytest.FixtureRequest, project: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    path = tmp_path_factory.mktemp("decisions") / "channels.yaml"
    path.write_text(yaml.safe_dump({"namespaces": {**DECIDED_BY[request.param], "inbox": {}, "closed": {}}}))
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": str(path),
        "STARLING_API_KEYS": KEY,
        "STARLING_ALLOWED_ORIGINS": ORIGIN,
    }
    if request.param == "decorators":
        environment |= {"STARLING_HOOK_SECONDS": "20"}
    elif request.param == "hooks":
        environment |= {"STARLING_HOOKS": "tests.support.decisions.hooks", "STARLING_HOOK_SECONDS": "20"}
    else:
        environment |= {
            **{f"STARLING_PROXY_{event}": f"{project}/{event.lower()}" for event in EVENTS},
            "STARLING_PROXY_COOKIES": "sid",
            "STARLING_PROXY_HEADERS": "X-Device-Key",
            "STARLING_PROXY_TIMEOUT_SECONDS": "20",
        }
    with TestClient(built(request.param, environment)) as client:
        client.headers["X-API-Key"] = KEY
        yield client


def built(by: str, environment: dict[str, str]) -> FastAPI:
    """The application; with decorators that of a user, in which a Starling is installed."""
    if by != "decorators":
        return create_app(load_settings(environment), CollectorRegistry())
    app = FastAPI()
    realtime = Starling(environment=environment)
    realtime.on_connect(hooks.on_connect)
    realtime.on_subscribe("room")(hooks.on_subscribe)
    realtime.on_publish("board")(hooks.on_publish)
    for name, function in hooks.rpc.items():
        realtime.rpc(name)(function)
    realtime.install(app)
    return app


def call_api(service: TestClient, method: str, **body: Any) -> Any:
    answer = service.post(f"/api/{method}", json=body).json()
    return answer["result"]


def within(expected: Any, found: Any) -> bool:
    """Whether `found` has all fields of `expected`."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return all(name in found and within(value, found[name]) for name, value in expected.items())
    return bool(expected == found)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_decision_is_the_same_in_hooks_and_in_a_backend(service: TestClient, case: Case) -> None:
    if case.published is not None:
        call_api(service, "history_remove", channel="board:1")
    request: dict[str, Any] = {} if case.data is None else {"data": case.data}
    if case.token is not None:
        request["token"] = issue_connection_token(SECRET, case.token, 60) if case.token else "not.a.token"
    with talking(service, origin=ORIGIN, **case.headers) as talk:
        reply = talk.ask(connect=request)
        if case.command is not None:
            assert "connect" in reply, reply
            reply = talk.ask(**case.command)

    assert within(case.expected, reply), reply
    if isinstance(case.expected, dict):
        assert ("error" in case.expected) == ("error" in reply)
    if case.published is not None:
        history = call_api(service, "history", channel="board:1", limit=-1)
        assert [publication["data"] for publication in history["publications"]] == case.published


def test_a_forced_filter_and_the_info_of_a_member_are_the_same_too(service: TestClient) -> None:
    wide = {"op": "or", "nodes": [{"key": "team", "cmp": "ex"}, {"key": "team", "cmp": "nex"}]}
    with talking(service, origin=ORIGIN, cookie="sid=s-ann") as talk:
        talk.ask(connect={})
        talk.ask(subscribe={"channel": "room:red"})
        [present] = call_api(service, "presence", channel="room:red")["presence"].values()
        assert (present["conn_info"], present["chan_info"]) == ({"name": "Ann"}, {"role": "member"})

        talk.ask(subscribe={"channel": "room:filtered", "tf": wide})
        for team in ("blue", "red"):
            call_api(service, "publish", channel="room:filtered", data=team, tags={"team": team})
        talk.ask(unsubscribe={"channel": "room:filtered"})

    assert [push["pub"]["data"] for push in talk.pushes if push and "pub" in push] == ["red"]
