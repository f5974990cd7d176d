"""`/sse` over both ways to it: our own server's direct call, and the route of an ordinary ASGI server."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from starling.auth.issue import issue_connection_token
from tests.support.in_process import InProcessStarling
from tests.support.plain_uvicorn import under_uvicorn
from tests.support.running import SECRET
from tests.support.streams import EventStream, Stream, get

KEY = "a key of the test's own"
PAGE = "https://app.example.com"
RECOVERY_LIMIT = 5
CHANNELS = """
default: {allow_subscribe_for_client: true}
namespaces:
  kept: {history_size: 100, history_ttl: 10m, force_recovery: true, allow_subscribe_for_client: true}
  mine: {history_size: 100, history_ttl: 10m, allow_subscribe_for_client: true}
  patched:
    history_size: 100
    history_ttl: 10m
    force_recovery: true
    allow_subscribe_for_client: true
    allow_tags_filter: true
    allowed_delta_types: [fossil]
    delta_publish: true
  closed: {}
  bytes: {allow_subscribe_for_client: true, publication_data_format: binary}
"""


def settings(directory: Path) -> dict[str, str]:
    (directory / "channels.yaml").write_text(CHANNELS)
    return {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_API_KEYS": KEY,
        "STARLING_ALLOWED_ORIGINS": PAGE,
        "STARLING_CHANNELS_FILE": str(directory / "channels.yaml"),
        "STARLING_RECOVERY_LIMIT": str(RECOVERY_LIMIT),
        "STARLING_PING_SECONDS": "2",
        "STARLING_PONG_SECONDS": "1",
    }


class Served:
    """A service, by the port it listens on."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.bearer = f"Authorization: Bearer {issue_connection_token(SECRET, 'alice', 600)}"

    def open(self, path: str, *headers: str, token: bool = True) -> EventStream:
        """A stream that alice has opened."""
        stream = EventStream(self.port, get(path, *headers, *([self.bearer] if token else [])))
        assert stream.status == 200, stream.rest()
        return stream.opened()

    def refusal(self, path: str, *headers: str, token: bool = True, method: str = "GET") -> tuple[int, dict[str, Any]]:
        """The status and the error of a request that is refused."""
        request = get(path, *headers, *([self.bearer] if token else []), method=method)
        with Stream(self.port, request) as stream:
            assert stream.headers["content-type"] == "application/json"
            return stream.status, json.loads(stream.rest())["error"]

    def call(self, method: str, body: Any) -> Any:
        """What the server API answers."""
        url = f"http://127.0.0.1:{self.port}/api/{method}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"X-API-Key": KEY})
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)["result"]

    def publish(self, channel: str, *data: Any, **options: Any) -> None:
        for each in data:
            self.call("publish", {"channel": channel, "data": each, **options})


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with InProcessStarling(tmp_path_factory.mktemp("run"), settings(tmp_path_factory.mktemp("own"))) as starling:
        yield Served(starling.port)


@pytest.fixture(scope="module")
def uvicorn_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with under_uvicorn(settings(tmp_path_factory.mktemp("uvicorn"))) as port:
        yield Served(port)


@pytest.fixture(params=["own_server", "uvicorn_server"])
def served(request: pytest.FixtureRequest) -> Served:
    served: Served = request.getfixturevalue(request.param)
    return served


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """The name of a channel of this test's own in a namespace."""
    return lambda namespace: f"{namespace}:{abs(hash(request.node.nodeid))}"


# --- one channel ---


def test_a_reader_gets_the_data_as_published_with_ids(served: Served, channel: Callable[[str], str]) -> None:
    name = channel("kept")
    with served.open(f"/sse/{name}") as stream:
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["vary"] == "Origin"
        assert 1000 <= (stream.reader.retry or 0) <= 3000
        epoch, _, offset = stream.reader.last_event_id.partition(":")
        assert offset == "0"
        served.publish(name, {"text": "naïve ✓"}, [1, None], "x")
        events = [stream.event() for _ in range(3)]

    assert [json.loads(each.data) for each in events] == [{"text": "naïve ✓"}, [1, None], "x"]
    assert [each.last_event_id for each in events] == [f"{epoch}:{number}" for number in (1, 2, 3)]
    assert {each.type for each in events} == {"message"}


def test_all_readers_of_a_channel_get_the_same_bytes(served: Served, channel: Callable[[str], str]) -> None:
    name = channel("kept")
    with served.open(f"/sse/{name}") as one, served.open(f"/sse/{name}") as other:
        served.publish(name, {"n": 1})
        assert one.event() == other.event()


@pytest.mark.parametrize("address", ["/sse/{0}", "/sse?channel={0}&channel={1}", "/sse?channel={0}&channel=news"])
def test_a_reader_that_joins_others_goes_on_from_the_id_it_begins_with(
    served: Served, channel: Callable[[str], str], address: str
) -> None:
    name = channel("kept")
    path = address.format(name, f"{name}x")
    with served.open(path) as first:
        served.publish(name, 1, 2)
        with served.open(path) as second:
            begun = second.reader.last_event_id
            served.publish(name, 3)
            assert second.event().data == "3"
        assert [first.event().data for _ in range(3)] == ["1", "2", "3"]
        with served.open(path, f"Last-Event-ID: {begun}") as third:
            assert third.event().data == "3"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/sse?channel=news&channel=closed:x", 403, 103), ("/sse?channel=kept:0&channel=nowhere:x", 404, 102)],
)
def test_a_reader_gets_none_of_the_channels_where_it_is_refused_one(
    served: Served, path: str, status: int, code: int
) -> None:
    with served.open("/sse?channel=news&channel=kept:0"):
        answered, error = served.refusal(path)
        assert (answered, error["code"]) == (status, code)
        assert "(channel " in error["message"]


def test_a_channel_without_history_has_events_without_ids(served: Served) -> None:
    with served.open("/sse/news") as stream:
        served.publish("news", {"n": 1})
        event = stream.event()
    assert (event.data, event.last_event_id) == ('{"n": 1}', "")


def test_a_history_that_the_reader_may_not_read_gives_no_ids(served: Served, channel: Callable[[str], str]) -> None:
    name = channel("mine")
    with served.open(f"/sse/{name}") as stream:
        served.publish(name, {"n": 1})
        assert stream.event().last_event_id == ""


@pytest.mark.parametrize("encode", [quote, lambda name: name, lambda name: "".join(f"%{ord(c):02x}" for c in name)])
def test_the_channel_in_the_path_is_percent_encoded(
    served: Served, encode: Callable[[str], str], channel: Callable[[str], str]
) -> None:
    name = channel("kept")
    with served.open(f"/sse/{encode(name)}") as stream:
        served.publish(name, 1)
        assert stream.data(1) == [1]


def test_any_channel_name_can_be_written_in_the_path(served: Served) -> None:
    name = "kept:ä/b c?d&e=%25"
    with served.open(f"/sse/{quote(name, safe='')}") as stream:
        served.publish(name, 1)
        assert stream.data(1) == [1]


def test_raw_line_ends_between_the_tokens_of_json_arrive(served: Served) -> None:
    with served.open("/sse/news") as stream:
        body = b'{"channel": "news", "data": {"a":\n1,\r\n"b": 2}}'
        request = urllib.request.Request(f"http://127.0.0.1:{served.port}/api/publish", body, {"X-API-Key": KEY})
        urllib.request.urlopen(request, timeout=10).close()
        assert stream.data(1) == [{"a": 1, "b": 2}]


def test_a_tag_names_the_type_of_an_event_but_none_that_has_a_meaning(served: Served) -> None:
    with served.open("/sse/news") as stream:
        for name in ("price", "reset", "disconnect", "a\nid: 7"):
            served.publish("news", 1, tags={"event": name})
        assert [stream.event().type for _ in range(4)] == ["price", "message", "message", "message"]
        assert stream.reader.last_event_id == ""


def test_a_silent_stream_gets_comments(served: Served) -> None:
    with served.open("/sse/news") as stream:
        while not stream.reader.comments:
            stream.reader.feed(stream.piece())
        assert stream.reader.events == []


def test_head_answers_with_the_head_of_a_stream_and_opens_none(served: Served) -> None:
    with Stream(served.port, get("/sse/news", served.bearer, "Connection: close", method="HEAD")) as answer:
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        with pytest.raises(EOFError):
            answer._until(b"anything")


# --- resuming ---


def test_a_reader_that_reconnects_gets_what_it_missed_in_order_once(
    served: Served, channel: Callable[[str], str]
) -> None:
    name = channel("kept")
    with served.open(f"/sse/{name}") as stream:
        served.publish(name, 1, 2)
        stream.data(2)
        last = stream.reader.last_event_id
    served.publish(name, 3, 4)
    with served.open(f"/sse/{name}", f"Last-Event-ID: {last}") as again:
        assert again.data(2) == [3, 4]
        served.publish(name, 5)
        assert again.data(1) == [5]


def test_a_reader_that_got_nothing_before_it_was_cut_misses_nothing(
    served: Served, channel: Callable[[str], str]
) -> None:
    name = channel("kept")
    with served.open(f"/sse/{name}") as stream:
        last = stream.reader.last_event_id
    served.publish(name, 1, 2)
    with served.open(f"/sse/{name}", f"Last-Event-ID: {last}") as again:
        assert again.data(2) == [1, 2]


@pytest.mark.parametrize("count", [RECOVERY_LIMIT, 4 * RECOVERY_LIMIT + 1])
def test_a_reader_gets_more_than_one_answer_may_hold(served: Served, channel: Callable[[str], str], count: int) -> None:
    name = channel("kept")
    served.publish(name, *range(count))
    with served.open(f"/sse/{name}?since=0") as stream:
        served.publish(name, "live")
        assert stream.data(count + 1) == [*range(count), "live"]
        first = stream.reader.events[0].last_event_id
    with served.open(f"/sse/{name}?since={first}") as stream:
        assert stream.data(count) == [*range(1, count), "live"]


def test_everything_that_is_kept_may_be_nothing(served: Served, channel: Callable[[str], str]) -> None:
    name = channel("kept")
    with served.open(f"/sse/{name}?since=0") as stream:
        served.publish(name, 1)
        assert stream.data(1) == [1]


def test_the_last_event_is_newer_than_the_address(served: Served, channel: Callable[[str], str]) -> None:
    name = channel("kept")
    served.publish(name, 1, 2)
    with served.open(f"/sse/{name}?since=0") as stream:
        stream.data(2)
        last = stream.reader.last_event_id
    served.publish(name, 3)
    with served.open(f"/sse/{name}?since=0", f"Last-Event-ID: {last}") as again:
        assert again.data(1) == [3]


@pytest.mark.parametrize("last", ["another:1", "nonsense", "0.epoch.1", "x" * 3000])
def test_a_reader_that_cannot_go_on_gets_a_reset_and_an_id_by_which_it_can(
    served: Served, channel: Callable[[str], str], last: str
) -> None:
    name = channel("kept")
    served.publish(name, 1)
    with served.open(f"/sse/{name}", f"Last-Event-ID: {last}") as stream:
        event = stream.event()
        assert (event.type, json.loads(event.data)) == ("reset", {"channel": name})
        served.publish(name, 2)
        assert stream.data(1) == [2]
    with served.open(f"/sse/{name}", f"Last-Event-ID: {event.last_event_id}") as again:
        assert again.data(1) == [2]


def test_an_id_means_nothing_where_nothing_is_kept(served: Served) -> None:
    with served.open("/sse/news", "Last-Event-ID: nonsense") as stream:
        served.publish("news", 1)
        assert stream.data(1) == [1]


# --- several channels ---


def test_each_id_names_the_positions_in_all_channels(served: Served, channel: Callable[[str], str]) -> None:
    a, b = channel("kept") + "a", channel("kept") + "b"
    address = f"/sse?channel={quote(a)}&channel=news&channel={quote(b)}"
    with served.open(address) as stream:
        for number in range(10):
            served.publish((a, b, "news")[number % 3], number)
        events = [stream.event() for _ in range(10)]
    got = [json.loads(each.data) for each in events]
    assert [number for number in got if number % 3 == 0] == [0, 3, 6, 9]
    assert len({each.last_event_id for each in events if json.loads(each.data) % 3 != 2}) == 7
    for ended, position in enumerate((0, 1, 4, 9)):
        missed = [number for number in sorted(got[position + 1 :]) if number % 3 != 2] + ["end"] * ended
        with served.open(address, f"Last-Event-ID: {events[position].last_event_id}") as again:
            rest = again.data(len(missed))
            served.publish(a, "end")
            assert again.data(1) == ["end"]
        for remainder in (0, 1):
            of_channel = [n for n in rest if n != "end" and n % 3 == remainder]
            assert of_channel == [n for n in missed if n != "end" and n % 3 == remainder]


def test_only_the_channel_that_cannot_go_on_is_reset(served: Served, channel: Callable[[str], str]) -> None:
    a, b = channel("kept") + "a", channel("kept") + "b"
    address = f"/sse?channel={quote(a)}&channel={quote(b)}"
    with served.open(address) as stream:
        last = stream.reader.last_event_id
    served.publish(a, 1, 2)
    served.publish(b, 3, 4)
    served.call("history_remove", {"channel": b})
    with served.open(address, f"Last-Event-ID: {last}") as again:
        events = [again.event() for _ in range(3)]
        assert [json.loads(each.data) for each in events if each.type == "reset"] == [{"channel": b}]
        assert [json.loads(each.data) for each in events if each.type == "message"] == [1, 2]
        last = again.reader.last_event_id
    served.publish(a, 5)
    served.publish(b, 6)
    with served.open(address, f"Last-Event-ID: {last}") as again:
        assert sorted(again.data(2)) == [5, 6]


def test_everything_of_several_channels_comes_from_the_start(served: Served, channel: Callable[[str], str]) -> None:
    names = [channel("kept") + each for each in "abc"]
    for number in range(3 * RECOVERY_LIMIT):
        served.publish(names[number % 2], number)
    address = "&".join(f"channel={quote(name)}" for name in names)
    with served.open(f"/sse?{address}&since=0&event=channel") as stream:
        events = [stream.event() for _ in range(3 * RECOVERY_LIMIT)]
    for index, name in enumerate(names[:2]):
        got = [json.loads(each.data) for each in events if each.type == name]
        assert got == [number for number in range(3 * RECOVERY_LIMIT) if number % 2 == index]
    middle = events[RECOVERY_LIMIT]
    with served.open(f"/sse?{address}&since=0&event=channel", f"Last-Event-ID: {middle.last_event_id}") as again:
        rest = [again.event() for _ in events[RECOVERY_LIMIT + 1 :]]
    # Each channel has an order; between channels there is none.
    for name in names[:2]:
        wanted = [each.data for each in events[RECOVERY_LIMIT + 1 :] if each.type == name]
        assert [each.data for each in rest if each.type == name] == wanted


def test_a_channel_named_twice_is_read_once(served: Served) -> None:
    with served.open("/sse?channel=news&channel=news") as stream:
        served.publish("news", 1, 2)
        assert stream.data(2) == [1, 2]


# --- refusals ---


def forged() -> str:
    return jwt.encode({"sub": "alice", "exp": time.time() + 60}, "another secret of more than thirty-two bytes")


MANY = "&".join(f"channel=kept:{number}" for number in range(17))


@pytest.mark.parametrize(
    ("path", "headers", "token", "status", "code"),
    [
        ("/sse/news", [], False, 401, 3500),
        ("/sse/news", [f"Authorization: Bearer {forged()}"], False, 401, 3500),
        ("/sse/news", [f"Authorization: Bearer {issue_connection_token(SECRET, 'alice', -60)}"], False, 401, 109),
        ("/sse/news?ticket=tkt_unknown", [], False, 401, 109),
        ("/sse/closed:x", [], True, 403, 103),
        ("/sse?channel=news&channel=closed:x", [], True, 403, 103),
        ("/sse/$news", [], True, 403, 103),
        ("/sse/nowhere:x", [], True, 404, 102),
        ("/sse/bytes:x", [], True, 400, 108),
        ("/sse/a%07b", [], True, 400, 107),
        ("/sse/%ff", [], True, 400, 107),
        ("/sse", [], True, 400, 107),
        ("/sse/", [], True, 400, 107),
        ("/sse?channel=", [], True, 400, 107),
        ("/sse/news?channel=other", [], True, 400, 107),
        ("/sse/news?since=nonsense", [], True, 400, 107),
        ("/sse/news?event=type", [], True, 400, 107),
        (f"/sse?{MANY}", [], True, 400, 107),
        ("/sse?" + "&".join(f"channel={number}" for number in range(129)), [], True, 400, 107),
        ("/sse/news", ["Accept: application/json"], True, 406, 107),
        ("/sse/news", ["Accept: text/event-stream;q=0, text/html"], True, 406, 107),
        ("/sse/news", ["Origin: https://evil.example"], True, 403, 103),
    ],
)
def test_a_refused_request_gets_a_status_and_the_error_of_the_api(
    served: Served, path: str, headers: list[str], token: bool, status: int, code: int
) -> None:
    answered, error = served.refusal(path, *headers, token=token)
    assert (answered, error["code"]) == (status, code), error
    assert error["message"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_refused(served: Served, method: str) -> None:
    assert served.refusal("/sse/news", method=method)[0] == 405


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "text/*;q=0.1", "text/html, text/event-stream"])
def test_what_takes_events_gets_them(served: Served, accept: str) -> None:
    served.open("/sse/news", f"Accept: {accept}").socket.close()


def test_sixteen_channels_with_history_can_be_resumed_in_one_stream(served: Served) -> None:
    address = "&".join(f"channel=kept:{number}" for number in range(16))
    with served.open(f"/sse?{address}&channel=news&channel=mine:x") as stream:
        assert len(stream.reader.last_event_id.split(",")) == 16
        assert len(stream.reader.last_event_id) <= 2048


def test_a_page_of_an_allowed_origin_connects_by_its_cookie(served: Served) -> None:
    cookie = f"Cookie: session={issue_connection_token(SECRET, 'alice', 60)}"
    with served.open("/sse/news", cookie, f"Origin: {PAGE}", token=False) as stream:
        assert stream.headers["access-control-allow-origin"] == PAGE
        assert stream.headers["access-control-allow-credentials"] == "true"
    assert served.refusal("/sse/news", cookie, "Sec-Fetch-Site: cross-site", token=False)[0] == 401


# --- what a backend does ---


def test_a_ticket_opens_a_stream_once_and_the_id_resumes_it(served: Served, channel: Callable[[str], str]) -> None:
    name = channel("kept")
    ticket = served.call("ticket", {"user": "bob", "channels": [name]})["ticket"]
    address = f"/sse/{quote(name)}?ticket={ticket}"
    with served.open(address, token=False) as stream:
        served.publish(name, 1)
        stream.data(1)
        last = stream.reader.last_event_id
        assert "~tkr_" in last
    served.publish(name, 2)
    assert served.refusal(address, token=False)[0] == 401
    assert served.refusal(address, "Last-Event-ID: epoch:1", token=False)[0] == 401
    assert served.refusal(address, f"Last-Event-ID: {last[:-3]}xyz", token=False)[0] == 401
    for _ in range(2):
        with served.open(address, f"Last-Event-ID: {last}", token=False) as again:
            assert again.data(1) == [2]


def test_a_fresh_ticket_counts_before_the_right_of_an_old_session(
    served: Served, channel: Callable[[str], str]
) -> None:
    name = channel("closed")
    ticket = served.call("ticket", {"user": "bob", "channels": [name]})["ticket"]
    with served.open(f"/sse/{quote(name)}?ticket={ticket}", token=False) as stream:
        last = stream.reader.last_event_id
    other = served.call("ticket", {"user": "carol", "channels": []})["ticket"]
    answered, _ = served.refusal(f"/sse/{quote(name)}?ticket={other}", f"Last-Event-ID: {last}", token=False)
    assert answered == 403, "carol may not read it, and bob's right is not hers"


def test_a_revoked_reader_gets_the_reason_as_its_last_event(served: Served) -> None:
    ticket = served.call("ticket", {"user": "dave", "channels": ["news"]})
    with served.open(f"/sse/news?ticket={ticket['ticket']}", token=False) as stream:
        served.call("revoke_session", {"session": ticket["session"]})
        event = stream.event()
        assert event.type == "disconnect"
        assert json.loads(event.data) == {"code": 3500, "reason": "invalid token", "reconnect": False}
        with pytest.raises(EOFError):
            stream.event()


def test_a_reader_that_is_unsubscribed_gets_the_reason(served: Served) -> None:
    bearer = f"Authorization: Bearer {issue_connection_token(SECRET, 'erin', 60)}"
    with served.open("/sse?channel=news&channel=more", bearer, token=False) as stream:
        served.call("unsubscribe", {"user": "erin", "channel": "news"})
        event = stream.event()
        assert (event.type, json.loads(event.data)["channel"]) == ("unsubscribe", "news")
        served.publish("news", 1)
        served.publish("more", 2)
        assert stream.data(1) == [2]


@pytest.mark.parametrize("channels", [("news",), ("kept:left", "news")])
def test_a_stream_ends_once_every_channel_of_it_is_unsubscribed(served: Served, channels: tuple[str, ...]) -> None:
    bearer = f"Authorization: Bearer {issue_connection_token(SECRET, 'gina', 60)}"
    address = "&".join(f"channel={channel}" for channel in channels)
    with served.open(f"/sse?{address}", bearer, token=False) as stream:
        for channel in channels:
            served.call("unsubscribe", {"user": "gina", "channel": channel})
        events = [stream.event() for _ in range(len(channels) + 1)]
        assert [each.type for each in events] == [*["unsubscribe"] * len(channels), "disconnect"]
        assert json.loads(events[-1].data) == {"code": 3503, "reason": "force disconnect", "reconnect": False}
        with pytest.raises(EOFError):
            stream.event()
        assert stream.ended, "with the last chunk"


def test_a_token_channel_is_read_by_the_connection_token_or_a_ticket_that_names_it(served: Served) -> None:
    def bearer(**claims: Any) -> str:
        return f"Authorization: Bearer {jwt.encode({'sub': 'hugo', 'exp': time.time() + 60, **claims}, SECRET)}"

    address = f"/sse/{quote('$news')}"
    answered, error = served.refusal(address, bearer(), token=False)
    assert (answered, error["code"]) == (403, 103)
    # A subscription token opens no connection.
    assert served.refusal(address, bearer(channel="$news"), token=False)[0] == 401
    ticket = served.call("ticket", {"user": "hugo", "channels": ["$news"]})["ticket"]
    with (
        served.open(address, bearer(channels=["$news"]), token=False) as by_token,
        served.open(f"{address}?ticket={ticket}", token=False) as by_ticket,
    ):
        served.publish("$news", 1)
        assert (by_token.data(1), by_ticket.data(1)) == ([1], [1])


def test_a_stream_gets_the_channels_of_its_address_and_no_others(served: Served) -> None:
    token = jwt.encode({"sub": "frank", "exp": time.time() + 60, "channels": ["closed:x", "closed:y"]}, SECRET)
    with served.open("/sse/closed:x", f"Authorization: Bearer {token}", token=False) as stream:
        served.call("subscribe", {"user": "frank", "channel": "news"})
        served.publish("closed:y", 1)
        served.publish("news", 2)
        served.publish("closed:x", 3)
        assert stream.data(1) == [3]
