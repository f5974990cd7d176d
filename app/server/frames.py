"""Where a peer's WebSocket frame ends, found without an object for the frame (RFC 6455 section 5.2)."""

# Final text and binary frames without extension bits: nearly everything that clients send.
TEXT = 0x81
BINARY = 0x82

INCOMPLETE = 0
HOPELESS = -1

_CONTROL = 0x08
_MASKED = 0x80


def frame_end(data: bytes | bytearray, at: int, max_payload: int) -> int:
    """Return the index behind the frame that begins at `at`, INCOMPLETE, or HOPELESS if no more bytes can mend it."""
    have = len(data) - at
    if have < 2:
        return INCOMPLETE
    second = data[at + 1]
    if second < _MASKED:
        return HOPELESS
    length = second & 0x7F
    head = 6
    if length >= 126:
        if data[at] & _CONTROL:
            return HOPELESS
        head = 8 if length == 126 else 14
        if have < head:
            return INCOMPLETE
        length = int.from_bytes(data[at + 2 : at + head - 4], "big")
    if length > max_payload:
        return HOPELESS
    end = at + head + length
    return end if end <= len(data) else INCOMPLETE


def payload_start(data: bytes | bytearray, at: int) -> int:
    """Return where the payload of the whole, masked frame at `at` begins; the four bytes before it are its mask."""
    length = data[at + 1] & 0x7F
    return at + (6 if length < 126 else 8 if length == 126 else 14)
