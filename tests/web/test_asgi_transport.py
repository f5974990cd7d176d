"""Clients over plain ASGI, on servers that cannot hand a socket over. The server is a fake: a real one gives up, and
stops taking what is sent, at no moment that a test can choose.
"""

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import WebSocket

from starling.protocol.messages import Frame
from starling.web.asgi_stream import AsgiStreamTransport
from starling.web.asgi_transport import AsgiTransport
from starling.web.handoff import LoopTransport
from tests.support.waiting import until


class Server:
    """Takes one message, and the next when it is allowed to; the client sends nothing."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.takes = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("nothing comes")

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        await self.takes.wait()

    def has_got(self, count: int) -> bool:
        return len(self.sent) == count

    @property
    def payloads(self) -> list[Any]:
        return [message.get("bytes", message.get("body")) for message in self.sent]


class RecordingHandler(SimpleNamespace):
    """Ends the conversation at an overflow, after a last frame where a stream needs one."""

    transport: AsgiTransport

    def __init__(self) -> None:
        super().__init__(ends=[])

    def on_close(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))

    def on_overflow(self) -> None:
        if isinstance(self.transport, AsgiStreamTransport):
            self.transport.send_frame(Frame(b"goodbye", text=False))
        self.transport.close(3008, "slow")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def handler() -> RecordingHandler:
    return RecordingHandler()


@pytest.fixture(params=["websocket", "stream"])
async def transport(request: pytest.FixtureRequest, server: Server, handler: RecordingHandler) -> AsgiTransport:
    if request.param == "stream":
        handler.transport = AsgiStreamTransport(handler, 100, server.receive, server.send)
    else:
        websocket = WebSocket({"type": "websocket"}, server.receive, server.send)
        websocket.client_state = websocket.application_state = type(websocket.client_state).CONNECTED
        handler.transport = LoopTransport(websocket, handler, 100)
    return handler.transport


async def test_a_conversation_that_the_server_gives_up_is_reported_as_1006(
    transport: AsgiTransport, handler: RecordingHandler
) -> None:
    serving = asyncio.create_task(transport.run())
    await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving

    assert handler.ends == [(1006, "")]


async def test_a_slow_reader_gets_nothing_of_what_waits_but_the_end(
    transport: AsgiTransport, handler: RecordingHandler, server: Server
) -> None:
    serving = asyncio.create_task(transport.run())
    transport.send_frame(Frame(b"first", text=False))
    await until(lambda: server.payloads == [b"first"])
    for _ in range(3):
        transport.send_frame(Frame(b"x" * 40, text=False))
    server.takes.set()
    await serving

    goodbye = [b"goodbye", b""] if isinstance(transport, AsgiStreamTransport) else [None]
    assert server.payloads == [b"first", *goodbye]
    assert handler.ends == [(3008, "slow")]


async def test_what_has_left_does_not_wait(transport: AsgiTransport, handler: RecordingHandler, server: Server) -> None:
    server.takes.set()
    serving = asyncio.create_task(transport.run())
    for number in range(1, 4):
        transport.send_frame(Frame(b"x" * 90, text=False))
        await until(partial(server.has_got, number))
    transport.close(1000)
    await serving

    assert handler.ends == [(1000, "")]
