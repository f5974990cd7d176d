"""Streamed transports of a service in a user's application, under `starling serve` and under plain uvicorn."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.conversation import EMULATED, Conversation
from tests.support.services import free_port
from tests.support.streams import EventStream, JsonStream, Stream, get, post
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.processes

APPLICATION = """
from fastapi import FastAPI
from starling import Starling

realtime = Starling()
app = FastAPI(lifespan=realtime.lifespan)
app.include_router(realtime.router)

@app.get("/own")
def own():
    return "own"
"""


class Server:
    """A server of the application above."""

    def __init__(self, directory: Path, kind: str) -> None:
        (directory / "own_app.py").write_text(APPLICATION)
        (directory / "channels.yaml").write_text("namespaces: {answers: {stream: text}}")
        self.port, internal = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        commands = {
            "starling serve": ["starling", "serve", "own_app:app"],
            "uvicorn": ["uvicorn", "own_app:app", "--port", str(self.port), "--log-level", "warning"],
        }
        program, *arguments = commands[kind]
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name(program)), *arguments],
                cwd=directory,
                env={
                    **os.environ,
                    "STARLING_DEV": "true",
                    "STARLING_CHANNELS_FILE": str(directory / "channels.yaml"),
                    "STARLING_PORT": str(self.port),
                    "STARLING_INTERNAL_PORT": str(internal),
                    "STARLING_DRAIN_DELAY_SECONDS": "0",
                    "STARLING_DRAIN_SECONDS": "0",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._until_ready()

    def _until_ready(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                with Stream(self.port, post("/readyz", b"", method="GET")) as response:
                    if response.status == 200:
                        return
            except OSError:
                pass
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


@pytest.fixture(scope="module", params=["starling serve", "uvicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("own"), request.param)
    yield server
    server.end()


@pytest.mark.parametrize("transport", EMULATED)
def test_a_stream_and_its_commands_work_as_in_a_service_of_its_own(server: Server, transport: str) -> None:
    with Conversation(transport, server.port) as client:
        client.connected()
        assert "subscribe" in client.call("subscribe", channel="demo:own")
        assert client.call("publish", channel="demo:own", data={"n": 1})["publish"] == {}
        assert client.push()["data"] == {"n": 1}
        client.write(b"\xff" if client.protobuf else b"{")
        assert client.end() == (3501, "bad request")


def test_a_reader_of_events_and_a_one_way_client_are_served_too(server: Server) -> None:
    bare = post("/connection/uni_http_stream", b'{"subs": {"demo:own": {}}}')
    with (
        EventStream(server.port, get("/sse/demo%3Aown")).opened() as reader,
        JsonStream(server.port, bare) as one_way,
        Conversation("http_stream", server.port) as publisher,
    ):
        assert list(one_way.reply()["connect"]["subs"]) == ["demo:own"]
        publisher.connected()
        publisher.call("subscribe", channel="demo:own")
        publisher.call("publish", channel="demo:own", data="to all")
        assert reader.data(1) == ["to all"]
        while "pub" not in (push := one_way.reply()):
            pass
        assert push["pub"]["data"] == "to all"


def test_append_only_streams_are_served_over_http_too(server: Server) -> None:
    path = f"{server.address}/streams/answers:own"
    key, origin = {"X-API-Key": "dev"}, {"Origin": server.address}
    assert httpx2.put(path, content=b"a", headers={**key, "Content-Type": "text/plain"}).status_code == 201
    assert httpx2.post(path, content=b"b", headers={**key, "Content-Type": "text/plain"}).status_code == 204
    read = httpx2.get(path, params={"offset": "-1"}, headers=origin)
    assert (read.text, read.headers["access-control-allow-origin"]) == ("ab", server.address)
    assert httpx2.head(path, headers=key).headers["content-type"].startswith("text/plain")
    preflight = httpx2.options(path, headers={**origin, "Access-Control-Request-Method": "PUT"})
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    assert httpx2.delete(path, headers=key).status_code == 204
    assert httpx2.get(path, headers=key).status_code == 404


def test_a_request_that_does_not_fit_is_refused(server: Server) -> None:
    for request, status in (
        (post("/connection/http_stream", b"{}", method="PUT"), 405),
        (post("/connection/http_stream", b"no command"), 400),
        (post("/connection/http_stream", b" " * 70_000), 413),
        (post("/connection/sse", b"", method="GET"), 400),
        (post("/connection/sse", b"", method="HEAD"), 200),
        (post("/emulation", b"{}"), 400),
        (get("/sse"), 400),
        (get("/sse/demo:own", "Accept: application/json"), 406),
        (post("/connection/http_stream", b"", "Origin: https://stranger.example"), 400),
    ):
        with Stream(server.port, request) as response:
            assert response.status == status, request


def test_a_stop_ends_open_streams_with_a_push_and_the_process_with_them(server: Server) -> None:
    clients = [Conversation(transport, server.port) for transport in EMULATED for _ in range(5)]
    for client in clients:
        client.connected()
    reader = EventStream(server.port, get("/sse/demo:own")).opened()
    server.process.send_signal(signal.SIGTERM)
    assert reader.event().type == "disconnect"
    reader.socket.close()
    for client in clients:
        assert client.end() == (3001, "shutdown")
        client.close()
    server.end()
