"""Frames of a peer become messages, within the limits that keep a hostile peer cheap (RFC 6455 section 10.4)."""

from websockets.frames import Frame, Opcode

# Control frames and empty fragments cost work and carry nothing: a burst of so many, then so many a second.
CONTROL_BURST = 128.0
CONTROL_PER_SECOND = 16.0


class PeerError(Exception):
    """What a peer sent is refused: the connection ends with `code` and `reason`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class MessageAssembler:
    """One connection's message under way, and what it may still spend on frames that carry nothing.

    The parser before it has seen to sizes, masking, reserved bits and the order of frames.
    """

    __slots__ = ("_budget", "_fragments", "_max_fragments", "_spent_at", "_text")

    def __init__(self, max_fragments: int) -> None:
        self._max_fragments = max_fragments
        self._fragments: list[bytes] | None = None
        self._text = False
        self._budget = CONTROL_BURST
        self._spent_at = 0.0

    def take_data(self, frame: Frame, now: float) -> str | bytes | None:
        """Take a data frame; give the whole message when it was the last. `now` is in seconds of any clock.

        Raises PeerError: 1007 for text that is not UTF-8, 1008 for too many empty fragments, 1009 for too many of all.
        """
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
            if frame.fin:
                return self._finish(bytes(frame.data))
            self._fragments = []
        # The parser has refused a continuation of nothing.
        fragments = self._fragments or []
        fragments.append(bytes(frame.data))
        if frame.fin:
            self._fragments = None
            return self._finish(b"".join(fragments))
        self._fragments = fragments
        if len(fragments) >= self._max_fragments:
            raise PeerError(1009, "too many fragments")
        if not frame.data:
            self.spend_control(now)
        return None

    def spend_control(self, now: float) -> None:
        """Pay for a frame that carries nothing. Raises PeerError 1008 when there were too many."""
        earned = (now - self._spent_at) * CONTROL_PER_SECOND
        self._budget = min(CONTROL_BURST, self._budget + earned) - 1
        self._spent_at = now
        if self._budget < 0:
            raise PeerError(1008, "too many control frames")

    def _finish(self, data: bytes) -> str | bytes:
        if not self._text:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise PeerError(1007, "text is not UTF-8") from None
