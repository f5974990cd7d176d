"""The server API over two pods of one Redis: whichever is asked, it answers and controls for both."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from starling.auth.issue import issue_connection_token
from starling.engine.capture import CAPTURES_LIMIT
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer
from tests.support.waiting import StepClock, until

KEY = "a key of this test's own"
CHANNELS = "default: {allow_subscribe_for_client: true}\n"


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Starling, Starling]]:
    """Two services of one worker each."""
    channels = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text(CHANNELS)
    with RedisServer() as redis:
        environment = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_API_KEYS": KEY,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_WORKERS": "1",
            # A ping would be one more message of those that are counted.
            "STARLING_PING_SECONDS": "3600",
        }
        with Starling(environment) as one, Starling(environment) as other:
            yield one, other


def call(starling: Starling, method: str, **body: Any) -> Any:
    answer = httpx2.post(f"{starling.http}/api/{method}", json=body, headers={"X-API-Key": KEY}, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


async def enter(starling: Starling, user: str, channel: str) -> ClientConnection:
    """A client in a channel."""
    client = await connect(f"{starling.url}/connection/websocket")
    await client.send(json.dumps({"id": 1, "connect": {"token": issue_connection_token(SECRET, user, 60)}}))
    await client.recv()
    await client.send(json.dumps({"id": 2, "subscribe": {"channel": channel}}))
    assert "subscribe" in json.loads(await client.recv())
    return client


async def test_either_pod_sees_and_controls_the_clients_of_both(pods: tuple[Starling, Starling]) -> None:
    clients = [await enter(pod, "alice", "news") for pod in pods]

    for pod in pods:
        assert len(call(pod, "info")["nodes"]) == 2
        assert call(pod, "channels")["channels"] == {"news": {"num_clients": 2}}
        call(pod, "publish", channel="news", data=pod.port)
        for client in clients:
            assert json.loads(await client.recv())["push"]["pub"]["data"] == pod.port
    call(pods[1], "disconnect", user="alice")

    for client in clients:
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 3503


async def test_top_reports_both_pods_and_of_the_busiest_channels(pods: tuple[Starling, Starling]) -> None:
    clients = [await enter(pod, "carol", "busy") for pod in pods]
    before = call(pods[0], "top")
    for _ in range(20):
        call(pods[0], "publish", channel="busy", data={"text": "hello"})
    for client in clients:
        for _ in range(20):
            await client.recv()

    for pod in pods:
        # The busiest channels are counted once a second.
        await until(lambda pod=pod: call(pod, "top", limit=1)["channels"])  # type: ignore[misc]
        reported = call(pod, "top", limit=1)
        assert reported["missing"] == []
        assert {node["name"] for node in reported["nodes"]} == {node["name"] for node in call(pod, "info")["nodes"]}
        assert [(node["connections"], node["subscriptions"]) for node in reported["nodes"]] == [(1, 1), (1, 1)]
        (busiest,) = reported["channels"]
        assert (busiest["channel"], busiest["subscribers"]) == ("busy", 2)
        assert busiest["deliveries_per_second"] > 0
        earlier = {node["uid"]: node for node in before["nodes"]}
        assert [node["messages_out"] - earlier[node["uid"]]["messages_out"] for node in reported["nodes"]] == [20, 20]
        assert sum(node["publications"] - earlier[node["uid"]]["publications"] for node in reported["nodes"]) == 20
    for client in clients:
        await client.close()


class Watching:
    """A capture over one pod, from its first line until it has ended."""

    def __init__(self, starling: Starling, **asked: Any) -> None:
        self.lines: list[dict[str, Any]] = []
        self._starling = starling
        self._asked = asked
        self._task: asyncio.Task[None]

    async def _read(self) -> None:
        url, headers = f"{self._starling.http}/api/capture", {"X-API-Key": KEY}
        async with (
            httpx2.AsyncClient(timeout=30) as http,
            http.stream("POST", url, json=self._asked, headers=headers) as answer,
        ):
            assert answer.headers["content-type"] == "application/x-ndjson"
            async for line in answer.aiter_lines():
                if line:
                    self.lines.append(json.loads(line))

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "frame" in line]

    @property
    def dropped(self) -> int:
        """The frames of which only the number was reported."""
        return sum(line["dropped"] for line in self.lines if "node" in line and "dropped" in line)

    def leave(self) -> None:
        """End the capture by going."""
        self._task.cancel()

    async def __aenter__(self) -> "Watching":
        self._task = asyncio.create_task(self._read())
        # From the first line on every node sees each frame.
        await until(lambda: self.lines)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        with suppress(asyncio.CancelledError):
            await self._task


@pytest.mark.parametrize("payload", [False, True])
async def test_a_user_is_traced_on_both_pods_without_a_token(pods: tuple[Starling, Starling], payload: bool) -> None:
    async with Watching(pods[0], user="dora", seconds=2.5, payload=payload, by="the test") as watching:
        others = await enter(pods[1], "somebody else", "watched")
        clients = [await enter(pod, "dora", "watched") for pod in pods]
        call(pods[0], "publish", channel="watched", data={"secret": "of the payload"})
        for client in clients:
            await client.recv()
            await client.close()
        await others.close()

    assert {line["user"] for line in watching.frames} == {"dora"}
    by_node: dict[str, list[Any]] = {}
    for line in watching.frames:
        by_node.setdefault(line["node"], []).append((line["direction"], line["frame"]))
    assert len(by_node) == 2
    for frames in by_node.values():
        assert frames[0] == ("in", {"id": 1, "connect": {"token": "[redacted]"}})
        assert [direction for direction, _ in frames] == ["in", "out", "in", "out", "out", "end"]
        assert frames[2] == ("in", {"id": 2, "subscribe": {"channel": "watched"}})
        data = frames[4][1]["push"]["pub"]["data"]
        assert data == ({"secret": "of the payload"} if payload else {"bytes": 27})
        assert frames[5][1]["close"]["code"] == 1000
    assert watching.lines[-1] == {"ended": "time is over", "frames": 12, "dropped": 0}
    assert len(watching.lines[0]["nodes"]) == 2
    for pod in pods:
        assert "eyJ" not in json.dumps([line for line in pod.lines if line["event"].startswith("capture")])
    await until(lambda: pods[0].lines[-1]["event"] == "capture_ended")
    started, ended = [line for line in pods[0].lines if line["event"].startswith("capture")][-2:]
    asked = {"user": "dora", "asked_by": "the test", "address": "127.0.0.1", "key": 1, "payload": payload}
    assert asked.items() <= started.items()
    assert (started["event"], started["seconds"]) == ("capture_started", 2.5)
    assert asked.items() <= ended.items()
    assert (ended["frames"], ended["reason"]) == (12, "time is over")


async def test_a_channel_is_traced_with_what_was_asked_of_it(pods: tuple[Starling, Starling]) -> None:
    async with Watching(pods[1], channel="traced", seconds=2) as watching:
        client = await enter(pods[0], "emil", "traced")
        await client.send(json.dumps({"id": 3, "subscribe": {"channel": "another"}}))
        await client.recv()
        for channel in ("another", "traced"):
            call(pods[1], "publish", channel=channel, data=1)
            await client.recv()
        await client.send(json.dumps({"id": 4, "unsubscribe": {"channel": "traced"}}))
        await client.recv()
        await client.close()

    reported = [(line["direction"], next(iter(set(line["frame"]) - {"id"}))) for line in watching.frames]
    expected = ["in subscribe", "out subscribe", "out push", "in unsubscribe", "out unsubscribe"]
    assert [" ".join(one) for one in reported] == expected
    assert watching.frames[2]["clients"] == 1
    assert "client" not in watching.frames[2]


# In the process: tests/engine/test_capture_watching.py.
@pytest.mark.long
async def test_too_many_frames_are_dropped_counted_and_reported(pods: tuple[Starling, Starling]) -> None:
    client = await enter(pods[0], "flo", "flooded")
    async with Watching(pods[1], channel="flooded", seconds=600) as watching:
        commands = [{"publish": {"channel": "flooded", "data": n}} for n in range(1000)]
        await asyncio.to_thread(call_batch, pods[0], commands)
        await until(lambda: len(watching.frames) + watching.dropped >= 1000, "every frame is shown or counted")
        watching.leave()
    await client.close()

    assert watching.dropped > 0
    assert len(watching.frames) + watching.dropped == 1000
    (ended,) = pods[1].reported("capture_ended", channel="flooded")
    assert (ended["frames"], ended["dropped"]) == (len(watching.frames), watching.dropped)


async def test_channels_of_all_pods_are_listed_page_by_page(pods: tuple[Starling, Starling]) -> None:
    # Every third channel has clients on both pods.
    names = [f"paged-{number}" for number in range(9)]
    async with AsyncExitStack() as clients:

        async def add(pod: Starling, channel: str) -> None:
            await clients.enter_async_context(await enter(pod, "pat", channel))

        for number, name in enumerate(names):
            await add(pods[number % 2], name)
            if number % 3 == 0:
                await add(pods[1 - number % 2], name)
        pages, cursor = [], ""
        for _ in range(5):
            page = await asyncio.to_thread(call, pods[0], "channels", pattern="paged-*", limit=4, cursor=cursor)
            pages.append(page["channels"])
            if not (cursor := page.get("cursor", "")):
                break
            # A channel that begins before the cursor changes nothing in the pages that follow.
            await add(pods[1], f"paged-{len(pages)}-late")

    assert [list(page) for page in pages] == [names[:4], names[4:8], names[8:]]
    counts = {name: entry["num_clients"] for page in pages for name, entry in page.items()}
    assert counts == {name: 2 if number % 3 == 0 else 1 for number, name in enumerate(names)}


async def test_connections_of_all_pods_are_listed_page_by_page(pods: tuple[Starling, Starling]) -> None:
    clients = [await enter(pods[number % 2], f"listed-{number}", "news") for number in range(5)]
    more = await enter(pods[1], "listed-0", "news")

    listed, cursor = [], ""
    for _ in range(10):
        page = await asyncio.to_thread(call, pods[0], "connections", limit=2, cursor=cursor)
        assert len(page["connections"]) <= 2
        assert "missing" not in page
        listed += page["connections"]
        cursor = page.get("cursor", "")
        if not cursor:
            break
    of_test = [one for one in listed if one["user"].startswith("listed-")]
    assert sorted(one["user"] for one in of_test) == ["listed-0", *(f"listed-{number}" for number in range(5))]
    assert [one["client"] for one in listed] == sorted({one["client"] for one in listed})
    assert len({one["node"] for one in of_test}) == 2

    found = (await asyncio.to_thread(call, pods[0], "connections", user="listed-0"))["connections"]
    assert [(one["user"], one["transport"], one["address"], one["channels"]) for one in found] == [
        ("listed-0", "json", "127.0.0.1", ["news"])
    ] * 2
    assert all(one["received"] == 2 and one["num_channels"] == 1 for one in found)
    assert all(0 <= time.time() - one["since"] < 600 for one in found)
    assert (await asyncio.to_thread(call, pods[0], "connections", user="nobody"))["connections"] == []
    for client in (*clients, more):
        await client.close()


def call_batch(starling: Starling, commands: list[dict[str, Any]]) -> None:
    body = {"commands": commands}
    httpx2.post(f"{starling.http}/api/batch", json=body, headers={"X-API-Key": KEY}, timeout=10).raise_for_status()


async def test_an_asker_who_goes_ends_the_trace(pods: tuple[Starling, Starling]) -> None:
    async with httpx2.AsyncClient(timeout=10) as http:
        body = {"user": "nobody", "seconds": 600}
        async with http.stream("POST", f"{pods[0].http}/api/capture", json=body, headers={"X-API-Key": KEY}) as answer:
            assert "capture" in json.loads(await anext(answer.aiter_lines()))

    await until(lambda: pods[0].lines[-1]["event"] == "capture_ended")
    assert pods[0].lines[-1]["reason"] == "the client disconnected"
    assert pods[0].lines[-1]["seconds"] < 10


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, 107),
        ({"user": "a", "channel": "b"}, 107),
        ({"channel": "nowhere:b"}, 102),
        ({"channel": "a{b"}, 107),
        ({"user": "a", "seconds": 601}, 107),
        ({"user": "a", "seconds": 0}, 107),
    ],
)
def test_a_trace_that_cannot_be_is_refused(pods: tuple[Starling, Starling], asked: dict[str, Any], code: int) -> None:
    answer = httpx2.post(f"{pods[0].http}/api/capture", json=asked, headers={"X-API-Key": KEY}, timeout=10)

    assert (answer.status_code, answer.json()["error"]["code"]) == (200, code)


def test_a_trace_needs_the_key(pods: tuple[Starling, Starling]) -> None:
    answer = httpx2.post(
        f"{pods[0].http}/api/capture", json={"user": "a"}, headers={"X-API-Key": "another"}, timeout=10
    )

    assert answer.status_code == 401


async def test_more_traces_than_there_may_be_are_refused(pods: tuple[Starling, Starling]) -> None:
    traces = [Watching(pods[number % 2], user=f"u{number}", seconds=2) for number in range(CAPTURES_LIMIT)]
    await asyncio.gather(*(trace.__aenter__() for trace in traces))

    refused = httpx2.post(f"{pods[0].http}/api/capture", json={"user": "a"}, headers={"X-API-Key": KEY}, timeout=10)

    assert refused.json()["error"]["code"] == 106
    for trace in traces:
        await trace.__aexit__()


async def test_a_pod_that_vanished_stalls_no_answer(pods: tuple[Starling, Starling]) -> None:
    """This comes last: the second pod does not return."""
    client = await enter(pods[0], "bob", "left")
    pid = pods[1].workers[0]
    await asyncio.to_thread(pods[1].kill)

    with StepClock() as clock:
        missing = call(pods[0], "top")["missing"]
    assert [name.rpartition("_")[2] for name in missing] == [str(pid)]
    assert clock.seconds < 5

    for _ in range(3):
        with StepClock() as clock:
            assert call(pods[0], "channels")["channels"] == {"left": {"num_clients": 1}}
        assert clock.seconds < 5
    assert len(call(pods[0], "info")["nodes"]) == 1
    await client.close()
