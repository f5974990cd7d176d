"""Requests that an endpoint answers without ASGI: as HTTP has them, on the connection that others share."""

import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.server.serving import Client, InProcess, until
from tests.server.test_requests import exchange

DEADLINE = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    directory = tmp_path_factory.mktemp("direct")
    with InProcess(directory, handshake_seconds=DEADLINE, body_seconds=DEADLINE) as server:
        yield server


def post(path: str, body: bytes = b"", *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = [b"POST /%b HTTP/%b" % (path.encode(), version), b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


@pytest.mark.parametrize("how", ["now", "later", "in-a-task"])
def test_a_connection_is_kept_and_answers_one_request_after_the_other(server: InProcess, how: str) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.connect()
    kept = connection.sock
    for size in (0, 5, 200_000):
        connection.request("POST", f"/direct/{how}", bytes(size))
        answer = connection.getresponse()
        assert (answer.status, answer.read(), answer.headers["x-how"]) == (200, b"direct %d" % size, how)
        assert answer.headers["date"]
        assert connection.sock is kept
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"ok"
    connection.close()


@pytest.mark.parametrize("how", ["now", "in-a-task"])
def test_a_connection_waits_for_its_next_request_beyond_the_deadlines_of_head_and_body(
    server: InProcess, how: str
) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.connect()
    kept = connection.sock
    for pause in (0.0, DEADLINE + 0.3):
        time.sleep(pause)
        connection.request("POST", f"/direct/{how}", b"said")
        assert connection.getresponse().read() == b"direct 4"
        assert connection.sock is kept
    connection.close()


def test_a_connection_that_repeats_a_request_is_idle_for_the_whole_keep_alive_before_it_ends(tmp_path: Path) -> None:
    with InProcess(tmp_path, keep_alive_seconds=1) as server, Client(server.port) as client:
        for _ in range(2):
            # Together longer than the time to be idle, which begins with each answer.
            time.sleep(0.6)
            client.socket.sendall(post("direct/now", b"said"))
            assert client.socket.recv(1000).endswith(b"direct 4")
        answered = time.monotonic()
        assert client.socket.recv(1000) == b""
        assert time.monotonic() - answered > 0.9


def test_a_request_that_repeats_a_head_may_come_in_pieces_or_with_others(server: InProcess) -> None:
    with Client(server.port) as client:
        for pieces in ([4], [4], [2, 2], [4], [0, 4], [4]):
            request = post("direct/now", b"said")
            begin = len(request) - 4
            for size in pieces:
                client.socket.sendall(request[:begin] + request[begin : begin + size])
                request, begin = request[begin + size :], 0
                time.sleep(0.05)
            assert client.socket.recv(1000).endswith(b"direct 4")
        client.socket.sendall(post("direct/now", b"one") + post("direct/now", b"three"))
        time.sleep(0.05)
        answer = client.socket.recv(1000)
        assert answer.endswith(b"direct 5")
        assert b"direct 3" in answer


def test_a_pipeline_is_answered_in_its_order_whatever_answers(server: InProcess) -> None:
    paths = ["direct/now", "direct/later", "", "direct/in-a-task", "direct/now", "later", "direct/now"]
    request = b"".join(post(path, b"x" * number) for number, path in enumerate(paths))
    answer = exchange(server, request, half_close=True)
    bodies = [part.rpartition("\r\n\r\n")[2] for part in answer.split("HTTP/1.1 200 OK")[1:]]
    # What waits behind an answer under way is for ASGI.
    assert [body.strip() for body in bodies] == ["direct 0", "direct 1", "ok", "ok", "ok", "ok", "ok"]


@pytest.mark.parametrize("how", ["now", "later", "in-a-task"])
@pytest.mark.parametrize(
    ("request_", "half_close"),
    [((b"Connection: close", b"1.1"), False), ((b"Accept: */*", b"1.0"), False), ((b"Accept: */*", b"1.1"), True)],
    ids=["close", "HTTP/1.0", "half-closed"],
)
def test_a_connection_that_is_to_end_ends_behind_its_answer(
    server: InProcess, how: str, request_: tuple[bytes, bytes], half_close: bool
) -> None:
    header, version = request_
    answer = exchange(server, post(f"direct/{how}", b"body", header, version=version), half_close=half_close)
    assert answer.endswith("\r\n\r\ndirect 4")
    assert half_close or "connection: close\r\n" in answer


@pytest.mark.parametrize("how", ["fail", "fail-in-a-task"])
def test_a_fault_of_the_endpoint_is_500_and_the_end_of_the_connection(server: InProcess, how: str) -> None:
    before = len(server.events("endpoint_failed"))
    answer = exchange(server, post(f"direct/{how}"))
    assert answer.startswith("HTTP/1.1 500 Internal Server Error\r\n")
    until(lambda: len(server.events("endpoint_failed")) == before + 1, "the log has the traceback")


def test_a_body_that_does_not_come_in_time_is_answered_408(server: InProcess) -> None:
    answer = exchange(server, post("direct/now", b"x" * 100)[:-50])
    assert answer.startswith("HTTP/1.1 408 ")
    assert "direct" not in answer


def test_a_body_that_must_be_asked_for_is_left_to_asgi(server: InProcess) -> None:
    answer = exchange(server, post("direct/now", b"body", b"Expect: 100-continue", b"Connection: close"))
    assert answer.startswith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert answer.endswith("ok")


def test_a_client_that_leaves_before_its_answer_harms_nobody(server: InProcess) -> None:
    with Client(server.port) as client:
        client.socket.sendall(post("direct/later") + post("direct/in-a-task"))
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(3):
        connection.request("POST", "/direct/later", b"")
        assert connection.getresponse().read() == b"direct 0"
    connection.close()
