"""Compression of messages by permessage-deflate (RFC 7692): agreed on, compressed once for all, inflated in bounds.

No message refers to one before it (`no_context_takeover` both ways), so that a connection needs no window of its own
and a frame is compressed once, however many read it.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from starling.protocol.messages import Batch, Frame, wire_of
from starling.server.frames import COMPRESSED, PeerError
from starling.server.handshake import BadHandshake, Header

# Compressing costs some 5 us, whatever the size, and saves less than a third of smaller messages of JSON.
LEAST_BYTES = 256
# A tenth larger than by zlib's default of 6, in half the time; the event loop waits meanwhile.
LEVEL = 1
_MEMORY_LEVEL = 8
_WINDOW_BITS = 15
# What ends a message's data and is not sent (RFC 7692 section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"


class Deflater:
    """Compresses for all clients of one worker whose window has `bits` bits."""

    __slots__ = ("_bits", "_compressor")

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -bits, _MEMORY_LEVEL)

    def wire_of_frame(self, frame: Frame) -> bytes:
        """Return the compressed frame, made once; the plain one where compression would not make it smaller."""
        if len(frame.payload) < LEAST_BYTES:
            return frame.wire
        if frame.compressed is None:
            frame.compressed = {}
        wire = frame.compressed.get(self._bits)
        if wire is None:
            data = self._deflate(frame.payload)
            smaller = len(data) < len(frame.payload)
            wire = wire_of(frame.wire[0] | COMPRESSED, data) if smaller else frame.wire
            frame.compressed[self._bits] = wire
        return wire

    def wire_of_batch(self, batch: Batch) -> bytes:
        """Return the frames of `batch`, each compressed by itself, in one piece that is joined once."""
        if batch.compressed is None:
            batch.compressed = {}
        wire = batch.compressed.get(self._bits)
        if wire is None:
            wire = batch.compressed[self._bits] = b"".join([self.wire_of_frame(frame) for frame in batch.frames])
        return wire

    def _deflate(self, payload: bytes) -> bytes:
        # A full flush forgets all that came before, like a new compressor, of which zlib would allocate 256 KiB.
        data = self._compressor.compress(payload) + self._compressor.flush(zlib.Z_FULL_FLUSH)
        return data[: -len(_TAIL)]


class Inflater:
    """Inflates one message, which may come in pieces."""

    __slots__ = ("_decompressor",)

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(-_WINDOW_BITS)

    def take(self, data: bytes, room: int, *, last: bool) -> bytes:
        """Return what a piece becomes, `room` bytes at most. Raises PeerError: 1009 for more, 1002 for no such data."""
        try:
            inflated = self._decompressor.decompress(data + _TAIL if last else data, room + 1)
        except zlib.error:
            raise PeerError(1002, "the message cannot be inflated") from None
        if len(inflated) > room:
            raise PeerError(1009, "message too large")
        return inflated


class Agreement(NamedTuple):
    """What one client and this server have agreed on, and the header that says so."""

    deflater: Deflater
    header: Header


class Compression:
    """What one worker offers to all clients."""

    def __init__(self) -> None:
        self._factory = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
        self._deflaters: dict[int, Deflater] = {}

    def agree(self, headers: Iterable[Header]) -> Agreement | None:
        """Take the first offer that can be met; None where there is none. Raises BadHandshake for no such header."""
        values = [value.decode("latin-1") for name, value in headers if name == b"sec-websocket-extensions"]
        if not values:
            return None
        try:
            offers = parse_extension(", ".join(values))
        except InvalidHeader:
            raise BadHandshake("Sec-WebSocket-Extensions is not a list of extensions.") from None
        for name, parameters in offers:
            if name == self._factory.name and (agreement := self._take(parameters)) is not None:
                return agreement
        return None

    def _take(self, parameters: Sequence[tuple[str, str | None]]) -> Agreement | None:
        try:
            answer, agreed = self._factory.process_request_params(parameters, ())
        except NegotiationError:
            return None
        bits = agreed.local_max_window_bits
        deflater = self._deflaters.get(bits)
        if deflater is None:
            deflater = self._deflaters[bits] = Deflater(bits)
        value = build_extension([(self._factory.name, answer)])
        return Agreement(deflater, (b"Sec-WebSocket-Extensions", value.encode("latin-1")))
