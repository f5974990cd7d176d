"""Every example of docs/publish.md and docs/flask-and-celery.md, run against a service over a real Redis."""

import asyncio
import json
import re
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import centrifuge
import django
import httpx2
import pytest
import redis as redis_client
from django.conf import settings as django_settings
from django.test import RequestFactory
from fastapi.testclient import TestClient

from starling.auth.claims import TokenRules
from starling.auth.jwt import JwtVerifier
from starling.auth.keys import VerificationKey
from tests.sdk.python_sdk import disconnect
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE, until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "publish.md").read_text()
FLASK_AND_CELERY = (ROOT / "docs" / "flask-and-celery.md").read_text()
NAMESPACE = re.search(r"`(kept: \{[^`]*\})`", PAGE)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def starling(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    """Two workers in developer mode, with the page's own namespace."""
    assert NAMESPACE is not None
    channels = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text(
        f"default: {{history_size: 100, history_ttl: 5m}}\nnamespaces:\n  {NAMESPACE[1]}\n  live: {{}}\n"
    )
    environment = {
        "STARLING_DEV": "true",
        "STARLING_BROKER_URL": redis.url,
        "STARLING_WORKERS": "2",
        "STARLING_CHANNELS_FILE": str(channels),
    }
    with Starling(environment) as running:
        yield running


def example(heading: str, language: str, number: int = 0, page: str = PAGE) -> str:
    """The code under a heading of a page."""
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    code: str = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[number]
    return code


def run(code: str, starling: Starling, redis: RedisServer | None = None) -> dict[str, Any]:
    """Execute an example with the addresses of the test's own servers; returns its names."""
    code = code.replace("http://localhost:8000", starling.http)
    if redis is not None:
        code = code.replace("redis://localhost:6379/0", redis.url)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/publish.md", "exec", dont_inherit=True), names)
    return names


def published(starling: Starling, channel: str) -> list[Any]:
    answer = httpx2.post(
        f"{starling.http}/api/history", json={"channel": channel, "limit": -1}, headers={"X-API-Key": "dev"}
    )
    return [publication["data"] for publication in answer.json()["result"]["publications"]]


def test_the_shell_publishes(starling: Starling) -> None:
    command = example("From a shell", "bash").replace("http://localhost:8000", starling.http)

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=DEADLINE)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["offset"] >= 1
    assert {"text": "from a shell"} in published(starling, "news")


def test_fastapi_publishes(starling: Starling) -> None:
    names = run(example("From FastAPI", "python"), starling)

    with TestClient(names["app"]) as client:
        assert client.post("/orders/7").json() == {"order": 7}
        assert client.portal is not None
        client.portal.call(names["starling"].aclose)

    assert {"order": 7} in published(starling, "news")


def test_django_publishes(starling: Starling) -> None:
    if not django_settings.configured:
        django_settings.configure(DEBUG=False, ALLOWED_HOSTS=["*"])
        django.setup()
    names = run(example("From Django", "python"), starling)

    answer = names["place_order"](RequestFactory().post("/orders/8"), 8)

    assert json.loads(answer.content) == {"order": 8}
    assert {"order": 8} in published(starling, "news")
    names["starling"].close()


def test_flask_publishes(starling: Starling) -> None:
    names = run(example("Flask", "python", page=FLASK_AND_CELERY), starling)

    answer = names["app"].test_client().post("/orders/9")

    assert (answer.status_code, answer.json) == (201, {"order": 9})
    assert {"order": 9} in published(starling, "news")
    names["starling"].close()


def test_a_task_of_celery_publishes_once_however_often_it_runs(starling: Starling) -> None:
    """The task is called as a function, as a worker calls it: a worker needs a process of its own."""
    names = run(example("Celery", "python", page=FLASK_AND_CELERY), starling)

    for _ in range(2):
        names["report_ready"]("alice", 7)

    assert published(starling, "#alice") == [{"report": 7}]
    names["starling"].close()


async def test_state_and_what_is_published_meanwhile_have_no_gap(
    starling: Starling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend writes and publishes orders all the while; the client has every one of them."""
    monkeypatch.chdir(tmp_path)
    heading = "Load state from your database, then subscribe from its position"
    names = run(example(heading, "python") + example(heading, "python", 1), starling)
    with sqlite3.connect("orders.db") as database:
        database.execute("CREATE TABLE orders (number INTEGER PRIMARY KEY)")
    count, stop = 0, threading.Event()

    def work() -> None:
        nonlocal count
        with httpx2.Client(base_url=f"{starling.http}/api", headers={"X-API-Key": "dev"}) as api:
            while not stop.is_set() and count < 2000:
                count += 1
                with sqlite3.connect(tmp_path / "orders.db") as database:
                    database.execute("INSERT INTO orders VALUES (?)", (count,))
                api.post("/publish", json={"channel": "kept:orders", "data": {"order": count}}).raise_for_status()

    backend = threading.Thread(target=work)
    backend.start()
    try:
        await until(lambda: count >= 30, "orders are published before the client comes")
        client = centrifuge.Client(f"{starling.url}/connection/websocket")
        subscription = client.new_subscription("kept:orders", names["Orders"](), get_state=names["get_state"])
        await subscription.subscribe()
        await client.connect()
        await subscription.ready(timeout=10)
        entered = count
        await until(lambda: count >= entered + 50, "orders are published while it is in")
    finally:
        stop.set()
        await asyncio.to_thread(backend.join, 20)
    end = time.monotonic() + DEADLINE
    while len(names["orders"]) < count:
        assert time.monotonic() < end, sorted(set(range(1, count + 1)) - names["orders"])
        await asyncio.sleep(0.02)
    await disconnect(client)

    assert names["orders"] == set(range(1, count + 1))


def test_a_login_issues_tokens(starling: Starling) -> None:
    names = run(example("Issue tokens from your own login", "python"), starling)
    with TestClient(names["app"]) as client:
        token = client.get("/realtime-token").json()["token"]

    key = VerificationKey.from_secret("the secret in STARLING_TOKEN_HMAC_SECRET")
    assert JwtVerifier([key], TokenRules()).connection_now(token).user == "alice"


class Received(centrifuge.SubscriptionEventHandler):  # type: ignore[misc]  # has no types
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.data: list[Any] = []

    async def on_publication(self, ctx: centrifuge.PublicationContext) -> None:
        self.data.append(ctx.pub.data)


async def test_straight_into_redis_reaches_clients(starling: Starling, redis: RedisServer) -> None:
    publish = run(example("Directly into Redis", "python"), starling, redis)["publish"]
    kept_code = example("Directly into Redis", "python", 1).replace(
        "app/starling/brokers", str(ROOT / "app" / "starling" / "brokers")
    )
    publish_kept = run(kept_code, starling, redis)["publish_kept"]
    client = centrifuge.Client(f"{starling.url}/connection/websocket")
    live, kept = Received(), Received()
    subscriptions = [client.new_subscription("live:a", live), client.new_subscription("kept:direct", kept)]
    for subscription in subscriptions:
        await subscription.subscribe()
    await client.connect()
    for subscription in subscriptions:
        await subscription.ready(timeout=10)

    publish("live:a", {"text": "straight"})
    positions = [publish_kept("kept:direct", {"number": number}) for number in range(3)]
    by_api = httpx2.post(
        f"{starling.http}/api/publish",
        json={"channel": "kept:direct", "data": {"number": 3}},
        headers={"X-API-Key": "dev"},
    ).json()["result"]

    end = time.monotonic() + DEADLINE
    while len(live.data) < 1 or len(kept.data) < 4:
        assert time.monotonic() < end, (live.data, kept.data)
        await asyncio.sleep(0.02)
    await disconnect(client)
    assert live.data == [{"text": "straight"}]
    assert kept.data == [{"number": number} for number in range(4)]
    assert published(starling, "kept:direct") == kept.data
    assert by_api == {"offset": positions[-1][0] + 1, "epoch": positions[-1][1]}


def test_the_keys_are_those_of_the_page(starling: Starling, redis: RedisServer) -> None:
    body = {"channel": "kept:keys", "data": 1, "idempotency_key": "k"}
    httpx2.post(f"{starling.http}/api/publish", json=body, headers={"X-API-Key": "dev"}).raise_for_status()

    with redis_client.Redis.from_url(redis.url, decode_responses=True) as plain:
        assert set(plain.hgetall("starling:meta:{kept:keys}")) == {"e", "o", "r"}
        ((_, fields),) = plain.xrange("starling:stream:{kept:keys}")
        assert set(fields) == {"p", "d"}
        assert 290 < plain.ttl("starling:idem:{kept:keys}:k") <= 300
