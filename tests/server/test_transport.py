"""A handed-off WebSocket seen from its client: what it may send, what it gets, and how it ends."""

import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.server.serving import Client, InProcess, frame, until
from tests.support.waiting import StepClock

CLOSE_SECONDS = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("server"), close_seconds=CLOSE_SECONDS) as server:
        yield server


def closed_with(server: InProcess, already: list[Any], code: int) -> bool:
    return any(line["code"] == code for line in server.events("closed")[len(already) :])


def test_text_and_binary_messages_reach_the_handler_and_return(server: InProcess) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/ws") as client:
        client.send("grüße")
        assert client.recv() == "grüße"
        client.send(b"\x00\xff")
        assert client.recv() == b"\x00\xff"


def test_compression_is_declined(server: InProcess) -> None:
    with server.connect("/ws", "Sec-WebSocket-Extensions: permessage-deflate") as client:
        assert "extensions" not in client.head.lower()


def test_frames_of_one_tick_arrive_in_order_and_in_one_write(server: InProcess) -> None:
    with server.connect() as client:
        client.send("burst 200")
        received = client.socket.recv(65536)
        # 10 frames of 1 digit, 90 of 2, 100 of 3, each with 2 bytes before: one write, so one segment on loopback.
        assert len(received) == 10 * 3 + 90 * 4 + 100 * 5
        client._buffer = received
        assert [client.text() for _ in range(200)] == [str(number) for number in range(200)]


def test_messages_sent_right_behind_the_request_are_not_lost(server: InProcess) -> None:
    early = frame(1, b"first") + frame(1, b"second")
    with Client(server.port) as client:
        client.upgrade("/late", early=early[:5])
        client.socket.sendall(early[5:] + frame(1, b"third"))
        assert [client.text() for _ in range(3)] == ["first", "second", "third"]


def test_messages_sent_before_the_endpoint_accepts_are_not_lost(server: InProcess) -> None:
    with Client(server.port) as client:
        client.upgrade("/late", early=b"")
        client.socket.sendall(frame(1, b"at once"))
        assert client.text() == "at once"


def test_a_message_in_fragments_with_pings_between_is_one_message(server: InProcess) -> None:
    with server.connect() as client:
        client.socket.sendall(
            frame(1, "häl".encode()[:2], fin=False)
            + frame(9, b"?")
            + frame(0, "häl".encode()[2:], fin=False)
            + frame(0, b"lo")
        )
        assert client.frame() == (10, b"?")
        assert client.text() == "hällo"


def test_a_ping_of_the_server_is_answered_to_the_handler(server: InProcess) -> None:
    with server.connect() as client:
        client.socket.sendall(frame(10, b"nobody asked"))
        client.send("ping")
        assert client.frame() == (9, b"")
        client.send("before")
        assert client.text() == "before"
        client.socket.sendall(frame(10, b""))
        assert client.text() == "pong"


def test_nothing_is_reported_while_reading_is_paused_and_everything_after(server: InProcess) -> None:
    with server.connect() as client:
        # All in one segment: what was read already has to wait too.
        client.socket.sendall(frame(1, b"pause 0.5") + frame(1, b"one") + frame(1, b"two"))
        started = time.monotonic()
        assert client.text() == "paused"
        client.send("three")
        assert [client.text() for _ in range(3)] == ["one", "two", "three"]
        assert time.monotonic() - started > 0.4


def test_a_flood_of_small_messages_is_reported_whole_and_in_order(server: InProcess) -> None:
    numbers = [str(number) for number in range(20000)]
    with server.connect() as client:
        client.socket.sendall(b"".join(frame(1, number.encode()) for number in numbers))
        assert [client.text() for _ in numbers] == numbers


def test_the_largest_message_passes_and_one_byte_more_is_closed_with_1009(server: InProcess) -> None:
    with server.connect() as client:
        client.socket.sendall(frame(1, b"x" * 65536))
        assert len(client.text()) == 65536
        before = server.refused("message_too_large")
        # All of it is on its way before the server refuses, and the close frame must come through nevertheless.
        client.socket.sendall(frame(1, b"x" * 65537))
        assert client.close_code()[0] == 1009
        assert client.ended()
    until(lambda: server.refused("message_too_large") == before + 1, "counted")


def test_a_message_too_large_in_fragments_is_closed_with_1009(server: InProcess) -> None:
    with server.connect() as client:
        for _ in range(4):
            client.socket.sendall(frame(0 if _ else 1, b"x" * 20000, fin=False))
        assert client.close_code()[0] == 1009


def test_this_many_fragments_pass_and_one_more_is_closed_with_1009(server: InProcess) -> None:
    pieces = [frame(0 if number else 1, b"x", fin=False) for number in range(128)]
    with server.connect() as client:
        client.socket.sendall(b"".join(pieces[:127]) + frame(0, b"x"))
        assert client.text() == "x" * 128
        client.socket.sendall(b"".join(pieces) + frame(0, b"x"))
        assert client.close_code() == (1009, "too many fragments")


@pytest.mark.parametrize(
    "payload", [b"\xc3\x28", "ü".encode()[:1], b"\xed\xa0\x80"], ids=["invalid", "cut", "surrogate"]
)
def test_text_that_is_not_utf8_is_closed_with_1007(server: InProcess, payload: bytes) -> None:
    before = server.refused("invalid_utf8")
    with server.connect() as client:
        client.socket.sendall(frame(1, payload))
        assert client.close_code()[0] == 1007
    until(lambda: server.refused("invalid_utf8") == before + 1, "counted")


@pytest.mark.parametrize(
    "bad",
    [
        frame(1, b"x", mask=False),
        frame(0, b"x"),
        frame(3, b"x"),
        frame(9, b"x" * 126),
        frame(9, b"x", fin=False),
        b"\xc1" + frame(1, b"x")[1:],
        frame(1, b"x", fin=False) + frame(1, b"y"),
        frame(8, b"\x03"),
    ],
    ids=[
        "unmasked",
        "stray continuation",
        "opcode",
        "long ping",
        "fragmented ping",
        "rsv",
        "interleaved",
        "close of 1",
    ],
)
def test_frames_against_the_protocol_are_closed_with_1002(server: InProcess, bad: bytes) -> None:
    with server.connect() as client:
        # What came whole before the fault is still answered.
        client.socket.sendall(frame(1, b"before") + bad)
        assert client.text() == "before"
        assert client.close_code()[0] == 1002
        assert client.ended()


def test_of_what_a_client_goes_on_sending_after_a_fault_little_is_read(server: InProcess) -> None:
    with server.connect() as client:
        client.socket.sendall(b"\xff\xff")
        assert client.close_code()[0] == 1002
        # More than the kernel keeps on both sides.
        assert client.sent_until_cut(128 * 2**20) < 64 * 2**20


def test_a_flood_of_pings_is_closed_with_1008(server: InProcess) -> None:
    before = server.refused("control_flood")
    with server.connect() as client:
        client.socket.sendall(frame(9, b"x") * 100)
        assert [client.frame() for _ in range(100)] == [(10, b"x")] * 100
        client.socket.sendall(frame(9, b"x") * 200)
        assert client.close_code() == (1008, "too many control frames")
    until(lambda: server.refused("control_flood") == before + 1, "counted")


def test_a_flood_of_empty_fragments_is_closed(server: InProcess) -> None:
    with server.connect() as client:
        client.socket.sendall(b"".join([frame(1, b"", fin=False), frame(0, b"x")]) * 200)
        assert client.close_code() == (1008, "too many control frames")


def test_a_peer_that_floods_pings_and_reads_no_pongs_is_cut(server: InProcess) -> None:
    with server.connect(receive_buffer=4096) as client:
        assert client.cut_while_sending(frame(9, b"x" * 125) * 16)


def test_the_clients_close_code_is_reported_and_echoed(server: InProcess) -> None:
    before = server.events("closed")
    with server.connect() as client:
        client.socket.sendall(frame(8, struct.pack("!H", 4321) + b"enough"))
        assert client.close_code() == (4321, "enough")
        assert client.ended()
    reported = until(lambda: server.events("closed")[len(before) :], "reported")
    assert [(line["code"], line["reason"]) for line in reported] == [(4321, "enough")]


def test_a_close_without_code_is_reported_as_1005(server: InProcess) -> None:
    before = server.events("closed")
    with server.connect() as client:
        client.socket.sendall(frame(8))
        assert client.frame() == (8, b"")
    until(lambda: closed_with(server, before, 1005), "reported")


def test_a_client_that_vanishes_is_reported_as_1006(server: InProcess) -> None:
    before = server.events("closed")
    server.connect().socket.close()
    until(lambda: closed_with(server, before, 1006), "reported")
    reset = server.connect()
    reset.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.socket.close()
    until(lambda: len(server.events("closed")) == len(before) + 2, "reported once each")


def test_what_was_sent_before_a_close_arrives_and_nothing_after(server: InProcess) -> None:
    before = server.events("closed")
    with server.connect() as client:
        client.send("close 3000 bye")
        assert client.text() == "last words"
        assert client.frame() == (8, struct.pack("!H", 3000) + b"bye")
        client.socket.sendall(frame(8, struct.pack("!H", 3000)))
        assert client.ended()
    until(lambda: closed_with(server, before, 3000), "reported")


def test_a_long_reason_is_cut_between_characters(server: InProcess) -> None:
    with server.connect() as client:
        client.send("close 3000 " + "ü" * 100)
        assert client.close_code() == (3000, "ü" * 61)


def test_a_peer_that_does_not_answer_a_close_is_cut_after_the_grace(server: InProcess) -> None:
    with server.connect() as client:
        client.send("close 3000")
        assert client.close_code()[0] == 3000
        started = time.monotonic()
        with StepClock() as clock:
            assert client.ended()
        assert time.monotonic() - started > CLOSE_SECONDS / 2
        assert clock.seconds < CLOSE_SECONDS + 5


def test_a_reader_that_stops_overflows_once_and_is_gone_within_the_grace(server: InProcess) -> None:
    overflows = server.events("overflow")
    before = server.events("closed")
    with server.connect(receive_buffer=4096) as stuck, server.connect() as good:
        stuck.send("flood 400")
        until(lambda: server.events("overflow")[len(overflows) :], "overflow")
        good.send("still here")
        assert good.text() == "still here"
        until(lambda: closed_with(server, before, 3008), "cut")
        assert len(server.events("overflow")) == len(overflows) + 1


def test_a_handler_that_fails_closes_its_own_client_only(server: InProcess) -> None:
    with server.connect() as client, server.connect() as other:
        client.send("fail")
        assert client.close_code() == (1011, "internal server error")
        other.send("fine")
        assert other.text() == "fine"
    until(lambda: server.events("client_handler_failed"), "reported")
