"""The frames of a peer, found and judged without an object for the frame (RFC 6455 section 5.2)."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# Bits of a frame's first byte.
FINAL = 0x80
COMPRESSED = 0x40
OPCODE = 0x0F
CONTROL = 0x08
# Whole text and binary messages without extension bits: nearly everything that clients send.
WHOLE_TEXT = FINAL | TEXT
WHOLE_BINARY = FINAL | BINARY

INCOMPLETE = 0

_MASKED = 0x80
_RESERVED = 0x30
_OPCODES = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})


class PeerError(Exception):
    """What a peer sent is refused: the connection ends with `code` and `reason`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def frame_end(data: bytes | bytearray, at: int, max_payload: int, *, compression: bool = False) -> int:
    """Return the index behind the frame that begins at `at`, or INCOMPLETE.

    `compression`: a message may be marked as compressed. Raises PeerError as soon as no further bytes can make it
    valid: 1002 for what no peer may send, 1009 for a message frame of more than `max_payload` bytes, a few more if
    compressed.
    """
    have = len(data) - at
    if have < 2:
        return INCOMPLETE
    first, second = data[at], data[at + 1]
    if (first != WHOLE_TEXT and first != WHOLE_BINARY) or second < _MASKED:
        _check_head(first, second, compression=compression)
    length = second & 0x7F
    head = 6
    if length >= 126:
        head = 8 if length == 126 else 14
        if have < head - 4:
            return INCOMPLETE
        length = int.from_bytes(data[at + 2 : at + head - 4], "big")
    most = compressed_room(max_payload) if first & COMPRESSED else max_payload
    if length > most and not first & CONTROL:
        raise PeerError(1009, "message too large")
    end = at + head + length
    return end if end <= len(data) else INCOMPLETE


def _check_head(first: int, second: int, *, compression: bool) -> None:
    opcode = first & OPCODE
    if opcode not in _OPCODES:
        raise PeerError(1002, "unknown opcode")
    marked = first & COMPRESSED
    if first & _RESERVED or (marked and not (compression and opcode in {TEXT, BINARY})):
        raise PeerError(1002, "reserved bits must be 0")
    if second < _MASKED:
        raise PeerError(1002, "frames of a client are masked")
    if opcode & CONTROL:
        if not first & FINAL:
            raise PeerError(1002, "control frame in fragments")
        if second & 0x7F > 125:
            raise PeerError(1002, "control frame too long")


def compressed_room(room: int) -> int:
    """Return how many bytes a compressed message may have that inflates to `room`: random ones become a few more."""
    return room + (room >> 10) + 64


def payload_start(data: bytes | bytearray, at: int) -> int:
    """Return where the payload of the whole, masked frame at `at` begins; the four bytes before it are its mask."""
    length = data[at + 1] & 0x7F
    return at + (6 if length < 126 else 8 if length == 126 else 14)


def control_frame(opcode: int, payload: bytes = b"") -> bytes:
    """Return a control frame of this side; `payload` has 125 bytes at most."""
    return bytes((FINAL | opcode, len(payload))) + payload
