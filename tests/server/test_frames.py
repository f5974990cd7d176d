"""The reader of frames next to the parser of the websockets library: the same bytes mean the same.

No socket can be made to split its bytes at every place, so the transport is fed by hand, over a stand-in for the
socket and for the loop that holds what they got.
"""

import asyncio
import time
import zlib
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Opcode
from websockets.frames import Frame as ReferenceFrame
from websockets.protocol import SERVER, Protocol

from starling.server.assembly import CONTROL_BURST
from starling.server.client_socket import Flusher
from starling.server.compression import Deflater
from starling.server.frames import COMPRESSED, INCOMPLETE, PeerError, frame_end
from starling.server.options import ServerOptions
from starling.server.transport import READ_SECONDS, WebSocketTransport
from tests.server.serving import frame

MAX_MESSAGE = 300
MAX_FRAGMENTS = 12
MESSAGE, CLOSED = "message", "closed"

Event = tuple[str, object]


class Loop:
    """Callbacks of the next ticks; timers never come."""

    def __init__(self) -> None:
        self.ready: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self.ready.append((callback, args))

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        return cast("asyncio.TimerHandle", self)

    def time(self) -> float:
        return 0.0

    def turn(self) -> None:
        while self.ready:
            callback, args = self.ready.popleft()
            callback(*args)


class Socket:
    """What is written, and whether it was closed."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        """No descriptor, so that all is written here."""

    def set_write_buffer_limits(self, high: int) -> None: ...

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Events:
    """A handler that notes what it got."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def on_message(self, message: str | bytes) -> None:
        self.seen.append((MESSAGE, message))

    def on_close(self, code: int, reason: str) -> None:
        self.seen.append((CLOSED, code))

    def on_pong(self) -> None: ...

    def on_drained(self) -> None: ...

    def on_overflow(self) -> None: ...

    def on_shutdown(self) -> None: ...


def read(pieces: list[bytes], *, compression: bool = False) -> tuple[list[Event], bytes]:
    """What the transport reports of input in `pieces`, and what it writes."""
    loop, socket, events = Loop(), Socket(), Events()
    transport = WebSocketTransport(
        cast("asyncio.Transport", socket),
        lambda: b"",
        loop=cast("asyncio.AbstractEventLoop", loop),
        connections=set(),
        flusher=Flusher(),
        options=ServerOptions(max_message_bytes=MAX_MESSAGE, max_fragments=MAX_FRAGMENTS),
        on_refused=lambda reason, **seen: None,
        deflater=Deflater(15) if compression else None,
    )
    transport.detach(events, write_limit=1 << 20)
    loop.turn()
    for piece in pieces:
        transport.data_received(piece)
        loop.turn()
    return events.seen, bytes(socket.written)


class SlowEvents(Events):
    """A handler that each message takes a while."""

    def on_message(self, message: str | bytes) -> None:
        super().on_message(message)
        until = time.monotonic() + READ_SECONDS
        while time.monotonic() < until:
            pass


def test_messages_that_take_long_wait_for_further_turns_in_their_order() -> None:
    loop, flusher, clients = Loop(), Flusher(), [SlowEvents(), SlowEvents()]
    transports = [
        WebSocketTransport(
            cast("asyncio.Transport", Socket()),
            lambda: b"",
            loop=cast("asyncio.AbstractEventLoop", loop),
            connections=set(),
            flusher=flusher,
            options=ServerOptions(max_message_bytes=MAX_MESSAGE, max_fragments=MAX_FRAGMENTS),
            on_refused=lambda reason, **seen: None,
        )
        for _ in clients
    ]
    for transport, client in zip(transports, clients, strict=True):
        transport.detach(client, write_limit=1 << 20)
    loop.turn()
    numbers = [f"{number}".zfill(250) for number in range(8)]
    flood = b"".join(frame(Opcode.TEXT, number.encode()) for number in numbers)
    transports[0].data_received(flood)
    assert 1 <= len(clients[0].seen) <= 2
    # The other sends much too, and so waits for its turn from the start.
    transports[1].data_received(flood)
    assert clients[1].seen == []
    loop.turn()
    assert not flusher.turns.busy
    for client in clients:
        assert client.seen == [(MESSAGE, number) for number in numbers]


def read_by_reference(data: bytes, *, compression: bool = False) -> tuple[list[Event], bytes]:
    """What the library's parser makes of `data`; messages joined and decoded here, since it leaves that to others."""
    parser = Protocol(SERVER, max_size=MAX_MESSAGE)
    parser.extensions = [deflate_extension()] if compression else []
    parser.receive_data(data)
    events: list[Event] = []
    pieces: list[bytes] = []
    text = False
    for received in cast("list[ReferenceFrame]", parser.events_received()):
        if received.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            if received.opcode is not Opcode.CONT:
                text = received.opcode is Opcode.TEXT
            pieces.append(bytes(received.data))
            if not received.fin:
                continue
            whole, pieces = b"".join(pieces), []
            try:
                events.append((MESSAGE, whole.decode() if text else whole))
            except UnicodeDecodeError:
                return [*events, (CLOSED, 1007)], b""
        elif received.opcode is Opcode.CLOSE:
            events.append((CLOSED, Close.parse(received.data).code))
    if parser.parser_exc is not None:
        assert parser.close_sent is not None
        events.append((CLOSED, int(parser.close_sent.code)))
    return events, b"".join(parser.data_to_send())


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, cut at `cuts` (each taken modulo its length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


def deflate_extension() -> PerMessageDeflate:
    """The library's permessage-deflate as both sides have it."""
    return PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=15,
        local_max_window_bits=15,
    )


payloads = st.binary(max_size=130)
texts = st.text(max_size=40).map(str.encode)
controls = st.builds(frame, st.sampled_from([9, 10]), st.binary(max_size=125))


@st.composite
def messages(draw: st.DrawFn, *, compression: bool = False) -> bytes:
    """One message in one frame or several, with control frames between them; compressed or not where that may be."""
    text = draw(st.booleans())
    whole = draw(texts if text else payloads)
    compressed = compression and draw(st.booleans())
    if compressed:
        whole = bytes(deflate_extension().encode(ReferenceFrame(Opcode.TEXT, whole)).data)
    cuts = draw(st.lists(st.integers(0, 200), max_size=4))
    pieces = split(whole, cuts) or [b""]
    frames = []
    for number, piece in enumerate(pieces):
        opcode = 0 if number else (1 if text else 2) | (COMPRESSED if compressed else 0)
        frames += [frame(opcode, piece, fin=number == len(pieces) - 1), *draw(st.lists(controls, max_size=1))]
    return b"".join(frames)


closes = st.builds(
    lambda code, reason: frame(8, code.to_bytes(2, "big") + reason), st.sampled_from([1000, 1001, 3000, 4999]), texts
) | st.just(frame(8))


def conversations_of(*, compression: bool) -> st.SearchStrategy[bytes]:
    """Messages and control frames in a row, with a close at the end or without."""
    parts = st.lists(messages(compression=compression) | controls, max_size=6)
    return st.builds(lambda parts, end: b"".join([*parts, end]), parts, closes | st.just(b""))


conversations = conversations_of(compression=False)
cuts = st.lists(st.integers(0, 3000), max_size=12)


@given(data=conversations, cuts=cuts)
@settings(deadline=None)
def test_every_split_of_what_a_peer_may_say_is_read_as_the_library_reads_it(data: bytes, cuts: list[int]) -> None:
    events, written = read(split(data, cuts))
    expected, answers = read_by_reference(data)
    assert events == expected
    # Pongs and the answered close frame, to the byte.
    assert written == answers


@given(data=conversations_of(compression=True), cuts=cuts)
@settings(deadline=None)
def test_so_is_what_a_peer_may_say_that_compresses(data: bytes, cuts: list[int]) -> None:
    assert read(split(data, cuts), compression=True) == read_by_reference(data, compression=True)


heads = st.builds(
    lambda first, length, rest: bytes((first, length)) + rest,
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=200),
)


@given(before=conversations, data=heads | st.binary(max_size=400), cuts=cuts, compression=st.booleans())
@settings(deadline=None, max_examples=400)
@example(before=b"", data=frame(8, b"\x03"), cuts=[], compression=False)
@example(before=b"", data=frame(8, b"\x03\xed"), cuts=[], compression=False)
@example(before=b"", data=frame(1, b"x" * 301), cuts=[], compression=False)
@example(before=b"", data=frame(1, b"x" * 200, fin=False) + frame(0, b"x" * 200), cuts=[], compression=False)
@example(before=b"", data=frame(1, b"\xff"), cuts=[], compression=False)
@example(before=b"", data=frame(COMPRESSED | 1, b"\xff"), cuts=[], compression=True)
@example(before=b"", data=frame(COMPRESSED | 2, zlib.compress(bytes(301), wbits=-15)), cuts=[], compression=True)
def test_whatever_a_peer_sends_ends_as_the_library_would_end_it(
    before: bytes, data: bytes, cuts: list[int], compression: bool
) -> None:
    events, _ = read(split(before + data, cuts), compression=compression)
    # What the library waits for, it gets: this reader may refuse a frame by its head.
    expected, _ = read_by_reference(before + data, compression=compression)
    patient, _ = read_by_reference(before + data + bytes(MAX_MESSAGE + 14), compression=compression)
    if events == expected:
        return
    assert events[-1][0] == CLOSED
    assert events[:-1] == [event for event in expected if event[0] != CLOSED][: len(events) - 1]
    ours, theirs = events[-1][1], patient[-1][1] if patient and patient[-1][0] == CLOSED else None
    assert (ours, theirs) in STRICTER, (ours, theirs)


# Ends that may differ, ours first.
STRICTER = {
    # Refused by its head, while the library waits for the rest.
    (1002, 1002),
    (1009, 1009),
    # A control frame of more than 125 bytes, of which the library looks at the size first; as at that of any frame.
    (1002, 1009),
    # A message that cannot become UTF-8 any more, while the library's user waits for its last fragment.
    (1007, 1007),
    (1007, 1002),
    (1007, 1009),
    (1007, None),
}


@pytest.mark.parametrize("compression", [False, True])
def test_only_the_first_frame_of_a_message_may_be_marked_as_compressed(compression: bool) -> None:
    for opcode in (1, 2):
        marked = bytes((0xC0 | opcode,)) + frame(opcode, b"x")[1:]
        if compression:
            assert frame_end(marked, 0, MAX_MESSAGE, compression=True) == len(marked)
        else:
            with pytest.raises(PeerError, match="reserved bits"):
                frame_end(marked, 0, MAX_MESSAGE)
    for opcode in (0, 8, 9, 10):
        marked = bytes((0xC0 | opcode,)) + frame(opcode, b"x")[1:]
        with pytest.raises(PeerError, match="reserved bits"):
            frame_end(marked, 0, MAX_MESSAGE, compression=compression)


@pytest.mark.parametrize("size", [0, 125, 126, 299, 300])
def test_a_frame_is_incomplete_until_its_last_byte(size: int) -> None:
    whole = frame(2, b"x" * size)
    for length in range(len(whole)):
        assert frame_end(whole[:length], 0, MAX_MESSAGE) == INCOMPLETE
    assert frame_end(whole + b"more", 0, MAX_MESSAGE) == len(whole)


def test_this_many_control_frames_are_as_many_as_the_budget() -> None:
    pings = frame(9) * int(CONTROL_BURST)
    assert read([pings]) == ([], b"\x8a\x00" * int(CONTROL_BURST))
    assert read([pings + frame(9)])[0] == [(CLOSED, 1008)]
