"""Requests before they are WebSockets: limits of the head, deadlines, and refusals in words."""

import contextlib
import ctypes
import os
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.server.serving import Client, InProcess, handshake, until
from tests.support.waiting import DEADLINE

HANDSHAKE_SECONDS = 1.0
BODY_SECONDS = 1.0
SYS_PIDFD_GETFD = 438


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    directory = tmp_path_factory.mktemp("server")
    limits: dict[str, Any] = {
        "handshake_seconds": HANDSHAKE_SECONDS,
        "body_seconds": BODY_SECONDS,
        "close_seconds": 1.0,
    }
    with InProcess(directory, **limits) as server:
        yield server


def ask(server: InProcess, request: bytes) -> Client:
    client = Client(server.port)
    client.socket.sendall(request)
    client.read_head()
    return client


def test_a_plain_request_is_served_without_reporting_what_serves(server: InProcess) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(2):  # the second over the same connection
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.read(), answer.getheader("server")) == (200, b"ok", None)
    connection.close()


@pytest.mark.parametrize("upgrade", [True, False], ids=["websocket", "http"])
@pytest.mark.parametrize(
    "headers",
    [
        [f"X-{number}: 1" for number in range(300)],
        ["Cookie: " + "x" * 102_400],
        [f"X-{number}: " + "x" * 1000 for number in range(17)],
    ],
    ids=["300 fields", "100 KiB field", "17 KiB in all"],
)
def test_a_head_over_the_limits_is_answered_431(server: InProcess, headers: list[str], upgrade: bool) -> None:
    before = server.refused("head_too_large")
    request = handshake("/ws", *headers) if upgrade else "\r\n".join(["GET / HTTP/1.1", *headers, "", ""]).encode()
    with ask(server, request) as client:
        assert client.status == 431
        assert client.socket.recv(1000) or client._buffer
        assert client.ended()
    until(lambda: server.refused("head_too_large") == before + 1, "counted")


def test_of_what_a_refused_client_goes_on_sending_little_is_read(server: InProcess) -> None:
    with ask(server, b"NONSENSE\r\n\r\n") as client:
        assert client.status == 400
        # More than the kernel keeps on both sides.
        assert client.sent_until_cut(128 * 2**20) < 64 * 2**20


def test_a_head_within_the_limits_passes(server: InProcess) -> None:
    # One line of 9000 bytes alone is more than the parsers take by themselves.
    with server.connect("/ws", "Cookie: " + "x" * 9000, *(f"X-{number}: 1" for number in range(120))) as client:
        client.send("hello")
        assert client.text() == "hello"


@pytest.mark.parametrize(
    "request_head",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET /\x1b HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["no request", "no colon", "escape", "HTTP/2"],
)
def test_what_is_no_request_is_answered_400(server: InProcess, request_head: bytes) -> None:
    before = server.refused("malformed_request")
    with ask(server, request_head) as client:
        assert client.status == 400
        assert client.ended()
    until(lambda: server.refused("malformed_request") == before + 1, "counted")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (handshake("/ws").replace(b"Version: 13", b"Version: 8"), 426),
        (handshake("/ws").replace(b"Sec-WebSocket-Key", b"X-Key"), 400),
        (handshake("/ws", "Content-Length: 5") + b"12345", 400),
        (handshake("/ws", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    ],
    ids=["version", "no key", "body", "chunked"],
)
def test_a_bad_handshake_is_answered_with_its_status(server: InProcess, request_head: bytes, status: int) -> None:
    before = server.refused("bad_upgrade")
    with ask(server, request_head) as client:
        assert client.status == status
        assert client.ended()
    until(lambda: server.refused("bad_upgrade") == before + 1, "counted")


@pytest.mark.parametrize("version", ["0", "7", "8", "14", "99", "nonsense", "13, 8"])
def test_a_client_of_another_version_learns_which_one_is_spoken(server: InProcess, version: str) -> None:
    request = handshake("/ws").replace(b"Version: 13", f"Version: {version}".encode())
    with ask(server, request) as client:
        assert client.status == 426
        assert "Sec-WebSocket-Version: 13" in client.head.splitlines()
        assert "Upgrade: websocket" in client.head.splitlines()
        assert client.ended()


def test_an_endpoint_that_refuses_gives_403(server: InProcess) -> None:
    with Client(server.port) as client:
        client.upgrade("/refuse")
        assert client.status == 403


def test_an_endpoint_that_returns_or_fails_without_closing_ends_with_a_close_frame(server: InProcess) -> None:
    with server.connect("/return") as client:
        assert client.close_code()[0] == 1000
    with server.connect("/crash") as client:
        assert client.close_code()[0] == 1011
    for path in ("/twice", "/exit"):
        with server.connect(path) as client:
            assert client.close_code()[0] == 1011
    until(lambda: len(server.events("asgi_application_failed")) == 3, "all three are logged")


def test_an_endpoint_may_keep_to_plain_asgi(server: InProcess) -> None:
    with server.connect("/plain") as client:
        client.send("one")
        assert client.text() == "one"
        client.send("two")
        assert client.text() == "two"


def test_half_open_connections_are_cut_at_the_deadline_while_others_are_served(server: InProcess) -> None:
    before = server.refused("handshake_timeout")
    with server.connect() as good:
        silent = [Client(server.port) for _ in range(100)]
        half = [Client(server.port) for _ in range(100)]
        dripping = [Client(server.port) for _ in range(100)]
        for client in half + dripping:
            client.socket.sendall(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nX-Drip: ")
        deadline = time.monotonic() + DEADLINE
        open_still = list(dripping)
        while open_still and time.monotonic() < deadline:
            for client in list(open_still):
                try:
                    client.socket.send(b"X")
                except OSError:
                    open_still.remove(client)
            good.send("served")
            assert good.text() == "served"
            time.sleep(0.05)
        assert not open_still
        assert all(client.ended() for client in silent + half)
        for client in silent + half + dripping:
            client.socket.close()
    until(lambda: server.refused("handshake_timeout") == before + 300, "each counted")


POST = b"POST /%b HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "begun",
    [
        b"Content-Length: 1000\r\n\r\n",
        b"Content-Length: 1000\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
    ids=["nothing", "begun", "chunked"],
)
@pytest.mark.parametrize("dripping", [False, True], ids=["silent", "dripping"])
def test_a_body_that_does_not_come_in_time_is_answered_408_and_the_connection_closed(
    server: InProcess, begun: bytes, dripping: bool
) -> None:
    before, reported_before = server.refused("body_timeout"), len(server.events("body_read"))
    with Client(server.port) as client:
        client.socket.sendall(POST % b"" + begun)
        started = time.monotonic()
        while dripping and time.monotonic() < started + 0.7 * BODY_SECONDS:
            client.socket.sendall(b"1\r\n{\r\n")
            time.sleep(0.05)
        client.read_head()
        assert client.status == 408
        assert time.monotonic() - started > BODY_SECONDS * 0.9
        assert "Connection: close" in client.head.splitlines()
        assert client.ended()
    until(lambda: server.refused("body_timeout") == before + 1, "counted")
    reported = until(lambda: server.events("body_read")[reported_before:], "the application reported it")
    assert [line["ended_by"] for line in reported] == ["http.disconnect"]


def test_a_body_of_many_parts_is_taken_as_long_as_it_comes_in_time(server: InProcess) -> None:
    with Client(server.port) as client:
        for _ in range(2):  # the second over the same connection, with a deadline of its own
            client.socket.sendall(POST % b"" + b"Content-Length: 6\r\n\r\n")
            for _ in range(6):
                time.sleep(0.1 * BODY_SECONDS)
                client.socket.sendall(b"x")
            client.read_head()
            assert client.status == 200
            assert client._take(2) == b"ok"


def test_the_rest_of_a_body_that_was_answered_early_has_the_same_deadline(server: InProcess) -> None:
    with Client(server.port) as client:
        client.socket.sendall(POST % b"early" + b"Content-Length: 100000\r\n\r\n")
        client.read_head()
        assert client.status == 200
        assert client._take(2) == b"ok"
        client.socket.sendall(bytes(50_000))  # more than a head may have
        assert client.cut_while_sending(b"x", every=0.05)
        assert client._buffer == b"", "no second answer"


def test_a_connection_waits_for_its_next_request_beyond_the_deadline_of_a_body(server: InProcess) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.connect()
    kept = connection.sock
    for pause, body in ((0.0, b"said"), (BODY_SECONDS + 0.3, b"said again")):
        time.sleep(pause)
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"ok")
        assert connection.sock is kept
    connection.close()


def test_line_ends_between_requests_do_not_keep_a_connection(server: InProcess) -> None:
    with Client(server.port) as client:
        client.socket.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.read_head()
        assert client.cut_while_sending(b"\r\n", every=0.05)


def test_a_worker_bounds_what_the_kernel_keeps_for_a_client(server: InProcess) -> None:
    with server.connect() as client:
        peer = client.socket.getsockname()
        with socket_of(os.getpid(), peer) as own:
            assert own.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 65536  # the kernel doubles it
            assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 34_000  # 25 + 8 + 1 s
            assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def socket_of(pid: int, peer: tuple[str, int]) -> socket.socket:
    """A copy of the socket that process `pid` has to `peer`."""
    pidfd = os.pidfd_open(pid)
    try:
        for name in Path(f"/proc/{pid}/fd").iterdir():
            if name.readlink().name.startswith("socket:"):
                copy = ctypes.CDLL(None).syscall(SYS_PIDFD_GETFD, pidfd, int(name.name), 0)
                assert copy >= 0, "this user may not look into its own processes"
                found = socket.socket(fileno=copy)
                with contextlib.suppress(OSError):  # a listener or a pair
                    if found.getpeername() == peer:
                        return found
                found.close()
    finally:
        os.close(pidfd)
    raise AssertionError(f"process {pid} has no socket to {peer}")
