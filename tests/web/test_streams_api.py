"""Append-only streams by the server API: openings, chunks, producers, ends, and errors that name a field."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.main import create_app
from starling.settings import load_settings

KEY = "the-key-of-a-test-long-enough"
CHANNELS = """
namespaces:
  plain: {}
  answers: {stream: text, stream_max_bytes: 40, append_window: 20ms}
  events: {stream: json}
  files: {stream: bytes}
  all: {stream: any}
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The API of a running node on memory, opened with a key."""
    with _client(tmp_path_factory.mktemp("streams") / "channels.yaml") as client:
        yield client


def _client(path: Path) -> TestClient:
    path.write_text(CHANNELS)
    variables = {
        "STARLING_CHANNELS_FILE": str(path),
        "STARLING_API_KEYS": KEY,
        "STARLING_LOG_LEVEL": "error",
        "STARLING_TOKEN_HMAC_SECRET": "a test's own secret, longer than thirty-two bytes",
    }
    return TestClient(
        create_app(load_settings(variables), CollectorRegistry()),
        client=("192.0.2.7", 50000),
        headers={"X-API-Key": KEY},
    )


def call(api: TestClient, method: str, **body: Any) -> Any:
    answer = api.post(f"/api/{method}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def done(api: TestClient, method: str, **body: Any) -> Any:
    answer = call(api, method, **body)
    assert "result" in answer, answer
    return answer["result"]


def refused(api: TestClient, method: str, **body: Any) -> Any:
    answer = call(api, method, **body)
    assert "error" in answer, answer
    return answer["error"]


def contents(api: TestClient, channel: str) -> list[Any]:
    return [each["data"] for each in done(api, "history", channel=channel, limit=-1)["publications"]]


def test_a_stream_is_opened_written_closed_and_deleted(api: TestClient) -> None:
    opened = done(api, "stream_open", channel="answers:1")
    assert (opened["type"], opened["status"], opened["created"], opened["offset"]) == ("text", "open", True, 0)
    appended = done(api, "stream_append", channel="answers:1", text="Grüße")
    assert (appended["offset"], appended["length"], appended["size"]) == (1, 7, 7)
    closed = done(api, "stream_close", channel="answers:1", text="!", final={"tokens": 2})
    assert (closed["status"], closed["final"], closed["length"]) == ("complete", {"tokens": 2}, 8)

    assert contents(api, "answers:1") == [{"text": "Grüße"}, {"text": "!"}]
    error = refused(api, "stream_append", channel="answers:1", text="more")
    assert (error["code"], error["stream"]) == (108, {"reason": "closed", "status": "complete"})
    assert done(api, "stream_close", channel="answers:1", status="failed")["repeated"] is True
    assert done(api, "stream_delete", channel="answers:1", epoch="another") == {"deleted": False}
    assert done(api, "stream_delete", channel="answers:1", epoch=opened["epoch"]) == {"deleted": True}
    assert done(api, "stream_delete", channel="answers:1") == {"deleted": False}
    assert done(api, "stream_open", channel="answers:1")["epoch"] != opened["epoch"]
    assert done(api, "stream_delete", channel="answers:1", epoch=opened["epoch"]) == {"deleted": False}
    assert [stream["channel"] for stream in done(api, "stream_list")["streams"]] == ["answers:1"]


def test_json_and_bytes_are_kept_as_they_are(api: TestClient) -> None:
    done(api, "stream_open", channel="events:1")
    done(api, "stream_append", channel="events:1", json=[{"a": 1}, [2, 3], None])
    done(api, "stream_open", channel="files:1")
    done(api, "stream_append", channel="files:1", b64data=base64.b64encode(b"\x00\xff").decode())

    assert contents(api, "events:1") == [{"json": [{"a": 1}, [2, 3], None]}]
    assert contents(api, "files:1") == [{"bytes": "AP8="}]
    assert done(api, "stream_info", channel="events:1")["length"] == 3


def test_the_kind_is_the_namespaces_or_fixed_when_it_is_opened(api: TestClient) -> None:
    assert refused(api, "stream_open", channel="answers:2", type="json")["message"].startswith("bad request: type:")
    assert done(api, "stream_open", channel="all:1", type="json")["type"] == "json"
    error = refused(api, "stream_open", channel="all:1", type="bytes")
    assert (error["code"], error["stream"]["reason"]) == (107, "other_kind")
    assert refused(api, "stream_append", channel="all:1", text="x")["stream"]["reason"] == "other_kind"


def test_producers_are_fenced(api: TestClient) -> None:
    producer = {"channel": "answers:3", "producer": "model"}
    assert done(api, "stream_open", **producer)["producer_epoch"] == 0
    first = {**producer, "producer_epoch": 0, "sequence": 0, "text": "a"}
    assert "repeated" not in done(api, "stream_append", **first)
    assert done(api, "stream_append", **first)["repeated"] is True
    gap = refused(api, "stream_append", **{**first, "sequence": 2})
    assert (gap["code"], gap["stream"]) == (107, {"reason": "gap", "expected": 1})
    assert "sequence: 1 is expected" in gap["message"]

    assert done(api, "stream_open", **producer)["producer_epoch"] == 1
    zombie = refused(api, "stream_append", **{**first, "sequence": 1})
    assert (zombie["code"], zombie["stream"]["reason"], zombie["stream"]["expected"]) == (103, "zombie", 1)
    done(api, "stream_append", **{**first, "producer_epoch": 1, "text": "b"})
    assert contents(api, "answers:3") == [{"text": "a"}, {"text": "b"}]


def test_beyond_its_bound_it_is_error_106_and_it_can_be_closed(api: TestClient) -> None:
    done(api, "stream_open", channel="answers:4")
    done(api, "stream_append", channel="answers:4", text="x" * 40)
    error = refused(api, "stream_append", channel="answers:4", text="y")
    assert (error["code"], error["stream"]["reason"]) == (106, "full")
    assert "stream_max_bytes" in error["message"]
    assert done(api, "stream_close", channel="answers:4")["status"] == "complete"


def test_cancelling_closes_it_and_the_next_append_learns_of_it(api: TestClient) -> None:
    done(api, "stream_open", channel="answers:5")
    assert done(api, "stream_cancel", channel="answers:5", reason="stop")["status"] == "cancelled"
    error = refused(api, "stream_append", channel="answers:5", text="x")
    assert error["stream"] == {"reason": "closed", "status": "cancelled", "detail": "stop"}
    assert done(api, "stream_info", channel="answers:5")["reason"] == "stop"


@pytest.mark.parametrize(
    ("method", "body", "code", "words"),
    [
        ("stream_open", {"channel": "plain:1"}, 108, "set stream in its namespace's options"),
        ("stream_append", {"channel": "answers:none", "text": "x"}, 108, "open it with stream_open"),
        ("stream_info", {"channel": "answers:none"}, 108, "open it with stream_open"),
        ("stream_close", {"channel": "answers:none"}, 108, "open it with stream_open"),
        ("stream_append", {"channel": "answers:6", "text": "x", "b64data": "eA=="}, 107, "b64data: give one of"),
        ("stream_append", {"channel": "files:6", "b64data": "?"}, 107, "b64data: it is no base64"),
        ("stream_append", {"channel": "events:6", "json": {"a": 1}}, 107, "json: it must be an array"),
        ("stream_close", {"channel": "answers:6", "status": "open"}, 107, "status: "),
        ("stream_open", {"channel": "answers:6", "ttl": -1}, 107, "ttl: "),
        ("stream_append", {"channel": "answers:6", "sequence": -1}, 107, "sequence: "),
        ("publish", {"channel": "answers:6", "data": {}}, 108, "use stream_append"),
        ("history_remove", {"channel": "answers:6"}, 108, "use stream_delete"),
    ],
)
def test_bad_input_is_an_error_that_names_the_field_and_the_remedy(
    api: TestClient, method: str, body: dict[str, Any], code: int, words: str
) -> None:
    error = refused(api, method, **body)
    assert error["code"] == code
    assert words in error["message"]


def test_a_broadcast_into_a_stream_is_refused_there_alone(api: TestClient) -> None:
    answers = done(api, "broadcast", channels=["plain:1", "answers:7"], data={})["responses"]
    assert answers[0] == {"result": {}}
    assert answers[1]["error"]["code"] == 108


def test_a_batch_writes_a_whole_stream(api: TestClient) -> None:
    channel = "answers:8"
    commands = [
        {"stream_open": {"channel": channel}},
        {"stream_append": {"channel": channel, "text": "a"}},
        {"stream_append": {"channel": channel, "text": "b"}},
        {"stream_close": {"channel": channel}},
        {"stream_info": {"channel": channel}},
    ]
    replies = api.post("/api/batch", json={"commands": commands}).json()["replies"]
    assert [next(iter(reply)) for reply in replies] == [next(iter(command)) for command in commands]
    assert replies[-1]["stream_info"]["status"] == "complete"
    assert contents(api, channel) == [{"text": "a"}, {"text": "b"}, {"text": ""}]


@pytest.mark.parametrize("parallel", [False, True])
def test_a_batch_of_appends_keeps_the_order_of_each_stream(api: TestClient, parallel: bool) -> None:
    channels = [f"answers:batch-{number}-{parallel}" for number in range(3)]
    for channel in channels:
        done(api, "stream_open", channel=channel)
    appends: list[dict[str, Any]] = [{"channel": channel, "text": text} for text in "abcd" for channel in channels]
    appends[6]["window"] = not parallel
    appends.append({"channel": "answers:nowhere", "text": "x"})
    commands = [{"stream_append": append} for append in appends]
    replies = api.post("/api/batch", json={"commands": commands, "parallel": parallel}).json()["replies"]
    assert [reply["stream_append"]["length"] for reply in replies[:-1]] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert replies[-1]["error"]["code"] == 108
    for channel in channels:
        assert contents(api, channel) == [{"text": text} for text in "abcd"]


def test_small_appends_of_a_producer_in_one_window_become_one_publication(api: TestClient) -> None:
    channel = "answers:9"
    done(api, "stream_open", channel=channel)
    append = {"channel": channel, "producer": "m", "window": True}
    commands = [{"stream_append": {**append, "sequence": n, "text": text}} for n, text in enumerate("abc")]
    replies = api.post("/api/batch", json={"commands": commands, "parallel": True}).json()["replies"]
    assert [reply["stream_append"]["length"] for reply in replies] == [3, 3, 3]
    assert contents(api, channel) == [{"text": "abc"}]


def test_open_streams_are_listed_until_they_are_closed(api: TestClient) -> None:
    done(api, "stream_open", channel="answers:10")
    listed = done(api, "stream_list", limit=1000)["streams"]
    assert {"channel": "answers:10", "type": "text", "status": "open", "length": 0, "size": 0} in listed
    done(api, "stream_close", channel="answers:10")
    assert "answers:10" not in {each["channel"] for each in done(api, "stream_list", limit=1000)["streams"]}


def test_waiting_for_the_end_returns_when_it_comes_and_after_its_time_without_one(api: TestClient) -> None:
    done(api, "stream_open", channel="answers:11")
    assert done(api, "stream_info", channel="answers:11", wait=0.05)["status"] == "open"
    commands = [
        {"stream_info": {"channel": "answers:11", "wait": 30}},
        {"stream_cancel": {"channel": "answers:11"}},
    ]
    replies = api.post("/api/batch", json={"commands": commands, "parallel": True}).json()["replies"]
    assert replies[0]["stream_info"]["status"] == "cancelled"
