"""permessage-deflate between a server process and its clients, and message by message (RFC 7692)."""

import os
import struct
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

from starling.protocol.messages import Batch, Frame
from starling.server.compression import LEAST_BYTES, Compression, Deflater, Inflater
from starling.server.frames import COMPRESSED, PeerError
from starling.server.handshake import BadHandshake
from tests.server.serving import Client, InProcess, frame, until

LIMIT = 65536
TAIL = b"\x00\x00\xff\xff"
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
LONG = "the same again and " * 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("compression"), compression=True, max_message_bytes=LIMIT) as server:
        yield server


def deflate(data: bytes) -> bytes:
    """As a client does that has just begun."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def inflate(data: bytes, bits: int = 15) -> bytes:
    """As a client does that knows nothing of messages before."""
    return zlib.decompressobj(-bits).decompress(data + TAIL)


def compressed(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    return frame(COMPRESSED | opcode, payload, fin=fin)


def agreed(client: Client) -> str:
    """What the server answers to an offer of extensions."""
    lines = [line for line in client.head.split("\r\n") if line.lower().startswith("sec-websocket-extensions:")]
    return lines[0].partition(":")[2].strip() if lines else ""


def raw(client: Client) -> tuple[int, bytes]:
    """The next frame with its first byte as it is."""
    first = client._take(1)[0]
    client._buffer = bytes((first & 0xBF,)) + client._buffer
    return first, client.frame()[1]


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        (
            "permessage-deflate; client_max_window_bits=10; server_max_window_bits=9",
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; "
                "client_max_window_bits=10"
            ),
        ),
        (
            "x-webkit-deflate-frame, permessage-deflate; unheard_of, permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        ("permessage-deflate; server_max_window_bits=8", ""),
        ("permessage-deflate; server_max_window_bits=16", ""),
        ("permessage-bzip2", ""),
    ],
)
def test_the_first_offer_that_can_be_met_is_answered(server: InProcess, offer: str, answer: str) -> None:
    with server.connect("/ws", f"Sec-WebSocket-Extensions: {offer}") as client:
        assert agreed(client) == answer
        client.send("hello")
        assert client.text() == "hello"


def test_what_is_no_list_of_extensions_is_refused_with_400(server: InProcess) -> None:
    with Client(server.port) as client:
        client.upgrade("/ws", "Sec-WebSocket-Extensions: permessage-deflate; =")
        assert client.status == 400


def test_a_client_of_a_library_gets_what_it_sent_whatever_windows_it_wants(server: InProcess) -> None:
    for bits in (None, 9, 12):
        extension = ClientPerMessageDeflateFactory(server_max_window_bits=bits, client_max_window_bits=True)
        with connect(f"ws://127.0.0.1:{server.port}/ws", extensions=[extension], compression=None) as client:
            for message in ("short", LONG, os.urandom(5000), LONG, LONG[7:] * 10, b"\x00" * LIMIT):
                client.send(message)
                assert client.recv() == message


def test_long_messages_are_compressed_and_short_ones_are_not(server: InProcess) -> None:
    with server.connect("/ws", OFFER) as client:
        for _ in range(2):
            client.send(LONG)
            first, payload = raw(client)
            assert first == 0xC1
            assert inflate(payload).decode() == LONG
            assert len(payload) < len(LONG) / 5
        client.send(LONG[: LEAST_BYTES - 1])
        assert raw(client) == (0x81, LONG[: LEAST_BYTES - 1].encode())


def test_what_would_not_get_smaller_is_sent_as_it_is(server: InProcess) -> None:
    noise = os.urandom(1000)
    with server.connect("/ws", OFFER) as client:
        client.socket.sendall(frame(2, noise))
        assert raw(client) == (0x82, noise)


def test_a_client_that_did_not_ask_is_served_next_to_one_that_did(server: InProcess) -> None:
    with server.connect("/ws", OFFER) as asked, server.connect("/ws") as plain:
        for client, first in ((asked, 0xC1), (plain, 0x81)):
            client.send(LONG)
            assert raw(client)[0] == first
        before = server.refused("protocol_error")
        plain.socket.sendall(compressed(1, deflate(b"x")))
        assert plain.close_code()[0] == 1002
    until(lambda: server.refused("protocol_error") == before + 1, "counted")


def test_a_compressed_message_in_fragments_is_one_message(server: InProcess) -> None:
    data = deflate(LONG.encode())
    with server.connect("/ws", OFFER) as client:
        client.socket.sendall(
            compressed(1, data[:3], fin=False) + frame(9, b"?") + frame(0, data[3:20], fin=False) + frame(0, data[20:])
        )
        assert client.frame() == (10, b"?")
        assert inflate(raw(client)[1]).decode() == LONG


@pytest.mark.parametrize(
    "bad",
    [
        frame(COMPRESSED | 9, b"x"),
        frame(COMPRESSED | 8, struct.pack("!H", 1000)),
        frame(1, b"x", fin=False) + frame(COMPRESSED | 0, b"x"),
        compressed(1, deflate(b"x" * 9)[:3], fin=False) + frame(COMPRESSED | 0, b"x"),
        frame(0x20 | 1, b"x"),
        compressed(1, b"\xff\xff\xff"),
    ],
    ids=["ping", "close", "continuation", "continuation of a compressed one", "rsv2", "no deflated data"],
)
def test_what_may_not_be_compressed_is_closed_with_1002(server: InProcess, bad: bytes) -> None:
    with server.connect("/ws", OFFER) as client:
        client.socket.sendall(bad)
        assert client.close_code()[0] == 1002
        assert client.ended()


def test_compressed_text_that_is_not_utf8_is_closed_with_1007(server: InProcess) -> None:
    with server.connect("/ws", OFFER) as client:
        client.socket.sendall(compressed(1, deflate(b"\xc3\x28")))
        assert client.close_code()[0] == 1007


def test_the_largest_message_passes_and_one_byte_more_is_closed_with_1009(server: InProcess) -> None:
    for message in (bytes(LIMIT), os.urandom(LIMIT)):
        with server.connect("/ws", OFFER) as client:
            client.socket.sendall(compressed(2, deflate(message)))
            first, payload = raw(client)
            assert (inflate(payload) if first & COMPRESSED else payload) == message
            client.socket.sendall(compressed(2, deflate(message + b"x")))
            assert client.close_code()[0] == 1009


def test_a_bomb_is_closed_with_1009_whole_and_in_fragments(server: InProcess) -> None:
    bomb = deflate(bytes(32 * 2**20))
    assert len(bomb) < LIMIT
    for frames in (
        compressed(2, bomb),
        compressed(2, bomb[:100], fin=False) + frame(0, bomb[100:], fin=False) + frame(0, b""),
    ):
        with server.connect("/ws", OFFER) as client:
            client.socket.sendall(frames)
            assert client.close_code()[0] == 1009


@given(data=st.binary(max_size=2000), limit=st.integers(0, 1500))
def test_no_more_than_the_limit_is_ever_inflated(data: bytes, limit: int) -> None:
    if len(data) <= limit:
        assert Inflater().take(deflate(data), limit, last=True) == data
    else:
        with pytest.raises(PeerError) as refused:
            Inflater().take(deflate(data), limit, last=True)
        assert refused.value.code == 1009


@given(
    payloads=st.lists(st.binary(max_size=3000) | st.text("ab", max_size=3000).map(str.encode), max_size=8),
    bits=st.sampled_from([9, 12, 15]),
)
@settings(deadline=None)
def test_every_message_is_inflated_without_those_before_it(payloads: list[bytes], bits: int) -> None:
    deflater = Deflater(bits)
    frames = [Frame(payload, text=False) for payload in payloads]
    for sent in frames:
        wire = deflater.wire_of_frame(sent)
        assert deflater.wire_of_frame(sent) is wire
        if wire is sent.wire:
            continue
        assert wire[0] == 0xC2
        assert len(wire) < len(sent.wire)
        head = 2 if wire[1] < 126 else 4
        assert inflate(wire[head:], bits) == sent.payload
    if frames:
        batch = Batch(frames)
        assert deflater.wire_of_batch(batch) == b"".join(deflater.wire_of_frame(sent) for sent in frames)
        assert batch.wire == b"".join(sent.wire for sent in frames)


def test_clients_with_the_same_window_share_one_compressor() -> None:
    compression = Compression()
    one = compression.agree([(b"sec-websocket-extensions", b"permessage-deflate")])
    other = compression.agree([(b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits")])
    smaller = compression.agree([(b"sec-websocket-extensions", b"permessage-deflate; server_max_window_bits=10")])
    assert one is not None
    assert other is not None
    assert smaller is not None
    assert one.deflater is other.deflater
    assert one.deflater is not smaller.deflater


def test_nothing_is_agreed_on_where_nothing_is_offered() -> None:
    assert Compression().agree([(b"host", b"localhost")]) is None
    with pytest.raises(BadHandshake):
        Compression().agree([(b"sec-websocket-extensions", b";")])
