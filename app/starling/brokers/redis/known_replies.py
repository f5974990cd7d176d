"""What was read last, with what Redis answered and what was made of that: most of what is read again is the same."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")

# In bytes of replies, of which what is made of them takes a few times as much.
KNOWN_BYTES = 2 * 1024 * 1024
# A small reply costs little to read again, and would take more room for its key than for itself.
_LEAST_BYTES = 1024


class KnownReplies(Generic[Value]):
    """The replies that were found or kept last, at most `max_bytes` together. What is made of them must not change."""

    def __init__(self, max_bytes: int = KNOWN_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._known: OrderedDict[Hashable, tuple[object, Value, int]] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes of the replies that are kept."""
        return self._bytes

    def find(self, key: Hashable, reply: object) -> Value | None:
        """What was made of `reply`, if that is still the reply to the read `key`."""
        known = self._known.get(key)
        if known is None or known[0] != reply:
            return None
        self._known.move_to_end(key)
        return known[1]

    def last(self, key: Hashable) -> tuple[object, Value] | None:
        """The reply to the last read `key`, and what was made of it."""
        known = self._known.get(key)
        return None if known is None else known[:2]

    def keep(self, key: Hashable, reply: object, value: Value, size: int) -> None:
        """Remember what was made of a reply of `size` bytes, in the place of the one before."""
        before = self._known.pop(key, None)
        if before is not None:
            self._bytes -= before[2]
        if not _LEAST_BYTES <= size <= self._max_bytes:
            return
        self._known[key] = (reply, value, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= self._known.popitem(last=False)[1][2]
