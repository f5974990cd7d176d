"""A slow, dead or poisonous client costs bounded memory, is gone in bounded time, and nobody else notices."""

import asyncio
import base64
import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.history_clients import HistoryClient
from tests.support.running import Starling
from tests.support.waiting import DEADLINE, StepClock
from tests.system.bystander import bystander

OTHERS = 50
MESSAGES = 200
PAYLOAD = "x" * 4096
PING, PONG, CLOSE = 3, 1, 3
# The timer wheel turns once a second, and numbers are carried over once a second.
GONE_WITHIN = PING + PONG + CLOSE + 3
MOST_GROWTH = 64 * 2**20


@pytest.fixture(scope="module")
def starling() -> Iterator[Starling]:
    """One worker on memory that pings often and lets little wait for a slow reader."""
    settings = {
        "STARLING_DEV": "true",
        "STARLING_PING_SECONDS": str(PING),
        "STARLING_PONG_SECONDS": str(PONG),
        "STARLING_WRITE_BUFFER_BYTES": str(256 * 1024),
    }
    with Starling(settings) as running:
        yield running


def frame(opcode: int, payload: bytes, *, fin: bool = True, length: int | None = None) -> bytes:
    """A client's frame, masked with zeros; `length` claims more than there is."""
    size = len(payload) if length is None else length
    if size < 126:
        head = bytes([opcode | 0x80 * fin, 0x80 | size])
    elif size < 65536:
        head = bytes([opcode | 0x80 * fin, 0x80 | 126]) + struct.pack("!H", size)
    else:
        head = bytes([opcode | 0x80 * fin, 0x80 | 127]) + struct.pack("!Q", size)
    return head + bytes(4) + payload


def handshake(starling: Starling, path: str, *headers: str, receive_buffer: int = 0) -> socket.socket:
    """An open WebSocket as a bare socket, which does nothing that the test does not do."""
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(10)
    client.connect(("127.0.0.1", starling.port))
    key = base64.b64encode(os.urandom(16)).decode()
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    request += "".join(f"{header}\r\n" for header in headers)
    client.sendall(f"{request}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = client.recv(1)
        assert piece, answer
        answer += piece
    assert b" 101 " in answer
    return client


def reset(client: socket.socket) -> None:
    """Close with a RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def figure(starling: Starling, name: str) -> float:
    return starling.metrics().get(name, 0.0)


async def until_at_least(starling: Starling, name: str, wanted: float, seconds: float) -> None:
    with StepClock() as clock:
        while (value := await asyncio.to_thread(figure, starling, name)) < wanted:
            assert clock.seconds < seconds, f"{name} is {value}, not {wanted}"
            await asyncio.sleep(0.1)


async def test_a_reader_that_stops_in_the_chat_is_cut_and_fifty_others_receive_everything(starling: Starling) -> None:
    code = 'starling_connections_closed_total{code="1013",transport="chat"}'
    before, memory = figure(starling, code), figure(starling, "starling_worker_resident_memory_bytes")
    stuck = await asyncio.to_thread(handshake, starling, "/ws/999", receive_buffer=4096)
    async with AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(connect(f"{starling.url}/ws/{number}", max_queue=None))
            for number in range(OTHERS)
        ]

        logs: list[list[str]] = [[] for _ in others]

        async def receive(client: ClientConnection, received: list[str]) -> None:
            while len(received) < MESSAGES:
                _, says, words = str(await client.recv()).partition(" says: ")
                if says:
                    received.append(words.removesuffix(PAYLOAD).strip())

        async with asyncio.timeout(60), asyncio.TaskGroup() as receiving:
            for client, received in zip(others, logs, strict=True):
                receiving.create_task(receive(client, received))
            for number in range(MESSAGES):
                await others[0].send(f"{number} {PAYLOAD}")
                # The others share one CPU with this test, and must not seem slow for that.
                while min(map(len, logs)) < number - 10:
                    await asyncio.sleep(0.005)

    assert logs == [[str(number) for number in range(MESSAGES)]] * OTHERS
    await until_at_least(starling, code, before + 1, GONE_WITHIN)
    assert figure(starling, "starling_worker_resident_memory_bytes") - memory < MOST_GROWTH
    stuck.close()


async def test_a_reader_that_stops_on_the_protocol_endpoint_is_cut_with_3008_and_fifty_others_receive_everything(
    starling: Starling,
) -> None:
    code = 'starling_connections_closed_total{code="3008",transport="json"}'
    before, memory = figure(starling, code), figure(starling, "starling_worker_resident_memory_bytes")
    stuck = await asyncio.to_thread(handshake, starling, "/connection/websocket", receive_buffer=4096)
    stuck.sendall(frame(1, b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"room"}}'))
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(HistoryClient(starling.url)) for _ in range(OTHERS)]
        for client in others:
            await client.subscribe("room")
        for number in range(MESSAGES):
            await others[0].call("publish", {"channel": "room", "data": [number, PAYLOAD]})
        async with asyncio.timeout(DEADLINE):
            while any(len(client.ledgers["room"].data) < MESSAGES for client in others):
                await asyncio.sleep(0.05)
        logs = [[number for number, _ in client.ledgers["room"].data] for client in others]
        closed = [code for client in others for code in client.ledgers["room"].closed]

    assert logs == [list(range(MESSAGES))] * OTHERS
    assert closed == []
    await until_at_least(starling, code, before + 1, GONE_WITHIN)
    assert figure(starling, "starling_worker_resident_memory_bytes") - memory < MOST_GROWTH
    stuck.close()


async def test_peers_that_fall_silent_are_gone_within_ping_pong_and_grace(starling: Starling) -> None:
    # A stopped client's kernel goes on acknowledging, just as for these sockets, which nobody reads or answers.
    web_context = {
        "/ws": 'starling_connections_closed_total{code="1008",transport="echo"}',
        "/connection/websocket": 'starling_connections_closed_total{code="3012",transport="json"}',
    }
    before = {name: figure(starling, name) for name in web_context.values()}
    silent = []
    async with bystander(starling):
        for path in web_context:
            for _ in range(20):
                client = await asyncio.to_thread(handshake, starling, path)
                if path == "/connection/websocket":
                    client.sendall(frame(1, b'{"id":1,"connect":{}}'))
                silent.append(client)

        for name in web_context.values():
            await until_at_least(starling, name, before[name] + 20, 2 * GONE_WITHIN)
    for client in silent:
        client.close()


async def test_thirty_great_unfinished_messages_are_refused_and_cost_no_memory(starling: Starling) -> None:
    name = 'starling_connections_refused_total{reason="message_too_large"}'
    before, memory = figure(starling, name), figure(starling, "starling_worker_resident_memory_bytes")
    async with bystander(starling) as waits:
        for _ in range(30):
            client = await asyncio.to_thread(handshake, starling, "/ws")
            with contextlib.suppress(OSError):
                await asyncio.to_thread(client.sendall, frame(1, bytes(2**20), fin=False, length=15 * 2**20))
            client.close()
        await until_at_least(starling, name, before + 30, 10)
    assert figure(starling, "starling_worker_resident_memory_bytes") - memory < MOST_GROWTH
    assert max(waits) < 2


PINGS = frame(9, b"ping") * 20_000
EMPTY_FRAGMENTS = frame(1, b"", fin=False) + frame(0, b"", fin=False) * 20_000


@pytest.mark.parametrize(
    ("flood", "reason"), [(PINGS, "control_flood"), (EMPTY_FRAGMENTS, "message_too_large")], ids=["pings", "empty"]
)
async def test_a_flood_of_frames_that_say_nothing_is_cut(starling: Starling, flood: bytes, reason: str) -> None:
    name = f'starling_connections_refused_total{{reason="{reason}"}}'
    before = figure(starling, name)
    async with bystander(starling) as waits:
        for _ in range(10):
            client = await asyncio.to_thread(handshake, starling, "/ws")
            with contextlib.suppress(OSError):
                await asyncio.to_thread(client.sendall, flood)
            client.close()
        await until_at_least(starling, name, before + 10, 10)
    assert max(waits) < 2


TEXTS = 300_000
FLOODS = {
    "/ws": (b"x", 'starling_connections_closed_total{code="1008",transport="echo"}'),
    "/items/plumbus/ws?token=t": (b"x", 'starling_connections_closed_total{code="1008",transport="items"}'),
    "/ws/666": (b"x", 'starling_connections_closed_total{code="1008",transport="chat"}'),
    "/connection/websocket": (
        b'{"id":1,"ping":{}}',
        'starling_connections_closed_total{code="3013",transport="json"}',
    ),
}


@pytest.fixture(scope="module")
def roomy() -> Iterator[Starling]:
    """One worker that lets much wait for a reader: a flooder reads its answers, if not as fast as they come."""
    settings = {
        "STARLING_DEV": "true",
        "STARLING_WRITE_BUFFER_BYTES": str(48 * 2**20),
        "STARLING_MESSAGES_PER_SECOND": "1000",
        "STARLING_MESSAGE_BURST": "20000",
    }
    with Starling(settings) as running:
        yield running


@pytest.mark.parametrize(
    "path",
    [
        *("/ws/666", "/connection/websocket"),
        *(pytest.param(path, marks=pytest.mark.long) for path in ("/ws", "/items/plumbus/ws?token=t")),
    ],
)
async def test_a_flood_of_tiny_messages_is_cut_at_the_rate_that_is_allowed(roomy: Starling, path: str) -> None:
    text, name = FLOODS[path]
    before, memory = figure(roomy, name), figure(roomy, "starling_worker_resident_memory_bytes")
    flooder = await asyncio.to_thread(handshake, roomy, path)
    flooder.settimeout(None)
    reading = asyncio.create_task(asyncio.to_thread(drain, flooder))
    async with bystander(roomy) as waits:
        first = frame(1, b'{"id":1,"connect":{}}') if "connection" in path else b""
        with contextlib.suppress(OSError):
            await asyncio.to_thread(flooder.sendall, first + frame(1, text) * TEXTS)
        # A chat's message goes through the broker, and the sender is held back until it did.
        await until_at_least(roomy, name, before + 1, 30)
    # The server waits some seconds for the answer to its close, which this client does not give.
    flooder.shutdown(socket.SHUT_RDWR)
    await reading
    flooder.close()
    assert max(waits) < 2
    assert figure(roomy, "starling_worker_resident_memory_bytes") - memory < MOST_GROWTH


def drain(client: socket.socket) -> None:
    """Read until the end: a flooder that does not would be cut as slow."""
    with contextlib.suppress(OSError):
        while client.recv(2**16):
            pass


async def test_five_hundred_upgrades_and_resets_leave_nothing_behind(starling: Starling) -> None:
    files = figure(starling, "starling_worker_open_files")
    async with bystander(starling) as waits:
        for _ in range(500):
            reset(await asyncio.to_thread(handshake, starling, "/ws/7"))
        end = time.monotonic() + DEADLINE
        while figure(starling, 'starling_connections{transport="chat"}') or (
            figure(starling, "starling_worker_open_files") > files + 5
        ):
            assert time.monotonic() < end, "connections or files stay behind"
            await asyncio.sleep(0.2)
    assert max(waits) < 2
    assert "Traceback" not in starling.output


async def test_a_client_that_offers_compression_does_not_get_it(starling: Starling) -> None:
    async with connect(f"{starling.url}/ws", compression="deflate") as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
