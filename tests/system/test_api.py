"""The server API over two workers and a real Redis: by the published library, by plain HTTP, and by many at once."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import cent
import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from starling.auth.issue import issue_connection_token, issue_subscription_token
from tests.support.running import SECRET, Starling, serving
from tests.support.services import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import DEADLINE, StepClock, until

KEY = "the first of two keys"
CHANNELS = """
default: {allow_subscribe_for_client: true}
namespaces:
  kept: {history_size: 100, history_ttl: 60s, presence: true, allow_subscribe_for_client: true}
  answers: {stream: text}
"""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def starling(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    channels = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text(CHANNELS)
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_API_KEYS": f"{KEY},the second of the two keys",
        "STARLING_BROKER_URL": redis.limited_url,
        "STARLING_BROKER_TIMEOUT_SECONDS": "1",
        "STARLING_WORKERS": "2",
        "STARLING_CHANNELS_FILE": str(channels),
    }
    with Starling(environment) as running:
        yield running


@pytest.fixture(scope="module")
def api(starling: Starling) -> Iterator[cent.Client]:
    client = cent.Client(f"{starling.http}/api", KEY)
    yield client
    client.close()


class Listener:
    """A client of the client endpoint: what it got, and how it ended."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.lines: list[dict[str, Any]] = []
        self.closed_with: tuple[int, str] | None = None
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for message in self.connection:
                for line in str(message).splitlines():
                    reported = json.loads(line)
                    self.lines.append(reported)
                    if not reported:
                        await self.connection.send("{}")
        except ConnectionClosed:
            pass
        self.closed_with = (self.connection.close_code or 0, self.connection.close_reason or "")

    async def ask(self, number: int, **command: Any) -> dict[str, Any]:
        await self.connection.send(json.dumps({"id": number, **command}))
        await until(lambda: self.replies(number))
        return self.replies(number)[0]

    def replies(self, number: int) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("id") == number]

    def pushes(self, kind: str) -> list[dict[str, Any]]:
        return [line["push"] for line in self.lines if kind in line.get("push", {})]

    @property
    def connected(self) -> dict[str, Any]:
        result: dict[str, Any] = self.replies(1)[0]["connect"]
        return result

    async def close(self) -> None:
        await self.connection.close()
        await self._reader


async def enter(starling: Starling, user: str, *channels: str, **claims: Any) -> Listener:
    listener = Listener(await connect(f"{starling.url}/connection/websocket"))
    token = issue_connection_token(SECRET, user, 600, **claims)
    reply = await listener.ask(1, connect={"token": token})
    assert "connect" in reply, reply
    for number, channel in enumerate(channels, start=2):
        assert "subscribe" in await listener.ask(number, subscribe={"channel": channel})
    return listener


@contextlib.asynccontextmanager
async def on_both_workers(
    starling: Starling, user: str, *channels: str, **claims: Any
) -> AsyncIterator[list[Listener]]:
    """Connections of one user, at least one on each worker."""
    listeners: list[Listener] = []
    try:
        while len({listener.connected["node"] for listener in listeners}) < 2:
            assert len(listeners) < 60, "60 connections and all on one worker"
            listeners.append(await enter(starling, user, *channels, **claims))
        yield listeners
    finally:
        for listener in listeners:
            await listener.close()


# --- each method, by the published library ---


async def test_cent_publishes_to_clients_of_both_workers(starling: Starling, api: cent.Client) -> None:
    async with on_both_workers(starling, "alice", "kept:news") as listeners:
        result = api.publish(cent.PublishRequest(channel="kept:news", data={"text": "hi"}, tags={"a": "b"}))

        await until(lambda: all(listener.pushes("pub") for listener in listeners))
        for listener in listeners:
            publication = listener.pushes("pub")[0]["pub"]
            assert (publication["data"], publication["tags"]) == ({"text": "hi"}, {"a": "b"})
            assert publication["offset"] == result.offset
    assert result.epoch


async def test_cent_broadcasts(starling: Starling, api: cent.Client) -> None:
    async with on_both_workers(starling, "bea", "one", "two") as listeners:
        result = api.broadcast(cent.BroadcastRequest(channels=["one", "two", "nowhere:x"], data="all"))

        await until(lambda: all(len(listener.pushes("pub")) == 2 for listener in listeners))
    first, second, third = result.responses
    assert first.error is None
    assert second.error is None
    assert third.error is not None
    assert third.error.code == 102


async def test_cent_subscribes_and_unsubscribes_a_user_everywhere(starling: Starling, api: cent.Client) -> None:
    async with on_both_workers(starling, "cleo") as listeners:
        api.subscribe(cent.SubscribeRequest(user="cleo", channel="kept:room", data={"welcome": True}))
        await until(lambda: all(listener.pushes("subscribe") for listener in listeners))
        assert listeners[0].pushes("subscribe")[0]["subscribe"]["data"] == {"welcome": True}

        api.publish(cent.PublishRequest(channel="kept:room", data=1))
        await until(lambda: all(listener.pushes("pub") for listener in listeners))

        api.unsubscribe(cent.UnsubscribeRequest(user="cleo", channel="kept:room"))
        await until(lambda: all(listener.pushes("unsubscribe") for listener in listeners))


async def test_cent_subscribes_from_a_position_without_a_gap(starling: Starling, api: cent.Client) -> None:
    since, *_ = [api.publish(cent.PublishRequest(channel="kept:from", data=number)) for number in range(3)]
    async with on_both_workers(starling, "dora") as listeners:
        position = cent.StreamPosition(offset=since.offset, epoch=since.epoch)
        api.subscribe(cent.SubscribeRequest(user="dora", channel="kept:from", recover_since=position))
        api.publish(cent.PublishRequest(channel="kept:from", data=3))

        await until(lambda: all(len(listener.pushes("pub")) == 3 for listener in listeners))
        for listener in listeners:
            assert [push["pub"]["data"] for push in listener.pushes("pub")] == [1, 2, 3]


async def test_cent_disconnects_a_user_everywhere(starling: Starling, api: cent.Client) -> None:
    async with on_both_workers(starling, "ella") as listeners, on_both_workers(starling, "other") as others:
        spared = listeners[0].connected["client"]
        reason = cent.Disconnect(code=4501, reason="signed out")
        api.disconnect(cent.DisconnectRequest(user="ella", whitelist=[spared], disconnect=reason))

        await until(lambda: all(listener.closed_with for listener in listeners[1:]))
        assert {listener.closed_with for listener in listeners[1:]} == {(4501, "signed out")}
        assert listeners[0].closed_with is None
        assert all(other.closed_with is None for other in others)

        api.disconnect(cent.DisconnectRequest(user="ella", client=spared))
        await until(lambda: listeners[0].closed_with)
        assert listeners[0].closed_with == (3503, "force disconnect")


async def test_cent_refreshes(starling: Starling, api: cent.Client) -> None:
    async with on_both_workers(starling, "fay") as listeners:
        api.refresh(cent.RefreshRequest(user="fay", expire_at=int(time.time()) + 100))
        await until(lambda: all(listener.pushes("refresh") for listener in listeners))
        assert 90 <= listeners[0].pushes("refresh")[0]["refresh"]["ttl"] <= 101

        api.refresh(cent.RefreshRequest(user="fay", expired=True))
        await until(lambda: all(listener.closed_with for listener in listeners))
        assert listeners[0].closed_with == (3005, "connection expired")


async def test_cent_reads_presence_of_both_workers(starling: Starling, api: cent.Client) -> None:
    async with on_both_workers(starling, "gil", "kept:here", info={"name": "Gil"}) as listeners:
        here = api.presence(cent.PresenceRequest(channel="kept:here")).presence
        stats = api.presence_stats(cent.PresenceStatsRequest(channel="kept:here"))

        assert set(here) == {listener.connected["client"] for listener in listeners}
        assert {(info.user, info.conn_info["name"]) for info in here.values()} == {("gil", "Gil")}  # type: ignore[index]
        assert (stats.num_clients, stats.num_users) == (len(listeners), 1)


def test_cent_reads_and_removes_history(api: cent.Client) -> None:
    positions = [api.publish(cent.PublishRequest(channel="kept:past", data=number)) for number in range(3)]
    since = cent.StreamPosition(offset=positions[0].offset, epoch=positions[0].epoch)

    found = api.history(cent.HistoryRequest(channel="kept:past", limit=10, since=since))
    assert [publication.data for publication in found.publications] == [1, 2]
    assert (found.offset, found.epoch) == (positions[2].offset, positions[2].epoch)
    latest = api.history(cent.HistoryRequest(channel="kept:past", limit=1, reverse=True))
    assert [publication.data for publication in latest.publications] == [2]

    api.history_remove(cent.HistoryRemoveRequest(channel="kept:past"))
    left = api.history(cent.HistoryRequest(channel="kept:past", limit=10))
    assert (left.publications, left.offset) == ([], positions[2].offset)


async def test_cent_counts_channels_over_both_workers(starling: Starling, api: cent.Client) -> None:
    async with on_both_workers(starling, "hal", "counted-1", "counted-2") as listeners:
        found = api.channels(cent.ChannelsRequest(pattern="counted-*")).channels

        assert {name: info.num_clients for name, info in found.items()} == {
            "counted-1": len(listeners),
            "counted-2": len(listeners),
        }


async def test_cent_lists_both_nodes(starling: Starling, api: cent.Client) -> None:
    async with on_both_workers(starling, "ida") as listeners:
        await until(lambda: len(api.info(cent.InfoRequest()).nodes) == 2)
        nodes = api.info(cent.InfoRequest()).nodes

        assert {node.uid for node in nodes} == {listener.connected["node"] for listener in listeners}
        assert {int(node.name.rpartition("_")[2]) for node in nodes} == set(starling.workers)


@pytest.mark.parametrize("parallel", [False, True])
def test_cent_batches(api: cent.Client, parallel: bool) -> None:
    requests = [
        cent.PublishRequest(channel="kept:batch", data=1),
        cent.BroadcastRequest(channels=["a", "b"], data=2),
        cent.PresenceStatsRequest(channel="kept:batch"),
        cent.InfoRequest(),
    ]

    published, broadcast, stats, info = api.batch(cent.BatchRequest(requests=requests, parallel=parallel)).replies

    assert published.offset > 0  # type: ignore[attr-defined]
    assert len(broadcast.responses) == 2  # type: ignore[attr-defined]
    assert stats.num_clients == 0  # type: ignore[attr-defined]
    assert len(info.nodes) == 2  # type: ignore[attr-defined]


async def test_the_asynchronous_client_of_cent_works_too(starling: Starling) -> None:
    client = cent.AsyncClient(f"{starling.http}/api", KEY)
    try:
        results = await asyncio.gather(
            *(client.publish(cent.PublishRequest(channel="kept:async", data=number)) for number in range(20))
        )
    finally:
        await client.close()

    assert sorted(result.offset for result in results) == list(range(1, 21))


def test_cent_gets_errors_and_invalid_keys(starling: Starling, api: cent.Client) -> None:
    with pytest.raises(cent.CentApiResponseError) as unknown:
        api.publish(cent.PublishRequest(channel="nowhere:x", data=1))
    assert unknown.value.code == 102
    with pytest.raises(cent.CentUnauthorizedError):
        cent.Client(f"{starling.http}/api", "another key").info(cent.InfoRequest())


# --- by plain HTTP ---


def plain(starling: Starling, method: str, body: Any, key: str = KEY) -> httpx2.Response:
    return httpx2.post(f"{starling.http}/api/{method}", json=body, headers={"X-API-Key": key}, timeout=10)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("publish", {"channel": "kept:plain", "data": {"a": 1}}),
        ("broadcast", {"channels": ["a", "kept:plain"], "data": 1}),
        ("subscribe", {"user": "nobody", "channel": "a"}),
        ("unsubscribe", {"user": "nobody", "channel": "a"}),
        ("disconnect", {"user": "nobody"}),
        ("refresh", {"user": "nobody"}),
        ("presence", {"channel": "kept:plain"}),
        ("presence_stats", {"channel": "kept:plain"}),
        ("history", {"channel": "kept:plain", "limit": 1}),
        ("history_remove", {"channel": "kept:plain"}),
        ("channels", {}),
        ("info", {}),
        ("top", {}),
        ("revoke_token", {"uid": "nobody's"}),
        ("revoke_session", {"session": "nobody's"}),
        ("invalidate_user_tokens", {"user": "nobody"}),
    ],
)
def test_every_method_answers_plain_http_with_a_result(starling: Starling, method: str, body: Any) -> None:
    answer = plain(starling, method, body, "the second of the two keys")

    assert answer.status_code == 200
    assert set(answer.json()) == {"result"}
    assert isinstance(answer.json()["result"], dict)


async def test_a_retry_with_the_same_key_reaches_nobody_whichever_worker_it_meets(starling: Starling) -> None:
    body = {"channel": "kept:once", "data": "once", "idempotency_key": "k1"}
    live = {"channel": "once", "data": "once", "idempotency_key": "k1"}
    async with on_both_workers(starling, "joe", "kept:once", "once") as listeners:
        positions = [plain(starling, "publish", body).json()["result"] for _ in range(8)]
        answers = [plain(starling, "publish", live).json() for _ in range(8)]
        last = plain(starling, "broadcast", {"channels": ["kept:once", "once"], "data": "last"}).json()
        assert [set(one) for one in last["result"]["responses"]] == [{"result"}] * 2

        await until(
            lambda: all(
                [push["pub"]["data"] for push in listener.pushes("pub")].count("last") == 2 for listener in listeners
            )
        )
        for listener in listeners:
            received = [(push["channel"], push["pub"]["data"]) for push in listener.pushes("pub")]
            assert sorted(received) == [
                ("kept:once", "last"),
                ("kept:once", "once"),
                ("once", "last"),
                ("once", "once"),
            ]
    assert all(position == positions[0] for position in positions)
    assert answers == [{"result": {}}] * 8


def test_a_sequential_batch_keeps_its_order(starling: Starling) -> None:
    commands = [{"publish": {"channel": "kept:order", "data": number}} for number in range(90)]

    replies = plain(starling, "batch", {"commands": commands}).json()["replies"]

    assert [reply["publish"]["offset"] for reply in replies] == list(range(1, 91))
    found = plain(starling, "history", {"channel": "kept:order", "limit": -1}).json()["result"]["publications"]
    assert [publication["data"] for publication in found] == list(range(90))


async def test_a_batch_and_a_broadcast_take_one_round_trip_to_redis(redis: RedisServer, tmp_path: Path) -> None:
    channels = tmp_path / "channels.yaml"
    channels.write_text(CHANNELS)
    publications = [{"publish": {"channel": f"kept:{n}" if n % 2 else f"live{n}", "data": n}} for n in range(100)]
    names = [command["publish"]["channel"] for command in publications]
    async with TcpProxy(redis.port) as road:
        environment = {
            "STARLING_DEV": "true",
            "STARLING_BROKER_URL": road.url,
            "STARLING_BROKER_TIMEOUT_SECONDS": "10",
            "STARLING_BROKER_PREFIX": "far",
            "STARLING_CHANNELS_FILE": str(channels),
        }
        async with serving(environment) as far, httpx2.AsyncClient(base_url=f"{far.http}/api", timeout=30) as api:
            api.headers["X-API-Key"] = "dev"
            await api.post("/publish", json={"channel": "kept:warm", "data": 0})
            for method, body in (("batch", {"commands": publications}), ("broadcast", {"channels": names, "data": 1})):
                before = road.round_trips
                answer = (await api.post(f"/{method}", json=body)).json()

                # Redis may answer the first before the last are written, and canaries go the same way.
                assert 1 <= road.round_trips - before < 20
                outcomes = answer["replies"] if method == "batch" else answer["result"]["responses"]
                assert len(outcomes) == 100
                assert not any("error" in outcome for outcome in outcomes)


def test_broadcasts_and_batches_of_kept_publications_answer_the_position_in_each_channel(starling: Starling) -> None:
    names = [f"kept:each{number}" for number in range(60)]
    plain(starling, "publish", {"channel": names[7], "data": 0})

    broadcast = plain(starling, "broadcast", {"channels": names, "data": 1}).json()["result"]["responses"]
    commands = [{"publish": {"channel": name, "data": number}} for number, name in enumerate(names)]
    batch = plain(starling, "batch", {"commands": commands}).json()["replies"]

    assert [each["result"]["offset"] for each in broadcast] == [2 if number == 7 else 1 for number in range(60)]
    assert [each["publish"]["offset"] for each in batch] == [3 if number == 7 else 2 for number in range(60)]
    for number in (0, 7, 59):
        page = plain(starling, "history", {"channel": names[number], "limit": 1}).json()["result"]
        assert page["offset"] == batch[number]["publish"]["offset"]
        assert page["epoch"] == batch[number]["publish"]["epoch"] == broadcast[number]["result"]["epoch"]


# --- revocation ---


async def refused_with(starling: Starling, token: str) -> int:
    connection = await connect(f"{starling.url}/connection/websocket")
    listener = Listener(connection)
    await connection.send(json.dumps({"id": 1, "connect": {"token": token}}))
    await until(lambda: listener.closed_with or listener.replies(1))
    code = listener.closed_with[0] if listener.closed_with else 0
    await listener.close()
    return code


async def test_a_revoked_token_ends_its_connections_on_both_workers_and_opens_no_more(
    starling: Starling, api: cent.Client
) -> None:
    token = issue_connection_token(SECRET, "kim", 600, jti="kims-token")
    async with (
        on_both_workers(starling, "kim", jti="kims-token") as listeners,
        on_both_workers(starling, "kim", jti="another") as others,
    ):
        assert await refused_with(starling, token) == 0
        api.revoke_token(cent.RevokeTokenRequest(uid="kims-token", expire_at=int(time.time()) + 600))

        await until(lambda: all(listener.closed_with for listener in listeners))
        assert {listener.closed_with for listener in listeners} == {(3500, "invalid token")}
        assert all(other.closed_with is None for other in others)
        assert {await refused_with(starling, token) for _ in range(8)} == {3500}


async def test_a_users_older_tokens_are_refused_and_the_next_one_passes(starling: Starling, api: cent.Client) -> None:
    now = time.time()
    async with on_both_workers(starling, "lou", iat=int(now) - 10) as listeners:
        api.invalidate_user_tokens(cent.InvalidateUserTokensRequest(user="lou"))

        await until(lambda: all(listener.closed_with for listener in listeners))
        assert {listener.closed_with for listener in listeners} == {(3500, "invalid token")}
    answer = plain(starling, "invalidate_user_tokens", {"user": "lou", "issued_before": now - 100}).json()["result"]
    assert answer == {"issued_before": now - 100}
    old = issue_connection_token(SECRET, "lou", 600, iat=int(now) - 10)
    new = issue_connection_token(SECRET, "lou", 600)
    assert {await refused_with(starling, old) for _ in range(6)} == {3500}
    assert {await refused_with(starling, new) for _ in range(6)} == {0}


async def test_a_revoked_session_ends_whatever_its_tokens_are(starling: Starling) -> None:
    async with (
        on_both_workers(starling, "max", sid="login-1") as gone,
        on_both_workers(starling, "max", sid="login-2") as stays,
    ):
        assert {listener.connected["session"] for listener in gone} == {"login-1"}
        plain(starling, "revoke_session", {"session": "login-1"})

        await until(lambda: all(listener.closed_with for listener in gone))
        assert {listener.closed_with for listener in gone} == {(3500, "invalid token")}
        assert all(listener.closed_with is None for listener in stays)
    refreshed = issue_connection_token(SECRET, "max", 600, sid="login-1", jti="the next one")
    assert await refused_with(starling, refreshed) == 3500


async def test_a_connections_own_session_takes_its_token_along(starling: Starling) -> None:
    listener = await enter(starling, "nan", jti="nans-token")
    plain(starling, "revoke_session", {"session": listener.connected["session"]})

    await until(lambda: listener.closed_with)
    token = issue_connection_token(SECRET, "nan", 600, jti="nans-token")
    end = time.monotonic() + DEADLINE
    while {await refused_with(starling, token) for _ in range(6)} != {3500}:
        assert time.monotonic() < end, "the token was not refused everywhere"
    await listener.close()


async def carried_out(starling: Starling, listener: Listener, user: str) -> None:
    """Wait until the worker of `listener` has carried out what was ordered: a later order comes after it."""
    assert "result" in plain(starling, "subscribe", {"user": user, "channel": "the-later-order"}).json()
    await until(lambda: listener.pushes("subscribe"))


async def test_a_revoked_token_brings_no_refresh(starling: Starling) -> None:
    listener = await enter(starling, "oda")
    plain(starling, "revoke_token", {"uid": "odas-next"})
    token = issue_connection_token(SECRET, "oda", 600, jti="odas-next")

    await carried_out(starling, listener, "oda")
    await listener.connection.send(json.dumps({"id": 9, "refresh": {"token": token}}))

    await until(lambda: listener.closed_with)
    assert listener.closed_with == (3500, "invalid token")
    await listener.close()


async def test_a_refreshed_connection_stands_by_its_new_token(starling: Starling) -> None:
    listener = await enter(starling, "pam", jti="pams-first")
    token = issue_connection_token(SECRET, "pam", 600, jti="pams-second")
    assert "refresh" in await listener.ask(9, refresh={"token": token})

    plain(starling, "revoke_token", {"uid": "pams-first"})
    await carried_out(starling, listener, "pam")
    assert listener.closed_with is None

    plain(starling, "revoke_token", {"uid": "pams-second"})
    await until(lambda: listener.closed_with)
    await listener.close()


async def test_a_revoked_subscription_token_ends_its_subscription_alone(starling: Starling) -> None:
    listener = await enter(starling, "quin", "plain")
    for number, jti in ((5, "sub-1"), (6, "sub-2")):
        token = issue_subscription_token(SECRET, "quin", f"$private-{number}", 600, jti=jti)
        reply = await listener.ask(number, subscribe={"channel": f"$private-{number}", "token": token})
        assert "subscribe" in reply
    plain(starling, "revoke_token", {"uid": "sub-1"})

    await until(lambda: listener.pushes("unsubscribe"))
    assert [push["channel"] for push in listener.pushes("unsubscribe")] == ["$private-5"]
    again = issue_subscription_token(SECRET, "quin", "$private-5", 600, jti="sub-1")
    assert (await listener.ask(7, subscribe={"channel": "$private-5", "token": again}))["error"]["code"] == 103
    assert listener.closed_with is None
    await listener.close()


async def test_the_tutorials_endpoints_close_on_revocation_too(starling: Starling) -> None:
    token = issue_connection_token(SECRET, "rae", 600, jti="raes-token")
    headers = {"Authorization": f"Bearer {token}"}
    echo = await connect(f"{starling.url}/ws", additional_headers=headers)
    await echo.send("hello")
    assert await echo.recv() == "Message text was: hello"

    plain(starling, "revoke_token", {"uid": "raes-token"})

    async with asyncio.timeout(DEADLINE):
        with pytest.raises(ConnectionClosed):
            await echo.recv()
    assert (echo.close_code, echo.close_reason) == (1008, "the token was revoked")


async def test_a_metric_reports_how_long_revocations_took(starling: Starling) -> None:
    before = starling.metrics().get("starling_revocation_seconds_count", 0)
    plain(starling, "revoke_token", {"uid": "measured"})

    await until(lambda: starling.metrics().get("starling_revocation_seconds_count", 0) >= before + 2)
    metrics = starling.metrics()
    within_a_second = metrics['starling_revocation_seconds_bucket{le="1.0"}']
    assert within_a_second == metrics["starling_revocation_seconds_count"]


# --- when the broker is away; these come last ---


async def test_without_the_broker_a_call_is_503_in_bounded_time(starling: Starling, redis: RedisServer) -> None:
    redis.freeze()
    try:
        for method, body in (
            ("publish", {"channel": "kept:a", "data": 1}),
            ("publish", {"channel": "a", "data": 1}),
            ("broadcast", {"channels": ["a", "kept:b"], "data": 1}),
            ("history", {"channel": "kept:a", "limit": 1}),
            ("presence", {"channel": "kept:a"}),
            ("disconnect", {"user": "x"}),
            ("channels", {}),
            ("revoke_token", {"uid": "x"}),
            ("batch", {"commands": [{"publish": {"channel": "a", "data": 1}}]}),
        ):
            with StepClock() as clock:
                answer = plain(starling, method, body)

            assert answer.status_code == 503, method
            reported = answer.json()["replies"][0] if method == "batch" else answer.json()
            assert reported["error"]["code"] == 100
            read = method in {"history", "presence", "channels"}
            assert ("nothing was read" in reported["error"]["message"]) == read, method
            assert clock.seconds < 5, method
    finally:
        redis.thaw()

    end = time.monotonic() + DEADLINE
    while plain(starling, "publish", {"channel": "kept:a", "data": 1}).status_code != 200:
        assert time.monotonic() < end, "publishing did not return with the broker"


def test_a_worker_that_is_gone_stalls_nothing(starling: Starling) -> None:
    victim = starling.workers[0]
    os.kill(victim, signal.SIGKILL)
    end = time.monotonic() + DEADLINE
    answered = 0
    while answered < 3:
        assert time.monotonic() < end
        with contextlib.suppress(httpx2.TransportError), StepClock() as clock:
            assert plain(starling, "channels", {}).status_code == 200
            assert clock.seconds < 5
            answered += 1


def test_nothing_secret_was_logged(starling: Starling) -> None:
    assert KEY not in Path(starling.log_path).read_text()
    assert "kims-token" not in starling.output


@pytest.mark.parametrize(
    ("method", "body", "headers"),
    [
        ("publish", b'{"channel":"a","data":1}', {}),
        ("publish", b'{"channel":"a","data":1}', {"X-Request-ID": "given-by-a-proxy"}),
        ("publish", b'{"channel":"a"}', {}),
        ("publish", b"{", {}),
        ("publish", b"", {}),
        ("publish", b'{"channel":"nowhere:a","data":1}', {}),
        ("publish", b'{"channel":"a","data":1,"version":"x"}', {}),
        ("publish", b'{"channel":"a","data":1,"wait_seconds":1}', {}),
        ("publish", b'{"channel":"a","data":1}', {"X-API-Key": "another"}),
        ("stream_append", b'{"channel":"answers:none","text":"x"}', {}),
        ("stream_append", b'{"channel":"a","text":"x"}', {}),
        ("stream_append", b'{"channel":"answers:none","text":1}', {}),
        ("stream_append", b'{"channel":"answers:none","text":"x","window":true}', {}),
        ("publish", b'{"channel":"a","data":1}', {"X-API-Key": "", "Authorization": f"apikey {KEY}"}),
        ("broadcast", b'{"channels":["a","nowhere:b"],"data":1}', {}),
        (
            "batch",
            b'{"commands":[{"publish":{"channel":"a","data":1}},{"publish":{}},{"presence":{"channel":"a"}}]}',
            {},
        ),
        ("nonsense", b"{}", {}),
        ("history", b'{"channel":"a"}', {}),
    ],
)
def test_a_request_has_the_same_answer_with_and_without_the_applications_stack(
    starling: Starling, method: str, body: bytes, headers: dict[str, str]
) -> None:
    # An escaped letter in the path is what the server leaves to the application.
    seen = []
    for path in (f"/api/{method}", f"/api/{method.replace('h', '%68', 1).replace('t', '%74', 1)}"):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", starling.port, timeout=15)) as connection:
            # From its third request on, a connection repeats a head that the server knows.
            for _ in range(3):
                connection.request("POST", path, body, {"X-API-Key": KEY, **headers})
                answer = connection.getresponse()
                lines = {name.lower(): value for name, value in answer.getheaders()}
                del lines["date"]
                request_id = lines.pop("x-request-id")
                assert request_id == headers.get("X-Request-ID", request_id)
                seen.append((answer.status, lines, answer.read()))
    assert all(other == seen[0] for other in seen)


def test_each_request_of_a_connection_has_an_id_of_its_own(starling: Starling) -> None:
    ids = set()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", starling.port, timeout=15)) as connection:
        for _ in range(5):
            connection.request("POST", "/api/publish", b'{"channel":"a","data":1}', {"X-API-Key": KEY})
            answer = connection.getresponse()
            answer.read()
            ids.add(answer.headers["x-request-id"])
    assert len(ids) == 5
