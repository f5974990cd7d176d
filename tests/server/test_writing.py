"""What is written to a peer that reads slowly keeps its order; of one that is gone, metrics and log report it."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from starling.client.client_connection import JsonConnection
from starling.main import build_application
from starling.protocol.messages import Batch, Frame
from starling.server.client_socket import Flusher
from starling.server.options import ServerOptions
from starling.server.transport import WebSocketTransport
from starling.settings import load_settings
from tests.support.waiting import DEADLINE

WRITE_LIMIT = 64 * 2**20


class Client:
    """A peer as a bare socket, and this side of it: a real-time client on the server's transport."""

    def __init__(
        self, connection: JsonConnection, transport: WebSocketTransport, peer: socket.socket, number: int
    ) -> None:
        """`number` is this side's file descriptor."""
        self.connection = connection
        self.transport = transport
        self.peer = peer
        self.number = number

    def read(self, timeout: float = 0.0) -> bytes:
        """What the kernel holds for the peer, taken without letting the loop run: it may hold more a moment later."""
        self.peer.settimeout(timeout)
        pieces: list[bytes] = []
        with contextlib.suppress(BlockingIOError, TimeoutError):
            while piece := self.peer.recv(2**20):
                pieces.append(piece)
        return b"".join(pieces)

    def reset(self) -> None:
        """The peer's kernel answers with a RST, which is here at once: both are on this machine."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()

    async def ended(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.connection.close_code is None:
                await asyncio.sleep(0.01)


async def accepted(flusher: Flusher) -> tuple[asyncio.Transport, WebSocketTransport, socket.socket, int]:
    """The socket of a new connection, a transport on it, its peer, and the descriptor of this side."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        this, _ = listener.accept()
    this.settimeout(0)
    number = this.fileno()
    raw, _ = await loop.connect_accepted_socket(asyncio.Protocol, this)
    transport = WebSocketTransport(
        raw,
        lambda: b"",
        loop=loop,
        connections=set(),
        flusher=flusher,
        options=ServerOptions(close_seconds=1),
        on_refused=lambda reason, **seen: None,
        deflater=None,
    )
    return raw, transport, peer, number


@pytest.fixture
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A client whose write limit is the fixture's parameter, if it has one."""
    raw, transport, peer, number = await accepted(Flusher())
    connection = client_of(transport, getattr(request, "param", WRITE_LIMIT))
    await asyncio.sleep(0)
    yield Client(connection, transport, peer, number)
    peer.close()
    raw.abort()
    await asyncio.sleep(0)


def client_of(transport: WebSocketTransport, write_limit: int) -> JsonConnection:
    """A real-time client that has the transport."""
    context = build_application(load_settings({"STARLING_DEV": "true"}), CollectorRegistry()).context
    connection = JsonConnection(context.dispatcher, None)
    connection.open(transport, "127.0.0.1")
    transport.detach(connection, write_limit=write_limit)
    return connection


def in_one_tick(transport: WebSocketTransport, frame: Frame) -> None:
    transport.send_frame(frame)
    transport.flush()


def at_once(transport: WebSocketTransport, frame: Frame) -> None:
    transport.send_batch(Batch([frame]))


@pytest.mark.parametrize("send", [in_one_tick, at_once])
async def test_what_comes_lines_up_behind_what_waits_though_the_kernel_has_room_again(
    client: Client, send: Callable[[WebSocketTransport, Frame], None]
) -> None:
    transport, sent = client.transport, bytearray()

    def say(text: bytes) -> None:
        frame = Frame(text, text=True)
        sent.extend(frame.wire)
        send(transport, frame)

    while not transport.waiting_bytes:
        say(b"%09d" % len(sent) + b"x" * 100_000)
    received = client.read(timeout=0.2)
    assert transport.waiting_bytes, "the loop has run"

    say(b"behind what waits")
    async with asyncio.timeout(DEADLINE):
        while transport.waiting_bytes:
            await asyncio.sleep(0.01)
            received += client.read()
    say(b"nothing waits any more")
    received += client.read(timeout=0.2)

    assert received == sent


# More than the kernel takes of a peer on this machine that does not read.
LARGE = Frame(bytes(2**24), text=False)


@pytest.mark.parametrize("send", [in_one_tick, at_once])
@pytest.mark.parametrize("client", [2**16], indirect=True)
async def test_one_message_beyond_the_write_limit_ends_nobody_and_what_comes_while_it_waits_does(
    client: Client, send: Callable[[WebSocketTransport, Frame], None]
) -> None:
    transport = client.transport
    send(transport, LARGE)
    assert transport.waiting_bytes > 2**16
    assert not transport.closing

    in_one_tick(transport, Frame(b"more", text=True))
    assert transport.closing


@pytest.mark.parametrize("client", [2**16], indirect=True)
async def test_many_answers_at_once_beyond_the_write_limit_end_their_client(client: Client) -> None:
    for _ in range(2):
        client.transport.send_frame(LARGE)
    client.transport.flush()
    assert client.transport.closing


@pytest.mark.parametrize("client", [2**16], indirect=True)
async def test_many_messages_at_once_beyond_the_write_limit_end_their_client(client: Client) -> None:
    client.transport.send_batch(Batch([LARGE, LARGE]))
    assert client.transport.closing


async def test_a_response_that_waits_when_its_connection_is_handed_over_counts_for_the_client() -> None:
    flusher = Flusher()
    raw, transport, peer, _ = await accepted(flusher)
    raw.write(LARGE.wire)
    waiting = raw.get_write_buffer_size()
    assert waiting > 2**16, "the protocol before was asked to pause"
    client_of(transport, WRITE_LIMIT)
    assert flusher.waiting == {transport}
    assert transport.own_waiting_bytes == waiting
    raw.abort()
    peer.close()
    await asyncio.sleep(0)
    assert flusher.waiting == set()


async def test_a_client_gone_when_written_to_is_3009_in_numbers_and_log(client: Client) -> None:
    with capture_logs() as lines:
        client.reset()
        # Before the loop has looked at the socket, which would report the loss first.
        client.connection.send(Frame(b"news", text=True))
        client.transport.flush()
        await client.ended()

    assert +client.connection.stats.closed == {3009: 1}
    (line,) = [line for line in lines if line["event"] == "client_disconnected"]
    assert (line["code"], line["reason"]) == (3009, "write error")


async def test_a_client_that_is_gone_when_nothing_was_written_is_3000(client: Client) -> None:
    client.reset()
    await client.ended()

    assert +client.connection.stats.closed == {3000: 1}


@pytest.mark.parametrize("send", [in_one_tick, at_once])
async def test_a_socket_that_gets_the_number_of_one_that_is_gone_receives_nothing_meant_for_that(
    client: Client, send: Callable[[WebSocketTransport, Frame], None]
) -> None:
    client.reset()
    await client.ended()
    with contextlib.ExitStack() as stack:
        receives: dict[int, socket.socket] = {}
        while client.number not in receives:
            assert len(receives) < 100, "the number of the closed socket is free"
            one, other = (stack.enter_context(end) for end in socket.socketpair())
            receives |= {one.fileno(): other, other.fileno(): one}

        send(client.transport, Frame(b"for who is gone", text=True))

        receives[client.number].settimeout(0)
        with pytest.raises(BlockingIOError):
            receives[client.number].recv(1000)


async def test_a_client_that_says_goodbye_keeps_its_own_code(client: Client) -> None:
    client.peer.sendall(b"\x88\x82" + bytes(4) + struct.pack("!H", 1001))
    await client.ended()

    assert +client.connection.stats.closed == {1001: 1}
