"""One test for each member of uvicorn, uvicorn-worker and gunicorn that the server layer uses and no manual promises.

A new version of one of them that moves such a member fails here by name, and not by a client that hangs.
"""

import asyncio
import inspect
import signal
from typing import Any

import gunicorn.arbiter
import gunicorn.glogging
import gunicorn.workers.base
import httptools
import pytest
import uvicorn
import uvicorn.server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

from starling.server.websocket import StarlingWebSocket
from tests.server.serving import frame, handshake


class Socket(asyncio.Transport):
    """Keeps what is written; a real socket is in the other tests."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False
        self.reading = True
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Endpoint:
    """Remembers how it was called, and does as the test says."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = messages
        self.scope: Any = None
        self.received: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.received.append(await receive())
        for message in self.messages:
            await send(message)


ACCEPT = {"type": "websocket.accept"}


def config_for(endpoint: Any) -> uvicorn.Config:
    config = uvicorn.Config(endpoint, log_config=None, ws_ping_interval=None, ws_per_message_deflate=False)
    config.load()
    return config


@pytest.fixture
def state() -> uvicorn.server.ServerState:
    return uvicorn.server.ServerState()


async def http(endpoint: Any, state: Any, kind: type[HttpToolsProtocol] = HttpToolsProtocol) -> HttpToolsProtocol:
    config = config_for(endpoint)
    config.ws_protocol_class = StarlingWebSocket
    protocol = kind(config=config, server_state=state, app_state={})
    protocol.connection_made(Socket())
    return protocol


REQUEST = b"GET /path?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER = (
    {"type": "http.response.start", "status": 204, "headers": []},
    {"type": "http.response.body", "body": b""},
)


async def test_the_http_cycle_has_the_members_in_use(state: Any) -> None:
    protocol = await http(Endpoint(*ANSWER), state)
    assert protocol.cycle is None
    protocol.data_received(REQUEST)
    assert not protocol.cycle.response_complete
    await asyncio.gather(*state.tasks)
    assert protocol.cycle.response_complete
    protocol._unset_keepalive_if_required()


async def test_http_headers_parser_and_url(state: Any) -> None:
    protocol = await http(Endpoint(*ANSWER), state)
    protocol.parser.feed_data(REQUEST)
    assert protocol.headers == [(b"host", b"localhost")]
    assert protocol.url == b"/path?x=1"
    await asyncio.gather(*state.tasks)
    protocol._unset_keepalive_if_required()


async def test_http_on_message_begin_and_on_headers_complete_frame_the_head(state: Any) -> None:
    class Watched(HttpToolsProtocol):
        def on_message_begin(self) -> None:
            calls.append("begin")
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            calls.append("complete")
            super().on_headers_complete()

    calls: list[str] = []
    protocol = await http(Endpoint(*ANSWER), state, Watched)
    protocol.data_received(REQUEST[:10])
    assert calls == ["begin"]
    protocol.data_received(REQUEST[10:])
    assert calls == ["begin", "complete"]
    await asyncio.gather(*state.tasks)
    protocol._unset_keepalive_if_required()


async def test_http_on_message_complete_ends_a_body_and_a_cycle_can_learn_that_its_client_is_gone(state: Any) -> None:
    class Watched(HttpToolsProtocol):
        def on_message_complete(self) -> None:
            calls.append("complete")
            super().on_message_complete()

    calls: list[str] = []
    endpoint = Endpoint(*ANSWER)
    protocol = await http(endpoint, state, Watched)
    protocol.data_received(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n")
    protocol.data_received(b"o")
    assert calls == []
    protocol.data_received(b"k")
    assert calls == ["complete"]
    protocol.data_received(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n")
    assert len(protocol.pipeline) == 1
    assert protocol.flow.read_paused
    await asyncio.gather(*state.tasks)
    assert not protocol.pipeline
    assert not protocol.flow.read_paused
    assert not protocol.cycle.response_started
    protocol.cycle.disconnected = True
    protocol.cycle.message_event.set()
    await asyncio.gather(*state.tasks)
    assert endpoint.received[-1]["type"] == "http.disconnect"
    written: Any = protocol.transport
    assert written.written.count(b"HTTP/1.1 204") == 1
    protocol._unset_keepalive_if_required()


async def test_http_eof_received_may_keep_a_socket_for_the_answer_and_keep_alive_closes_it(state: Any) -> None:
    protocol = await http(Endpoint(*ANSWER), state)
    protocol.data_received(REQUEST)
    protocol.eof_received()
    protocol.cycle.keep_alive = False
    assert protocol.cycle.chunked_encoding is None
    await asyncio.gather(*state.tasks)
    written: Any = protocol.transport
    assert b"connection: close" in written.written
    assert written.closing


async def test_http_on_response_complete_goes_on_with_the_pipelines_oldest(state: Any) -> None:
    class Watched(HttpToolsProtocol):
        def on_response_complete(self) -> None:
            waiting.append([cycle for cycle, _ in self.pipeline])
            super().on_response_complete()

    waiting: list[list[Any]] = []
    protocol = await http(Endpoint(*ANSWER), state, Watched)
    protocol.data_received(REQUEST * 3)
    (second, _), (third, _) = reversed(protocol.pipeline)
    while not third.response_complete:
        await asyncio.gather(*state.tasks)
    assert waiting == [[third, second], [third], []]
    protocol._unset_keepalive_if_required()


async def test_http_start_asgi_task_begins_a_request_and_a_queued_one(state: Any) -> None:
    class Watched(HttpToolsProtocol):
        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            begun.append(cycle)
            super()._start_asgi_task(cycle, app)

    begun: list[Any] = []
    protocol = await http(Endpoint(*ANSWER), state, Watched)
    protocol.data_received(REQUEST * 2)
    ((second, _),) = protocol.pipeline
    assert len(begun) == 1
    while not second.response_complete:
        await asyncio.gather(*state.tasks)
    assert begun[1] is second
    protocol._unset_keepalive_if_required()


async def test_http_scope_takes_headers_and_url_as_on_headers_complete_leaves_them(state: Any) -> None:
    class Changing(HttpToolsProtocol):
        def on_headers_complete(self) -> None:
            self.url = b"/other"
            self.headers[:] = [(b"host", b"other")]
            super().on_headers_complete()

    protocol = await http(Endpoint(*ANSWER), state, Changing)
    protocol.data_received(REQUEST)
    assert (protocol.scope["path"], protocol.scope["headers"]) == ("/other", [(b"host", b"other")])
    await asyncio.gather(*state.tasks)
    protocol._unset_keepalive_if_required()


async def test_http_an_exception_in_on_headers_complete_ends_the_parsing(state: Any) -> None:
    class Watched(HttpToolsProtocol):
        def on_headers_complete(self) -> None:
            raise ValueError

    protocol = await http(Endpoint(), state, Watched)
    protocol.data_received(REQUEST)
    written: Any = protocol.transport
    assert written.written.startswith(b"HTTP/1.1 400")
    assert not state.tasks


async def test_http_unset_keepalive_if_required(state: Any) -> None:
    protocol = await http(Endpoint(*ANSWER), state)
    protocol.data_received(REQUEST)
    await asyncio.gather(*state.tasks)
    assert protocol.timeout_keep_alive_task is not None
    protocol._unset_keepalive_if_required()
    assert protocol.timeout_keep_alive_task is None


async def test_http_on_body_takes_the_body_and_a_response_arms_the_timer_of_an_idle_connection(state: Any) -> None:
    protocol = await http(Endpoint(*ANSWER), state)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    assert protocol.expect_100_continue
    assert not protocol.flow.write_paused
    protocol.pause_writing()
    assert protocol.flow.write_paused
    protocol.resume_writing()
    assert not protocol.flow.write_paused
    protocol.flow.pause_reading()
    assert protocol.flow.read_paused
    protocol.flow.resume_reading()
    protocol.on_body(b"body")
    assert protocol.cycle.body == b"body"
    assert protocol.timeout_keep_alive_task is None
    await asyncio.gather(*state.tasks)
    assert protocol.timeout_keep_alive_task is not None
    assert protocol.timeout_keep_alive_task.when() - protocol.loop.time() <= protocol.timeout_keep_alive
    assert protocol.server_state.total_requests == 1
    protocol._unset_keepalive_if_required()
    assert protocol.timeout_keep_alive_task is None
    protocol.timeout_keep_alive_handler()
    assert protocol.transport.is_closing()


async def test_http_should_upgrade_and_what_of_the_request_makes_a_scope(state: Any) -> None:
    endpoint = Endpoint()
    protocol = await http(endpoint, state)
    with pytest.raises(httptools.HttpParserUpgrade):
        protocol.parser.feed_data(handshake("/ws?x=1", "X-Name: value"))
    assert protocol._should_upgrade()
    assert (protocol.url, protocol.parser.get_method()) == (b"/ws?x=1", b"GET")
    assert protocol.headers[-1] == (b"x-name", b"value")
    assert (protocol.root_path, protocol.scheme, protocol.client, protocol.server) == ("", "http", None, None)
    assert (protocol.app_state, protocol.asgi_version) == ({}, "3.0")
    wrapped: Any = protocol.app
    assert wrapped.app is endpoint, "the application within uvicorn's proxy headers"
    assert (protocol.connections, protocol.tasks) == (state.connections, state.tasks)
    assert protocol.server_state.default_headers == []
    assert not state.tasks, "nothing was begun"


async def test_http_shutdown_closes_what_is_idle(state: Any) -> None:
    protocol = await http(Endpoint(), state)
    protocol.shutdown()
    assert protocol.transport.is_closing()


async def test_http_connection_made_and_lost(state: Any) -> None:
    protocol = await http(Endpoint(), state)
    assert protocol in state.connections
    protocol.connection_lost(None)
    assert protocol not in state.connections


class Lifespan:
    """An application that starts and ends as requested."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})


@pytest.fixture
async def server() -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(Lifespan(), port=0, log_config=None))


async def test_server_handle_exit_is_what_signals_call_and_should_exit_ends_the_main_loop(
    server: uvicorn.Server,
) -> None:
    with server.capture_signals():
        for sig in (signal.SIGTERM, signal.SIGINT):
            assert getattr(signal.getsignal(sig), "__func__", None) is uvicorn.Server.handle_exit
    server.should_exit = True
    await asyncio.wait_for(server.main_loop(), 1)


async def test_server_on_tick_ends_the_main_loop(server: uvicorn.Server) -> None:
    assert not await server.on_tick(1)
    server.should_exit = True
    assert await server.on_tick(1)


async def test_server_shutdown_servers_and_connections(server: uvicorn.Server) -> None:
    class Connection:
        def shutdown(self) -> None:
            connections.clear()

    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    assert all(listener.is_serving() for listener in server.servers)
    connections: Any = server.server_state.connections
    connections.add(Connection())
    await server.shutdown()
    assert not connections
    assert not any(listener.is_serving() for listener in server.servers)


@pytest.mark.parametrize(
    "member", ["config", "init_process", "init_signals", "notify", "run", "_serve", "callback_notify", "CONFIG_KWARGS"]
)
def test_the_worker_has_each_member_in_use(member: str) -> None:
    source = inspect.getsource(UvicornWorker) + inspect.getsource(gunicorn.workers.base.Worker)
    assert hasattr(UvicornWorker, member) or f"self.{member} = " in source


def test_worker_takes_its_settings_from_config_kwargs() -> None:
    assert "config_kwargs.update(self.CONFIG_KWARGS)" in inspect.getsource(UvicornWorker.__init__)


def test_worker_is_made_with_the_application() -> None:
    parameters = list(inspect.signature(gunicorn.workers.base.Worker.__init__).parameters)
    assert parameters == ["self", "age", "ppid", "sockets", "app", "timeout", "cfg", "log"]


@pytest.mark.parametrize(
    "member",
    [
        "WORKERS",
        "handle_int",
        "handle_quit",
        "handle_term",
        "kill_workers",
        "reap_workers",
        "signal",
        "spawn_worker",
        "stop",
    ],
)
def test_the_arbiter_has_each_member_in_use(member: str) -> None:
    assert hasattr(gunicorn.arbiter.Arbiter, member)


def test_arbiter_heartbeats_are_seconds_of_the_monotonic_clock() -> None:
    assert "time.monotonic() - worker.tmp.last_update()" in inspect.getsource(gunicorn.arbiter.Arbiter.murder_workers)


def test_gunicorn_logger_sets_its_handlers_up_in_setup_alone() -> None:
    assert "Handler" not in inspect.getsource(gunicorn.glogging.Logger.__init__)


def test_frames_of_this_test_are_masked() -> None:
    assert frame(1, b"x") == b"\x81\x81\0\0\0\0x"
