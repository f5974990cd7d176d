"""The server API in one process: who may use it, how invalid input is answered, and that data passes as it came."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from centrifuge import fossil
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.main import build_application, create_app
from starling.settings import Settings, load_settings
from starling.web.api_batch_models import BatchBody
from starling.web.api_docs import GROUPS
from starling.web.api_examples import EXAMPLES
from starling.web.api_methods import ApiMethods
from starling.web.api_models import BATCH_COMMANDS, CaptureBody
from starling.web.api_publishing import BROADCAST_CHANNELS, IDEMPOTENCY_KEY_LENGTH
from tests.support.engines import memory_engine

ADDRESS = "192.0.2.7"
SECRET = "a test's own secret, longer than thirty-two bytes"
KEYS = ("the first key of a test", "the second key of a test")
CHANNELS = """
default: {allow_subscribe_for_client: true}
namespaces:
  kept: {history_size: 10, history_ttl: 60s}
  bytes: {history_size: 10, history_ttl: 60s, publication_data_format: binary}
  shown: {presence: true}
  digits: {channel_regex: "^[0-9]+$"}
  patched:
    history_size: 10
    history_ttl: 60s
    allow_subscribe_for_client: true
    allow_subscribe_for_anonymous: true
    allowed_delta_types: [fossil]
"""


@pytest.fixture
def channels_file(tmp_path: Path) -> Path:
    path = tmp_path / "channels.yaml"
    path.write_text(CHANNELS)
    return path


def api_settings(channels_file: Path, **environment: str) -> Settings:
    variables = {"TOKEN_HMAC_SECRET": SECRET, "CHANNELS_FILE": str(channels_file), "LOG_LEVEL": "error", **environment}
    return load_settings({f"STARLING_{name}": value for name, value in variables.items()})


def client_with(channels_file: Path, address: str = ADDRESS, **environment: str) -> TestClient:
    settings = api_settings(channels_file, **environment)
    return TestClient(create_app(settings, CollectorRegistry()), client=(address, 50000))


@pytest.fixture
def api(channels_file: Path) -> Iterator[TestClient]:
    """The API of a running node on memory, opened with a key."""
    with client_with(channels_file, API_KEYS=",".join(KEYS), API_DOCS="true") as client:
        client.headers["X-API-Key"] = KEYS[0]
        yield client


def call(api: TestClient, method: str, body: Any) -> Any:
    answer = api.post(f"/api/{method}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def error(api: TestClient, method: str, body: Any) -> tuple[int, str]:
    reported = call(api, method, body)["error"]
    return reported["code"], reported["message"]


# --- who may use it ---


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": ""}, {"X-API-Key": "another key altogether"}, {"X-API-Key": KEYS[0][:-1]}]
)
def test_without_a_valid_key_it_is_401(channels_file: Path, headers: dict[str, str]) -> None:
    with client_with(channels_file, API_KEYS=",".join(KEYS)) as client:
        answer = client.post("/api/info", json={}, headers=headers)

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == 101
    assert answer.headers["www-authenticate"] == "apikey"


@pytest.mark.parametrize("key", KEYS)
def test_each_of_several_keys_opens_it(channels_file: Path, key: str) -> None:
    with client_with(channels_file, API_KEYS=",".join(KEYS)) as client:
        assert client.post("/api/info", json={}, headers={"X-API-Key": key}).status_code == 200
        assert client.post("/api/info", json={}, headers={"Authorization": f"apikey {key}"}).status_code == 200


@pytest.mark.parametrize("given", [*KEYS, "wrong", ""])
def test_every_key_is_compared_in_constant_time_whichever_fits(
    channels_file: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("starling.web.api_guard.hmac.compare_digest", compare)
    with client_with(channels_file, API_KEYS=",".join(KEYS)) as client:
        client.post("/api/info", json={}, headers={"X-API-Key": given})

    assert compared == [(given.encode(), key.encode()) for key in KEYS]


def test_without_any_key_nobody_gets_in_and_the_answer_says_how_to_set_one(channels_file: Path) -> None:
    with client_with(channels_file) as client:
        for key in ("", "dev", "undefined"):
            answer = client.post("/api/info", json={}, headers={"X-API-Key": key})

            assert answer.status_code == 401
            assert "STARLING_API_KEYS" in answer.json()["error"]["message"]


def test_the_developers_key_opens_it_in_developer_mode_only(channels_file: Path) -> None:
    with client_with(channels_file, DEV="true") as developer:
        assert developer.post("/api/info", json={}, headers={"X-API-Key": "dev"}).status_code == 200
    with client_with(channels_file, API_KEYS=",".join(KEYS)) as production:
        assert production.post("/api/info", json={}, headers={"X-API-Key": "dev"}).status_code == 401


@pytest.mark.parametrize(
    ("address", "status"),
    [("10.1.2.3", 200), ("192.0.2.7", 200), ("192.0.2.8", 403), ("::ffff:10.1.2.3", 200), ("2001:db8::1", 403)],
)
def test_only_allowed_networks_get_in(channels_file: Path, address: str, status: int) -> None:
    networks = "10.0.0.0/8,192.0.2.7"
    with client_with(channels_file, address, API_KEYS=KEYS[0], API_ALLOWED_NETWORKS=networks) as client:
        assert client.post("/api/info", json={}, headers={"X-API-Key": KEYS[0]}).status_code == status


@pytest.mark.parametrize(
    ("address", "header", "status"),
    [("10.1.2.3", "10.7.7.7", 200), ("10.1.2.3", "", 403), ("10.9.9.9", "", 200), ("127.0.0.1", "", 200)],
)
def test_a_trusted_proxy_that_names_no_client_is_no_allowed_address(
    channels_file: Path, address: str, header: str, status: int
) -> None:
    rules = {"API_ALLOWED_NETWORKS": "10.0.0.0/8,127.0.0.0/8", "TRUSTED_PROXIES": "10.1.0.0/16,127.0.0.1"}
    with client_with(channels_file, address, API_KEYS=KEYS[0], **rules) as client:
        headers = {"X-API-Key": KEYS[0]} | ({"X-Forwarded-For": header} if header else {})
        assert client.post("/api/info", json={}, headers=headers).status_code == status


def test_an_address_outside_learns_nothing_about_keys(channels_file: Path) -> None:
    with client_with(channels_file, API_KEYS=KEYS[0], API_ALLOWED_NETWORKS="10.0.0.0/8") as client:
        answers = [client.post("/api/info", json={}, headers={"X-API-Key": key}) for key in (KEYS[0], "wrong")]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert answers[0].content == answers[1].content


# --- requests that are none ---


def test_an_unknown_method_is_404_and_the_answer_names_those_that_are(api: TestClient) -> None:
    answer = api.post("/api/pubilsh", json={})

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == 104
    assert "publish" in answer.json()["error"]["message"]
    assert api.post("/api/", json={}).status_code == 404


def test_only_post_is_taken(api: TestClient) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = api.request(method, "/api/info")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_body_over_the_limit_is_413_and_names_the_setting(channels_file: Path) -> None:
    with client_with(channels_file, API_KEYS=KEYS[0], API_MAX_BODY_BYTES="2000") as client:
        client.headers["X-API-Key"] = KEYS[0]
        fits = json.dumps({"channel": "a", "data": "x" * 1900}).encode()
        large = json.dumps({"channel": "a", "data": "x" * 2000}).encode()

        def in_parts() -> Iterator[bytes]:
            yield large[:1500]
            yield large[1500:]

        assert client.post("/api/publish", content=fits).json() == {"result": {}}
        for content in (large, in_parts()):
            answer = client.post("/api/publish", content=content)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == 106
            assert "STARLING_API_MAX_BODY_BYTES" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "body", "named"),
    [
        ("publish", {}, "channel: it is missing"),
        ("publish", {"channel": "a"}, "data: it is missing"),
        ("publish", {"channel": 7, "data": 1}, "channel: expected str, got int"),
        ("publish", {"channel": "", "data": 1}, "channel: expected str of length >= 1"),
        ("publish", {"channel": "x" * 256, "data": 1}, "channel: too long"),
        ("publish", {"channel": "a{b", "data": 1}, "channel: "),
        ("publish", {"channel": "digits:x", "data": 1}, "channel_regex"),
        ("publish", {"channel": "a", "b64data": "!"}, "b64data: it is no base64"),
        ("publish", {"channel": "a", "data": 1, "tags": {"a": 1}}, "tags[...]: expected str, got int"),
        (
            "publish",
            {"channel": "a", "data": 1, "idempotency_key": "x" * (IDEMPOTENCY_KEY_LENGTH + 1)},
            "idempotency_key: expected str of length <= 255",
        ),
        ("broadcast", {"channels": [], "data": 1}, "channels: expected array of length >= 1"),
        ("broadcast", {"channels": ["a"] * (BROADCAST_CHANNELS + 1), "data": 1}, "channels: expected array of length"),
        ("broadcast", {"channels": "a", "data": 1}, "channels: expected array, got str"),
        ("subscribe", {"channel": "a"}, "user: it is missing"),
        ("subscribe", {"user": "", "channel": "a"}, "user: name a user"),
        ("subscribe", {"user": "u", "channel": "a", "override": {"presence": "yes"}}, "override.presence: expected"),
        ("unsubscribe", {"user": "u"}, "channel: it is missing"),
        ("unsubscribe", {"user": "u", "channel": "a", "code": 1999}, "code: expected int >= 2000"),
        ("unsubscribe", {"user": "u", "channel": "a", "code": 3000}, "code: expected int <= 2999"),
        ("unsubscribe", {"user": "u", "channel": "a", "reason": "x" * 256}, "reason: expected str of length <= 255"),
        ("disconnect", {}, "user: it is missing"),
        ("disconnect", {"user": ""}, "user: name a user"),
        ("disconnect", {"user": "u", "disconnect": {"code": 1000}}, "disconnect.code: expected int >= 3000"),
        (
            "disconnect",
            {"user": "u", "disconnect": {"code": 4000, "reason": "ö" * 80}},
            "disconnect: disconnect reason",
        ),
        ("refresh", {"user": "u", "expire_at": "soon"}, "expire_at: expected"),
        ("presence", {}, "channel: it is missing"),
        ("presence_stats", {}, "channel: it is missing"),
        ("history", {"channel": "kept:a", "since": 7}, "since: expected"),
        ("history", {"channel": "kept:a", "limit": 2**40}, "limit: expected int <="),
        ("history_remove", {}, "channel: it is missing"),
        ("channels", {"pattern": 7}, "pattern: expected str, got int"),
        ("channels", {"limit": -1}, "limit: expected int >= 0"),
        ("channels", {"limit": 10_001}, "limit: expected int <= 10000"),
        ("channels", {"cursor": 7}, "cursor: expected str, got int"),
        ("publish", {"channel": "patched:a", "data": 1, "delta": "fossil"}, "delta: expected bool, got str"),
        ("revoke_token", {}, "uid: it is missing"),
        ("revoke_token", {"uid": "t", "expire_at": 1}, "expire_at: it is past"),
        ("subscribe", {"user": "u", "channel": "a", "expire_at": 1}, "expire_at: it is past"),
        ("revoke_session", {"session": ""}, "session: expected str of length >= 1"),
        ("invalidate_user_tokens", {"user": ""}, "user: expected str of length >= 1"),
        ("batch", {}, "commands: it is missing"),
        ("batch", {"commands": [{}] * (BATCH_COMMANDS + 1)}, "commands: expected array of length <= 1000"),
    ],
)
def test_bad_input_is_107_and_names_the_field(api: TestClient, method: str, body: Any, named: str) -> None:
    code, message = error(api, method, body)

    assert code == 107
    assert named in message


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"publish": {}}, "publish.channel: it is missing"),
        ({"publish": {"channel": 1}}, "publish.channel: expected str"),
        ({"nonsense": {}}, "exactly one method"),
        ({}, "exactly one method"),
        (7, "expected object"),
        (None, "expected object"),
        ({"info": {}, "top": {}}, "exactly one method"),
    ],
)
@pytest.mark.parametrize("parallel", [False, True])
def test_a_bad_command_of_a_batch_fails_alone(api: TestClient, bad: Any, named: str, parallel: bool) -> None:
    commands = [{"publish": {"channel": "news", "data": 1}}, bad, {"info": {}}]
    first, second, third = call(api, "batch", {"commands": commands, "parallel": parallel})["replies"]
    assert first == {"publish": {}}
    assert second["error"]["code"] == 107
    assert named in second["error"]["message"]
    assert third["info"]["nodes"]


def test_commands_that_name_their_method_are_answered_line_by_line(api: TestClient) -> None:
    lines = [
        {"method": "publish", "params": {"channel": "kept:a", "data": {"n": 1}}},
        {"id": 7, "method": "history", "params": {"channel": "kept:a", "limit": 1}},
        {"id": 8, "method": "nonsense", "params": {}},
        {"method": "publish", "params": {"channel": 5}},
        {"method": "info", "params": None},
        {"method": "info"},
        {"params": {}},
    ]
    body = "\n".join([*map(json.dumps, lines), "no json", ""])

    answer = api.post("/api", content=body, headers={"Content-Type": "application/json"}, follow_redirects=False)

    assert answer.status_code == 200
    replies = [json.loads(line) for line in answer.text.split("\n")]
    assert replies[0]["result"]["offset"] == 1
    assert replies[1]["result"]["publications"][0]["data"] == {"n": 1}
    assert [reply.get("id") for reply in replies] == [None, 7, 8, None, None, None, None, None]
    assert [reply.get("error", {}).get("code") for reply in replies] == [None, None, 104, 107, None, None, 107, 107]
    assert "publish" in replies[2]["error"]["message"], "the methods are named"
    assert replies[4]["result"]["nodes"]


def test_the_envelope_is_guarded_as_every_method_is(api: TestClient) -> None:
    line = {"method": "info", "params": {}}
    assert api.post("/api", json=line, headers={"X-API-Key": "another"}).status_code == 401
    assert api.get("/api").status_code == 405
    assert api.post("/api/(envelope)", json=line).status_code == 404
    for body in (b"", b"\n\n", b'{"method":"info"}\n' * (BATCH_COMMANDS + 1)):
        assert api.post("/api", content=body).json()["error"]["code"] == 107


@pytest.mark.parametrize(
    ("method", "body", "same"),
    [
        (
            "publish",
            {"channel": "kept:a", "data": 1, "skip_history": None, "tags": None, "b64data": None, "version": None},
            {"channel": "kept:a", "data": 1},
        ),
        (
            "broadcast",
            {"channels": ["kept:a"], "data": 1, "idempotency_key": None},
            {"channels": ["kept:a"], "data": 1},
        ),
        ("disconnect", {"user": "a", "client": None, "whitelist": None, "disconnect": None}, {"user": "a"}),
        ("disconnect", {"user": "a", "disconnect": {"code": None, "reason": None}}, {"user": "a"}),
        (
            "subscribe",
            {"user": "a", "channel": "b", "info": None, "data": None, "override": {"presence": None}},
            {"user": "a", "channel": "b"},
        ),
        ("channels", {"pattern": None}, {}),
        ("history", {"channel": "kept:b", "limit": None, "since": None, "reverse": None}, {"channel": "kept:b"}),
        ("batch", {"commands": [{"channels": {"pattern": None}, "info": None}]}, {"commands": [{"channels": {}}]}),
    ],
)
def test_null_is_a_field_that_is_not_set(api: TestClient, method: str, body: Any, same: Any) -> None:
    answer, expected = call(api, method, body), call(api, method, same)
    for reported in (answer, expected):
        result = reported.get("result", {})
        result.pop("offset", None)
        for response in result.get("responses", ()):
            response["result"].pop("offset")
    assert answer == expected
    assert "error" not in answer


def test_null_for_a_field_that_is_needed_is_one_that_is_missing(api: TestClient) -> None:
    assert error(api, "publish", {"channel": None, "data": 1}) == (107, "bad request: channel: it is missing")


def test_null_is_a_value_of_the_users_own_data(api: TestClient) -> None:
    call(api, "publish", {"channel": "kept:a", "data": None, "tags": None})
    (publication,) = call(api, "history", {"channel": "kept:a", "limit": 1})["result"]["publications"]
    assert publication == {"data": None, "offset": 1, "time": publication["time"]}


@pytest.mark.parametrize("method", ["publish", "broadcast"])
def test_an_outdated_version_is_dropped(api: TestClient, method: str) -> None:
    for version, epoch in ((2, "e"), (1, "e"), (2, "e"), (3, "e"), (1, "f")):
        body = {"data": [version, epoch], "version": version, "version_epoch": epoch}
        call(api, method, body | ({"channel": "kept:a"} if method == "publish" else {"channels": ["kept:a"]}))
    kept = call(api, "history", {"channel": "kept:a", "limit": -1})["result"]["publications"]
    assert [publication["data"] for publication in kept] == [[2, "e"], [3, "e"], [1, "f"]]


def test_history_in_reverse_reads_what_precedes_a_position(api: TestClient) -> None:
    for number in range(3):
        call(api, "publish", {"channel": "kept:a", "data": number})

    def offsets(since: int) -> list[int]:
        body = {"channel": "kept:a", "limit": -1, "reverse": True, "since": {"offset": since}}
        return [publication["offset"] for publication in call(api, "history", body)["result"]["publications"]]

    assert (offsets(1), offsets(3), offsets(4), offsets(5), offsets(10**6)) == ([], [2, 1], [3, 2, 1], [], [])
    body = {"channel": "kept:a", "limit": 1, "reverse": True, "since": {"offset": 0}}
    assert error(api, "history", body)[0] == 107


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"", "channel: it is missing"),
        (b"{", "no JSON"),
        (b"[]", "expected object, got array"),
        (b"null", "expected object"),
        (b'{"channel":"a","data":1}x', "no JSON"),
        (b'{"channel":"a","data":{"x":}}', "no JSON"),
        (b'{"channel":"a","data":"\xff"}', "not UTF-8"),
        (b'{"channel":"a","data":' + b"[" * 300 + b"]" * 300 + b"}", "nested"),
        (b"\x00\x01", "no JSON"),
    ],
)
def test_a_body_that_is_no_good_json_is_107(api: TestClient, content: bytes, reported: str) -> None:
    answer = api.post("/api/publish", content=content)

    assert answer.status_code == 200
    assert answer.json()["error"]["code"] == 107
    assert reported in answer.json()["error"]["message"]


PUBLISH = '{"channel":"kept:a","data":1'


@pytest.mark.parametrize(
    ("method", "body", "named"),
    [
        ("publish", '{"channel":"kept:a","channel":"kept:b","data":1}', "channel: it is given twice"),
        ("publish", '{"channel":"kept:a","data":1,"data":2}', "data: it is given twice"),
        ("publish", '{"channel":"kept:a","data":{"a":[1]},"data":{"a":[1]}}', "data: it is given twice"),
        ("publish", '{"data":{"channel":"x"}, "channel" : "kept:a" , "channel" : "kept:a"}', "channel: it is given"),
        ("publish", '{"channel":"kept:a","\\u0063hannel":"kept:b","data":1}', "channel: it is given twice"),
        ("publish", PUBLISH + ',"tags":{"a":"1","a":"2"}}', "tags.a: it is given twice"),
        ("publish", PUBLISH + ',"unknown":1,"unknown":2}', "unknown: it is given twice"),
        ("broadcast", '{"channels":["kept:a"],"channels":["kept:b"],"data":1}', "channels: it is given twice"),
        ("history", '{"channel":"kept:a","since":{"offset":1,"offset":2,"epoch":"e"}}', "since.offset: it is given"),
        ("disconnect", '{"user":"a","user":"b"}', "user: it is given twice"),
        ("batch", '{"commands":[{"info":{}}],"commands":[{"info":{}}]}', "commands: it is given twice"),
        (
            "publish",
            PUBLISH + ',"skip_histroy":true}',
            "skip_histroy: not a member of this request: did you mean skip_history?",
        ),
        ("subscribe", '{"user":"a","channel":"kept:a","overide":{}}', "did you mean override?"),
        (
            "subscribe",
            '{"user":"a","channel":"kept:a","override":{"presense":{"value":true}}}',
            "override.presense: not a member of this request: did you mean presence?",
        ),
        ("disconnect", '{"user":"a","disconnect":{"cod":3001}}', "disconnect.cod: not a member"),
        (
            "publish",
            PUBLISH + ',"tags\\ud800":{},"\\u0061":1}',
            "tags\\ud800: not a member of this request: did you mean tags?",
        ),
        (
            "subscribe",
            '{"user":"a","channel":"kept:a","\\udfff":1,"\\udfff":2,"\\u0061":1}',
            "\\udfff: it is given twice",
        ),
        (
            "batch",
            '{"commands":[{"info":{}}],"parallel\\ud800":1,"\\u0061":1}',
            "parallel\\ud800: not a member of this request: did you mean parallel?",
        ),
    ],
)
def test_a_member_that_is_given_twice_or_misspelled_is_named(
    api: TestClient, method: str, body: str, named: str
) -> None:
    answer = api.post(f"/api/{method}", content=body).json()
    assert answer["error"]["code"] == 107
    assert named in answer["error"]["message"]


def test_of_several_commands_only_the_one_with_such_a_member_fails(api: TestClient) -> None:
    twice, right = '{"channel":"kept:a","channel":"kept:b","data":1}', '{"channel":"kept:a","data":{"channel":"x"}}'
    batch = f'{{"commands":[{{"publish":{twice}}},{{"publish":{right}}}]}}'
    refused, done = api.post("/api/batch", content=batch).json()["replies"]
    assert "publish.channel: it is given twice" in refused["error"]["message"]
    assert done["publish"]["offset"] == 1

    lines = "\n".join(f'{{"method":"publish","params":{params}}}' for params in (twice, right))
    first, second = (json.loads(line) for line in api.post("/api", content=lines).text.splitlines())
    assert "channel: it is given twice" in first["error"]["message"]
    assert second["result"]["offset"] == 2


@pytest.mark.parametrize(
    "body",
    [
        PUBLISH + ',"of_a_newer_version":1}',
        PUBLISH + ',"channels":["kept:b"],"user":"u","commands":[]}',
        PUBLISH + ',"tags":{"channel":"x","data":"y"}}',
        '{"channel":"kept:a","data":{"channel":1,"channel":2,"data":[{"data":1},{"data":2}]}}',
        '{"channel":"kept:a","data":"\\"channel\\":"}',
        '{"channel":"kept:a","idempotency_key":"\\u00e9","data":"\\u00e9"}',
    ],
)
def test_members_of_other_versions_are_ignored_and_payloads_are_the_callers_own(api: TestClient, body: str) -> None:
    assert api.post("/api/publish", content=body).json()["result"]["offset"] == 1


# --- publishing ---


def test_without_history_a_publish_has_no_position(api: TestClient) -> None:
    assert call(api, "publish", {"channel": "news", "data": {}}) == {"result": {}}


@pytest.mark.parametrize(
    "data",
    [
        b'{"n": 12345678901234567890123, "f": 1.10, "e": 1E+2}',
        b'{"twice": 1, "twice": 2}',
        b"null",
        b'"\\u00e9 \xc3\xa9"',
        b"[1,\n 2,\r\n\t3]",
        b"false",
        b'""',
    ],
)
def test_data_passes_as_it_came(api: TestClient, data: bytes) -> None:
    published = api.post("/api/publish", content=b'{"channel":"kept:a","data":' + data + b"}")
    assert published.json()["result"]["offset"] == 1

    history = api.post("/api/history", json={"channel": "kept:a", "limit": 1}).content

    assert b'"data":' + data + b"," in history


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "evil.example", 200),
        ("http://localhost:3000", "localhost:8000", 200),
        ("https://evil.example", "localhost:8000", 403),
        ("http://evil.example:8000", "evil.example:8000", 403),
        ("null", "localhost:8000", 403),
    ],
)
def test_foreign_pages_cannot_use_the_key_that_everybody_knows(
    channels_file: Path, origin: str | None, host: str, status: int
) -> None:
    keys = {"API_KEYS": "a-key-that-no-page-can-guess"}
    with client_with(channels_file, DEV="true", **keys) as client:
        headers = {"Host": host} | ({"Origin": origin} if origin else {})
        own = client.post("/api/info", headers={**headers, "X-API-Key": keys["API_KEYS"]}, json={})
        assert own.status_code == 200
        known = client.post("/api/info", headers={**headers, "X-API-Key": "dev"}, json={})
        assert known.status_code == status


def test_half_a_surrogate_pair_is_fixed(api: TestClient) -> None:
    api.post("/api/publish", content=rb'{"channel":"kept:a","data":"cut \ud83d"}')

    assert (
        api.post("/api/history", json={"channel": "kept:a", "limit": 1}).json()["result"]["publications"][0]["data"]
        == "cut �"
    )


def test_binary_data_returns_as_base64(api: TestClient) -> None:
    call(api, "publish", {"channel": "bytes:a", "b64data": base64.b64encode(b"\x00\xff").decode()})

    (publication,) = call(api, "history", {"channel": "bytes:a", "limit": 1})["result"]["publications"]

    assert publication["data"] is None
    assert base64.b64decode(publication["b64data"]) == b"\x00\xff"


def test_tags_travel_with_the_publication(api: TestClient) -> None:
    call(api, "publish", {"channel": "kept:a", "data": 1, "tags": {"topic": "sport"}})

    (publication,) = call(api, "history", {"channel": "kept:a", "limit": 1})["result"]["publications"]

    assert publication["tags"] == {"topic": "sport"}


def test_skip_history_leaves_nothing(api: TestClient) -> None:
    assert call(api, "publish", {"channel": "kept:a", "data": 1, "skip_history": True}) == {"result": {}}

    assert call(api, "history", {"channel": "kept:a", "limit": -1})["result"]["publications"] == []


def test_an_unknown_namespace_is_102(api: TestClient) -> None:
    for method in ("publish", "history", "presence", "presence_stats", "history_remove"):
        code, message = error(api, method, {"channel": "nowhere:a", "data": 1})
        assert code == 102
        assert "nowhere:a" in message


def test_the_same_key_publishes_once(api: TestClient) -> None:
    first = call(api, "publish", {"channel": "kept:a", "data": 1, "idempotency_key": "k"})
    again = call(api, "publish", {"channel": "kept:a", "data": 2, "idempotency_key": "k"})
    other = call(api, "publish", {"channel": "kept:a", "data": 3, "idempotency_key": "l"})
    elsewhere = call(api, "publish", {"channel": "kept:b", "data": 4, "idempotency_key": "k"})

    assert again == first
    assert (other["result"]["offset"], elsewhere["result"]["offset"]) == (2, 1)
    publications = call(api, "history", {"channel": "kept:a", "limit": -1})["result"]["publications"]
    assert [publication["data"] for publication in publications] == [1, 3]


def test_a_broadcast_reports_what_became_of_each_channel(api: TestClient) -> None:
    responses = call(api, "broadcast", {"channels": ["kept:a", "nowhere:b", "news", "kept:a"], "data": 1})["result"][
        "responses"
    ]

    assert responses[0]["result"]["offset"] == 1
    assert responses[1]["error"]["code"] == 102
    assert responses[2] == {"result": {}}
    assert responses[3]["result"]["offset"] == 2


@pytest.mark.parametrize("channel", ["kept:a", "news"])
def test_patches_where_the_options_allow_none_are_108_and_the_option_is_named(api: TestClient, channel: str) -> None:
    code, message = error(api, "publish", {"channel": channel, "data": 1, "delta": True})
    assert code == 108
    assert "allowed_delta_types" in message

    (refused, published) = call(api, "broadcast", {"channels": [channel, "patched:a"], "data": 1, "delta": True})[
        "result"
    ]["responses"]
    assert refused["error"]["code"] == 108
    assert published["result"]["offset"] == 1


@pytest.mark.parametrize("method", ["publish", "broadcast"])
@pytest.mark.parametrize("skip_history", [False, True])
def test_a_publication_goes_as_a_patch_where_the_request_says_so(
    channels_file: Path, method: str, skip_history: bool
) -> None:
    target = {"channel": "patched:a"} if method == "publish" else {"channels": ["patched:a"]}
    document = {"text": "a document that is long enough to be worth a patch " * 5}
    with (
        client_with(channels_file, API_KEYS=KEYS[0], ALLOW_ANONYMOUS="true") as client,
        client.websocket_connect("/connection/websocket") as session,
    ):
        session.send_text('{"id":1,"connect":{}}')
        session.receive_text()
        session.send_text('{"id":2,"subscribe":{"channel":"patched:a","delta":"fossil","positioned":true}}')
        assert json.loads(session.receive_text())["subscribe"]["delta"] is True
        pushes = []
        for number, delta in enumerate((False, True, False)):
            body = {**target, "data": {**document, "n": number}, "delta": delta, "skip_history": skip_history}
            client.post(f"/api/{method}", json=body, headers={"X-API-Key": KEYS[0]})
            pushes.append(json.loads(session.receive_text())["push"]["pub"])
    assert [push.get("delta", False) for push in pushes] == [False, True, False]
    assert (
        fossil.apply_delta(pushes[0]["data"].encode(), pushes[1]["data"].encode())
        == json.dumps({**document, "n": 1}, separators=(",", ":")).encode()
    )


# --- reading ---


def test_history_is_read_in_pages(api: TestClient) -> None:
    for number in range(5):
        call(api, "publish", {"channel": "kept:a", "data": number})
    position = call(api, "history", {"channel": "kept:a"})["result"]
    assert (position["publications"], position["offset"]) == ([], 5)

    def page(**wanted: Any) -> list[int]:
        found = call(api, "history", {"channel": "kept:a", **wanted})["result"]["publications"]
        return [publication["data"] for publication in found]

    since = {"offset": 2, "epoch": position["epoch"]}
    assert page(limit=-1) == [0, 1, 2, 3, 4]
    assert page(limit=2) == [0, 1]
    assert page(limit=2, since=since) == [2, 3]
    assert page(limit=2, reverse=True) == [4, 3]
    assert page(limit=-1, since=since, reverse=True) == [0]


def test_history_from_a_lost_position_is_112(api: TestClient) -> None:
    call(api, "publish", {"channel": "kept:a", "data": 1})

    assert error(api, "history", {"channel": "kept:a", "limit": 1, "since": {"offset": 1, "epoch": "gone"}})[0] == 112


def test_removed_history_is_gone_and_the_position_stays(api: TestClient) -> None:
    call(api, "publish", {"channel": "kept:a", "data": 1})
    assert call(api, "history_remove", {"channel": "kept:a"}) == {"result": {}}

    found = call(api, "history", {"channel": "kept:a", "limit": -1})["result"]

    assert (found["publications"], found["offset"]) == ([], 1)


@pytest.mark.parametrize("method", ["history", "history_remove", "presence", "presence_stats"])
def test_what_a_channel_does_not_keep_is_108(api: TestClient, method: str) -> None:
    assert error(api, method, {"channel": "news"})[0] == 108


def test_nobody_is_present_in_an_empty_channel(api: TestClient) -> None:
    assert call(api, "presence", {"channel": "shown:a"}) == {"result": {"presence": {}}}
    assert call(api, "presence_stats", {"channel": "shown:a"}) == {"result": {"num_clients": 0, "num_users": 0}}


# --- batch ---


@pytest.mark.parametrize("parallel", [False, True])
def test_each_command_of_a_batch_has_its_own_reply(api: TestClient, parallel: bool) -> None:
    commands = [
        {"publish": {"channel": "kept:a", "data": 1}},
        {"publish": {"channel": "nowhere:a", "data": 1}},
        {"broadcast": {"channels": ["kept:b"], "data": 2}},
        {"presence": {"channel": "shown:a"}},
        {},
        {"info": {}, "channels": {}},
    ]

    replies = call(api, "batch", {"commands": commands, "parallel": parallel})["replies"]

    assert replies[0]["publish"]["offset"] == 1
    assert replies[1]["error"]["code"] == 102
    assert replies[2]["broadcast"]["responses"][0]["result"]["offset"] == 1
    assert replies[3] == {"presence": {"presence": {}}}
    assert [reply["error"]["code"] for reply in replies[4:]] == [107, 107]


def test_one_after_the_other_a_later_command_sees_what_an_earlier_one_did(api: TestClient) -> None:
    publishes = [{"publish": {"channel": "kept:a", "data": number}} for number in range(5)]
    look = {"history": {"channel": "kept:a", "limit": -1}}

    replies = call(api, "batch", {"commands": [*publishes, look, {"history_remove": {"channel": "kept:a"}}, look]})[
        "replies"
    ]

    assert [publication["data"] for publication in replies[5]["history"]["publications"]] == [0, 1, 2, 3, 4]
    assert replies[7]["history"]["publications"] == []


# --- what is reported of it ---


def test_openapi_reports_every_method_and_its_examples_are_true(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    methods = ApiMethods(memory_engine(), None, None, None, None, revocation_seconds=1)  # type: ignore[arg-type]

    reported = {path.removeprefix("/api/") for path in document["paths"] if path.startswith("/api/")}
    assert reported == {*methods.by_name, "batch", "capture"}
    assert [path for path in document["paths"] if path.startswith("/api/")] == [*document["paths"]][: len(reported)]
    assert sorted(name for _, names in GROUPS.values() for name in names) == sorted(reported)
    assert [*document["paths"]][:5] == [
        f"/api/{name}" for name in ["publish", "broadcast", "batch", "history", "history_remove"]
    ]
    assert document["paths"]["/api/publish"]["post"]["tags"] == ["publish"]
    for name, (request, result) in EXAMPLES.items():
        method = methods.by_name[name]
        msgspec.json.decode(json.dumps(request), type=method.request)
        msgspec.json.decode(json.dumps(result), type=method.result)
    for name in reported:
        content = document["paths"][f"/api/{name}"]["post"]["requestBody"]["content"]["application/json"]
        apart = {"batch": BatchBody, "capture": CaptureBody}
        model = apart[name] if name in apart else methods.by_name[name].request
        msgspec.json.decode(json.dumps(content["example"]), type=model)
        assert content["schema"]["$ref"].rpartition("/")[2] in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("environment", "reported"),
    [({"DEV": "true"}, "the key is `dev`"), ({}, "No key is set"), ({"API_KEYS": KEYS[0]}, "X-API-Key")],
)
def test_the_documentation_says_how_to_get_in(channels_file: Path, environment: dict[str, str], reported: str) -> None:
    with client_with(channels_file, API_DOCS="true", **environment) as client:
        assert reported in client.get("/openapi.json").json()["info"]["description"]


def test_the_documentation_takes_nothing_from_elsewhere(api: TestClient) -> None:
    page = api.get("/docs")

    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "://" not in page.text
    for asset in ("swagger-ui/swagger-ui-bundle.js", "swagger-ui/swagger-ui.css", "docs.js"):
        assert f"static/{asset}" in page.text
        assert api.get(f"/static/{asset}").status_code == 200


def test_requests_are_counted_by_method_and_outcome(channels_file: Path) -> None:
    built = build_application(api_settings(channels_file, API_KEYS=",".join(KEYS)), CollectorRegistry())
    with TestClient(built.asgi, headers={"X-API-Key": KEYS[0]}, client=(ADDRESS, 50000)) as api:
        _make_requests(api)
    metrics = built.engine.metrics
    metrics.flush()

    def count(method: str, code: str) -> float | None:
        return metrics.registry.get_sample_value("starling_api_requests_total", {"method": method, "code": code})

    assert count("publish", "0") == 2
    assert count("publish", "102") == 1
    assert count("publish", "401") == 1
    assert count("batch", "0") == 1
    assert count("unknown", "404") == 1
    observed = metrics.registry.get_sample_value("starling_api_request_seconds_count", {"method": "publish"})
    assert observed == 4


def _make_requests(api: TestClient) -> None:
    call(api, "publish", {"channel": "a", "data": 1})
    call(api, "publish", {"channel": "nowhere:a", "data": 1})
    call(api, "batch", {"commands": [{"publish": {"channel": "a", "data": 1}}]})
    api.post("/api/nothing", json={})
    api.post("/api/publish", json={}, headers={"X-API-Key": "wrong"})
