"""The internal port: probes at each stage, metrics in each form, and clients that behave badly."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import Server, until
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), workers=2) as server:
        yield server


def test_probes_before_and_after_the_start(tmp_path: Path) -> None:
    with Server(tmp_path, wait_ready=False, start_seconds=1.5) as server:
        until(lambda: server.get("/livez")[0] == 200, "alive while it starts")
        until(lambda: server.workers(), "a worker")
        assert server.get("/startupz")[0] == 503
        status, body, _ = server.get("/readyz")
        assert (status, json.loads(body)["workers"][0]["reasons"]) == (503, ["starting"])
        until(lambda: server.get("/startupz")[0] == 200, "started")
        assert server.get("/readyz")[0] == 200


def test_readiness_reports_each_worker_and_its_broker(server: Server) -> None:
    status, body, headers = server.get("/readyz")
    report = json.loads(body)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert (report["ready"], report["stopping"]) == (True, False)
    assert [(worker["ready"], worker["broker"]) for worker in report["workers"]] == [(True, "connecting")] * 2


def test_metrics_join_the_workers_and_the_master(server: Server) -> None:
    before = server.refused("malformed_request")
    for _ in range(8):  # of two workers, by chance
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"nonsense\r\n\r\n")
            client.recv(1000)
    until(lambda: server.refused("malformed_request") == before + 8, "summed over workers")
    assert b"\nstarling_workers 2.0\n" in server.get("/metrics")[1]
    assert b"\nstarling_worker_restarts_total 0.0\n" in server.get("/metrics")[1]


def test_metrics_come_compressed_and_as_openmetrics_where_wanted(server: Server) -> None:
    _, plain, headers = server.get("/metrics")
    assert headers["content-type"].startswith("text/plain")
    _, packed, headers = server.get("/metrics", headers={"Accept-Encoding": "gzip"})
    assert headers["content-encoding"] == "gzip"
    assert b"starling_workers" in gzip.decompress(packed)
    _, body, headers = server.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n") > plain.endswith(b"# EOF\n")


def test_the_busiest_channels_are_a_list_and_a_bad_limit_is_reported(server: Server) -> None:
    status, body, headers = server.get("/channels/top?limit=5")
    assert (status, json.loads(body), headers["content-type"]) == (200, {"channels": []}, "application/json")
    for wrong in ("0", "101", "-1", "many", "9" * 5000):
        status, body, _ = server.get(f"/channels/top?limit={wrong}")
        assert (status, body) == (400, b"limit: give a number from 1 to 100\n")


def test_unknown_paths_are_404_and_other_methods_405(server: Server) -> None:
    assert server.get("/")[0] == 404
    assert server.get("/metrics/x")[0] == 404
    for method in ("POST", "PUT", "DELETE", "BREW"):
        status, _, headers = server.get("/metrics", method=method)
        assert (status, headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("fields", ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: u@a\r\n", "Host: é\r\n"])
def test_a_request_without_one_good_host_field_is_400(server: Server, fields: str) -> None:
    with socket.create_connection(("127.0.0.1", server.internal_port), timeout=DEADLINE) as client:
        client.sendall(f"GET /livez HTTP/1.1\r\n{fields}\r\n".encode("latin-1"))
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Host field" in answer


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET http://localhost/livez HTTP/1.1", 200),
        ("GET http://127.0.0.1//[?x HTTP/1.1", 404),
        ("GET //[ HTTP/1.1", 404),
        ("OPTIONS * HTTP/1.1", 405),
        ("GET http://u:p@localhost/livez HTTP/1.1", 400),
        ("GET http:///livez HTTP/1.1", 400),
        ("GET http://[/livez HTTP/1.1", 400),
        ("GET ftp://localhost/livez HTTP/1.1", 400),
        ("GET localhost:80 HTTP/1.1", 400),
        ("GET livez HTTP/1.1", 400),
        ("GET /livez HTTP/1.2", 400),
        ("GET /livez", 400),
        ("GET /livez HTTP/1.1 more", 400),
        ("PRI * HTTP/2.0", 505),
        ("GET http://example.com/livez HTTP/1.1", 421),
    ],
)
def test_a_target_counts_as_on_the_public_port(server: Server, line: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", server.internal_port), timeout=DEADLINE) as client:
        client.sendall(f"{line}\r\nHost: localhost\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"<" not in answer


@pytest.mark.parametrize("path", ["/metrics", "/channels/top", "/readyz", "/nothing"])
def test_a_page_whose_name_points_to_this_machine_reads_nothing_of_a_port_for_this_machine(
    server: Server, path: str
) -> None:
    for host in ("evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil.example", "local.com"):
        assert server.get(path, headers={"Host": host})[0] == 421
    for host in ("localhost:9090", "LOCALHOST", "127.0.0.1", "[::1]:9090", "host.docker.internal:9090", "a.localhost"):
        assert server.get(path, headers={"Host": host})[0] != 421


def test_the_names_of_a_port_for_others_are_theirs(tmp_path: Path) -> None:
    with Server(tmp_path, internal_host="0.0.0.0") as server:
        assert server.get("/livez", headers={"Host": "starling.shop.example:9090"})[0] == 200


def test_head_is_the_same_without_a_body(server: Server) -> None:
    for path in ("/livez", "/metrics"):
        status, body, headers = server.get(path, method="HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 10


def test_slow_clients_do_not_keep_others_out(server: Server) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.internal_port), timeout=20) for _ in range(70)]
    dripping, silent = slow[:10], slow[10:]
    for client in dripping:
        client.sendall(b"GET /livez HTTP/1.1\r\nX: ")
    assert server.get("/livez")[0] == 200, "though so many are open"
    deadline = time.monotonic() + DEADLINE
    open_still = list(dripping)
    while open_still and time.monotonic() < deadline:
        for client in list(open_still):
            try:
                client.sendall(b"x")
            except OSError:
                open_still.remove(client)
        time.sleep(0.1)
    assert not open_still
    for client in silent:
        assert client.recv(100) == b""
    for client in slow:
        client.close()
