"""SIGTERM with two thousand open streams: each ends with the push that says why, and the process in bounded time."""

import selectors
import socket
from itertools import cycle, islice

import pytest

from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.streams import encoded, post

pytestmark = [pytest.mark.processes, pytest.mark.long]

STREAMS = 2_000
DRAIN = 5
PATHS = ("/connection/http_stream", "/connection/sse")
# The drain, the last writes and the end of two workers; a stream that is forgotten holds them for minutes.
MOST_SECONDS = DRAIN + 15


def open_streams(port: int) -> list[socket.socket]:
    """That many streams, connected each."""
    command = encoded({"id": 1, "connect": {}})
    streams = []
    for path in islice(cycle(PATHS), STREAMS):
        stream = socket.create_connection(("127.0.0.1", port))
        stream.sendall(post(path, command))
        streams.append(stream)
    for stream in streams:
        head = b""
        while b'"connect"' not in head:
            head += stream.recv(4096)
    return streams


def read_to_the_end(streams: list[socket.socket]) -> list[bytes]:
    """What comes of each until it ends."""
    read = dict.fromkeys(streams, b"")
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(MOST_SECONDS)
            assert ready, f"{len(selector.get_map())} streams do not end"
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                piece = key.fileobj.recv(65536)
                read[key.fileobj] += piece
                if not piece:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
    return list(read.values())


def test_two_thousand_streams_end_with_their_reason_when_the_service_stops(redis_server: RedisServer) -> None:
    settings = {
        "STARLING_DEV": "true",
        "STARLING_WORKERS": "2",
        "STARLING_BROKER_URL": redis_server.url,
        "STARLING_DRAIN_SECONDS": str(DRAIN),
        "STARLING_CONNECTS_PER_SECOND": "0",
        "STARLING_WORKER_CONNECTIONS_PER_ADDRESS": "0",
    }
    with Starling(settings) as starling:
        streams = open_streams(starling.port)
        starling.process.terminate()
        ends = read_to_the_end(streams)
        assert sum(b'"code":3001' in end and end.endswith(b"0\r\n\r\n") for end in ends) == STREAMS
        assert starling.process.wait(MOST_SECONDS) == 0
