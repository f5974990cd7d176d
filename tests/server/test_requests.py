"""Requests over HTTP as the field sends them: half-closed, kept open, with every Host and every form of target."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from starling.main import server_options
from starling.settings import load_settings
from tests.server.serving import Client, InProcess, frame, handshake, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("server"), host="::", trusted_proxies=("127.0.0.1",)) as server:
        yield server


def exchange(server: InProcess, request: bytes, *, half_close: bool = False) -> str:
    """All that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as client:
        client.sendall(request)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer.decode()


def get(path: str = "/", *headers: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", *headers, "", ""]).encode()


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/later", "Host: x"),
        get("/later", "Host: x", version="1.0"),
        b"POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
        b"POST /later HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        get("/later-stream", "Host: x"),
    ],
    ids=["get", "HTTP/1.0", "body", "chunks", "answer of unknown length"],
)
def test_a_client_that_ends_its_side_gets_its_answer_and_then_the_end(server: InProcess, request_bytes: bytes) -> None:
    answer = exchange(server, request_bytes, half_close=True)
    assert answer.startswith("HTTP/1.1 200 ")
    assert "ok" in answer.partition("\r\n\r\n")[2]


def test_a_client_that_ends_its_side_behind_a_pipeline_gets_every_answer(server: InProcess) -> None:
    answer = exchange(server, get("/later", "Host: x") * 3, half_close=True)
    assert answer.count("HTTP/1.1 200 ") == 3


def test_a_client_that_ends_in_the_middle_of_a_body_is_not_waited_for(server: InProcess) -> None:
    request = b"POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n\r\nbody"
    assert exchange(server, request, half_close=True) == ""


def test_a_client_that_leaves_a_stream_under_way_is_noticed_at_once(server: InProcess) -> None:
    before = len(server.events("stream_ended"))
    with Client(server.port) as client:
        client.socket.sendall(get("/stream", "Host: x"))
        client.read_head()
        assert client.status == 200
    until(lambda: len(server.events("stream_ended")) == before + 1, "the endpoint knows that its client has left")


def test_an_idle_connection_is_kept_longer_than_nginx_and_aws_keep_theirs(tmp_path: Path) -> None:
    settings = load_settings({"STARLING_DEV": "true"}).model_copy(update={"runtime_dir": tmp_path})
    assert server_options(settings).keep_alive_seconds > 60


def test_the_keep_alive_that_is_set_counts(tmp_path: Path) -> None:
    with InProcess(tmp_path, keep_alive_seconds=1) as server, Client(server.port) as client:
        client.socket.sendall(get("/", "Host: x"))
        client.read_head()
        assert client.status == 200
        assert client.ended()


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Host: a", "Host: a"],
        ["Host: evil, app"],
        ["Host: a b/../c"],
        ["Host: a/b"],
        ["Host: user@a"],
        ["Host: a:port"],
        ["Host: [::1"],
        ["Host: a:1:2"],
        ["Host: \xe4"],
    ],
    ids=["none", "two", "joined", "blank", "path", "user", "port", "bracket", "two ports", "not ASCII"],
)
@pytest.mark.parametrize("upgrade", [False, True], ids=["http", "websocket"])
def test_a_host_field_that_is_none_is_answered_400(server: InProcess, headers: list[str], upgrade: bool) -> None:
    lines = [f"{header}\r\n".encode("latin-1") for header in headers]
    request = handshake("/ws") if upgrade else get("/", "Host: localhost")
    head, _, rest = request.partition(b"Host: localhost\r\n")
    with Client(server.port) as client:
        client.socket.sendall(head + b"".join(lines) + rest)
        client.read_head()
        assert client.status == 400
        assert client.ended()


@pytest.mark.parametrize(
    "host",
    ["example.com", "example.com:443", "127.0.0.1:8000", "[::1]:8000", "my_service", "xn--bcher-kva.example", "a."],
)
def test_every_form_of_a_host_is_served(server: InProcess, host: str) -> None:
    assert exchange(server, get("/", f"Host: {host}", "Connection: close")).startswith("HTTP/1.1 200 ")


def test_http_1_0_needs_no_host_and_http_0_9_is_refused(server: InProcess) -> None:
    assert exchange(server, get("/", version="1.0")).startswith("HTTP/1.1 200 ")
    assert exchange(server, b"GET /\r\n\r\n").startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize("scheme", ["http", "HTTP", "https", "ws"])
def test_a_target_in_absolute_form_is_served_and_its_host_counts(server: InProcess, scheme: str) -> None:
    answer = exchange(server, get(f"{scheme}://real.example:81/scope?a=1", "Host: other", "Connection: close"))
    scope = json.loads(answer.partition("\r\n\r\n")[2])
    assert (scope["path"], scope["query"], scope["host"]) == ("/scope", "a=1", ["real.example:81"])


def test_a_websocket_is_opened_by_a_target_in_absolute_form(server: InProcess) -> None:
    with server.connect("ws://localhost/ws") as client:
        client.send("hello")
        assert client.text() == "hello"


@pytest.mark.parametrize(
    "target", ["http:///path", "http://user@host/", "http://[::1/", "http://a b/", "ftp://a/", "x://a"]
)
def test_an_absolute_form_without_a_usable_host_is_answered_400(server: InProcess, target: str) -> None:
    assert exchange(server, get(target, "Host: a")).startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("host", "trusted"),
    [("::", "127.0.0.0/8"), ("::", "::ffff:127.0.0.0/104"), ("127.0.0.1", "::ffff:127.0.0.1")],
)
def test_an_ipv4_proxy_is_trusted_on_every_socket(tmp_path: Path, host: str, trusted: str) -> None:
    with InProcess(tmp_path, host=host, trusted_proxies=(trusted,)) as server:
        request = get("/scope", "Host: a", "X-Forwarded-For: 8.8.8.8", "X-Forwarded-Proto: https", "Connection: close")
        scope = json.loads(exchange(server, request).partition("\r\n\r\n")[2])
        assert (scope["client"], scope["scheme"]) == ("8.8.8.8", "https")


@pytest.fixture(scope="module")
def behind_proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("proxied"), trusted_proxies=("127.0.0.1", "10.0.0.0/8")) as server:
        yield server


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["::ffff:8.8.8.8"], "8.8.8.8"),
        (["::FFFF:808:808"], "8.8.8.8"),
        (["0:0:0:0:0:ffff:8.8.8.8"], "8.8.8.8"),
        (["8.8.8.8, ::ffff:10.1.2.3"], "8.8.8.8"),
        (["8.8.8.8,::ffff:10.1.2.3", "::ffff:10.1.2.4"], "8.8.8.8"),
        (["8.8.8.8, [::ffff:10.1.2.3]:4711"], "8.8.8.8"),
        (["[::ffff:8.8.8.8]:4711, 10.1.2.3"], "8.8.8.8"),
        (["::ffff:8.8.8.8, 9.9.9.9"], "9.9.9.9"),
        (["2001:db8::ffff:1"], "2001:db8::ffff:1"),
        (["::ffff:nobody"], "::ffff:nobody"),
    ],
)
def test_an_ipv4_address_that_a_proxy_reports_is_one_in_every_form(
    behind_proxies: InProcess, forwarded: list[str], client: str
) -> None:
    fields = [f"X-Forwarded-For: {value}" for value in forwarded]
    answer = exchange(behind_proxies, get("/scope", "Host: a", *fields, "Connection: close"))
    assert json.loads(answer.partition("\r\n\r\n")[2])["client"] == client


def test_an_ipv4_peer_of_a_dual_stack_socket_has_its_ipv4_address(server: InProcess) -> None:
    scope = json.loads(exchange(server, get("/scope", "Host: a", "Connection: close")).partition("\r\n\r\n")[2])
    assert scope["client"] == "127.0.0.1"


def test_a_client_that_leaves_a_pipeline_behind_writes_nothing_to_the_log(server: InProcess) -> None:
    for _ in range(10):
        with Client(server.port) as client:
            client.socket.sendall(get("/large", "Host: x") * 8)
            client.socket.recv(1000)
    before = len(server.events("large_sent"))
    exchange(server, get("/large", "Host: x", "Connection: close"))
    until(lambda: len(server.events("large_sent")) > before, "the last is served")
    assert server.problems == []


@pytest.mark.parametrize("path", ["/ws", "/plain", "/refuse"])
def test_an_upgrade_behind_a_request_that_is_not_answered_yet_ends_the_connection(server: InProcess, path: str) -> None:
    """Otherwise the response to the first would stand between the frames."""
    assert "101" not in exchange(server, get("/later", "Host: x") + handshake(path) + frame(1, b"hello"))
    # Behind one that is answered it is an upgrade like any other.
    with Client(server.port) as client:
        client.socket.sendall(get("/", "Host: x"))
        client.read_head()
        assert client._take(2) == b"ok"
        client.upgrade("/ws")
        client.send("hello")
        assert client.text() == "hello"
