"""Assembly of a peer's frames into messages, within limits on what a hostile peer costs (RFC 6455 section 10.4)."""

import codecs

from starling.server.compression import Inflater
from starling.server.frames import COMPRESSED, FINAL, OPCODE, TEXT, PeerError, compressed_room

# Control frames and empty fragments cost work and carry no payload. The token bucket: its size, its refill a second.
CONTROL_BURST = 128.0
CONTROL_PER_SECOND = 16.0

_new_decoder = codecs.getincrementaldecoder("utf-8")


class ControlBudget:
    """What one connection may still spend on frames that carry nothing."""

    __slots__ = ("_left", "_spent_at")

    def __init__(self) -> None:
        self._left = CONTROL_BURST
        self._spent_at = 0.0

    def spend(self, now: float) -> None:
        """Pay for a frame; `now` is in seconds of any clock. Raises PeerError 1008 when there were too many."""
        earned = (now - self._spent_at) * CONTROL_PER_SECOND
        self._left = min(CONTROL_BURST, self._left + earned) - 1
        self._spent_at = now
        if self._left < 0:
            raise PeerError(1008, "too many control frames")


class FragmentedMessage:
    """One message under way, from its first frame, whose first byte is `first`."""

    __slots__ = ("_count", "_decoder", "_inflater", "_max_fragments", "_pieces", "_room")

    def __init__(self, first: int, *, max_fragments: int, max_bytes: int) -> None:
        self._decoder = _new_decoder() if first & OPCODE == TEXT else None
        self._max_fragments = max_fragments
        self._inflater = Inflater() if first & COMPRESSED else None
        self._count = 0
        self._pieces: list[bytes] = []
        self._room = max_bytes

    @property
    def room(self) -> int:
        """How many bytes the next frame may have."""
        return self._room if self._inflater is None else compressed_room(self._room)

    def take(self, first: int, payload: bytes) -> str | bytes | None:
        """Take the next frame; give the whole message when it was the last.

        Raises PeerError: 1007 for text that is not UTF-8, as soon as it is seen, 1009 for too many fragments or bytes,
        1002 for what cannot be inflated.
        """
        self._count += 1
        last = bool(first & FINAL)
        if self._inflater is not None:
            payload = self._inflater.take(payload, self._room, last=last)
        self._room -= len(payload)
        if self._room < 0:
            raise PeerError(1009, "message too large")
        if self._decoder is not None:
            try:
                self._decoder.decode(payload, last)
            except UnicodeDecodeError:
                raise PeerError(1007, "text is not UTF-8") from None
        self._pieces.append(payload)
        if last:
            whole = b"".join(self._pieces)
            return whole if self._decoder is None else whole.decode()
        if self._count >= self._max_fragments:
            raise PeerError(1009, "too many fragments")
        return None
