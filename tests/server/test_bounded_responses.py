"""Responses over HTTP to clients that do not read: what waits for all of them is bounded, and one waits at a time."""

import contextlib
import re
from itertools import groupby
from pathlib import Path

import pytest

from tests.server.application import WHOLE_BYTES
from tests.server.serving import Client, InProcess, until

BUDGET = 3 * 2**20
CLIENTS = 12


def ask(client: Client, path: str = "/whole", *headers: str) -> None:
    fields = "".join(f"{header}\r\n" for header in headers)
    client.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())


def answered(server: InProcess) -> None:
    """Another client is served."""
    with Client(server.port) as other:
        ask(other, "/")
        other.read_head()
        assert other.status == 200


def got_all(client: Client) -> bool:
    with contextlib.suppress(EOFError, ConnectionResetError):
        client.read_head()
        return len(client._take(WHOLE_BYTES)) == WHOLE_BYTES
    return False


@pytest.mark.parametrize("header", ["Connection: keep-alive", "Connection: close"])
def test_beyond_the_budget_those_that_read_nothing_are_cut_and_others_are_served(tmp_path: Path, header: str) -> None:
    with InProcess(tmp_path, waiting_budget_bytes=BUDGET) as server, contextlib.ExitStack() as opened:
        clients = [opened.enter_context(Client(server.port, receive_buffer=4096)) for _ in range(CLIENTS)]
        for client in clients:
            ask(client, "/whole", header)
        until(lambda: len(server.events("whole_begun")) == CLIENTS, "all are answered")
        answered(server)
        kept = [got_all(client) for client in clients]
        assert 0 < kept.count(True) < CLIENTS - 2
        # A response that ends its connection is the last anyway: these are cut without a line of their own.
        assert bool(server.events("waiting_bytes_over_budget")) is (header == "Connection: keep-alive")
        assert server.problems == []


def test_requests_behind_a_response_that_is_not_read_are_not_begun_before_it_is(tmp_path: Path) -> None:
    requests = 4
    with InProcess(tmp_path) as server, Client(server.port, receive_buffer=4096) as client:
        for _ in range(requests):
            ask(client)
        until(lambda: server.events("whole_begun"), "the first is answered")
        answered(server)
        assert len(server.events("whole_begun")) == 1
        assert [got_all(client) for _ in range(requests)] == [True] * requests
        ask(client, "/")
        client.read_head()
        assert client.status == 200


def test_requests_that_come_at_once_get_their_responses_in_order_though_the_client_reads_late(tmp_path: Path) -> None:
    small, paths = 1500, ["/direct/now", "/large", "/scope?1", "/scope?2"]
    requests = [f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in [paths[0]] * small + paths[1:]]
    with InProcess(tmp_path) as server, Client(server.port, receive_buffer=4096) as client:
        client.socket.sendall("".join(requests).encode())
        answered(server)
        kinds = []
        for _ in requests:
            client.read_head()
            length = re.search(r"content-length: (\d+)", client.head)
            assert client.status == 200
            assert length is not None, client.head
            kinds.append(client._take(int(length[1]))[:30])
        # What comes while the first responses wait is answered by the application, after them.
        direct, application, *others = groupby(kinds)
        assert (direct[0], application[0]) == (b"direct 0", b"ok")
        assert [kind for kind, _ in others] == [
            bytes(30),
            b'{"path": "/scope", "query": "1',
            b'{"path": "/scope", "query": "2',
        ]
