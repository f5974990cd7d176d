"""Fossil deltas: the patch that turns the publication a reader has into the next one; no I/O.

The format is that of the Fossil version control system, as the client SDKs apply it (fossil-scm.org, "delta format"):
the size of the target and a newline, then segments (`LENGTH@OFFSET,` to copy from the base, `LENGTH:BYTES` to insert),
then the target's checksum and `;`. Numbers are in base 64.
"""

from array import array
from sys import byteorder

_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
# Shorter copies cost as much as the bytes they stand for.
_SHORTEST_COPY = 8
# What is searched in the base at once, and how many times in vain before the rest is inserted.
_BLOCK = 12
_MISSES = 64
# The effort for a byte of the target, in bytes of the base that are looked at: some 60 microseconds per KiB. A search
# costs as much as _SEARCH bytes. _SPARE is some 2 milliseconds, in which a small document is searched wholly.
_EFFORT = 200
_SEARCH = 16_384
_SPARE = 512 * _SEARCH
# Where a block most likely is, behind the copy before it; and at which misses in a row the whole base is searched.
_NEAR = 4_096
_FAR = frozenset({2, 6, 14, 30, 62})
# A copy may not begin or end inside a character: JSON readers get the patch as a string.
_CONTINUATION = frozenset(range(0x80, 0xC0))


def create_patch(base: bytes, target: bytes) -> bytes | None:
    """The patch that makes `target` of `base`, cut at character boundaries; both must be UTF-8.

    Returns None where the patch would be as long as `target` itself, which is sent whole then.
    """
    output = [_number(len(target)), b"\n"]
    done = 0
    for start, offset, length in _copies(base, target):
        if start > done:
            output += (_number(start - done), b":", target[done:start])
        output += (_number(length), b"@", _number(offset), b",")
        done = start + length
    if done < len(target):
        output += (_number(len(target) - done), b":", target[done:])
    output += (_number(checksum(target)), b";")
    patch = b"".join(output)
    return patch if len(patch) < len(target) else None


def checksum(data: bytes) -> int:
    """The sum of the big-endian 32-bit words of `data`, padded with zeros, modulo 2**32."""
    words = array("I", data + bytes(-len(data) % 4))
    if byteorder == "little":
        words.byteswap()
    return sum(words) & 0xFFFFFFFF


def _copies(base: bytes, target: bytes) -> list[tuple[int, int, int]]:
    """What of `target` stands in `base`: (start in target, offset in base, length), in the order of the target."""
    head = _character_start(target, _common_prefix(base, target, 0, 0))
    shared = min(len(base), len(target)) - head
    tail = _character_start_after(target, len(target) - _common_suffix(base, target, shared))
    copies = [(0, 0, head)] if head >= _SHORTEST_COPY else []
    start = head if copies else 0
    end = tail if len(target) - tail >= _SHORTEST_COPY else len(target)
    copies += _inner_copies(base, target, start, end)
    if end < len(target):
        copies.append((end, end - len(target) + len(base), len(target) - end))
    return copies


def _inner_copies(base: bytes, target: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """The copies between the common head and the common tail: blocks of the target that stand in the base, extended.

    A block is searched after the copy before it first, then, if others before it stood nowhere, in the whole base.
    After _MISSES blocks in a row that stand nowhere, or when the effort is spent, the rest is inserted: the documents
    have little in common, and the time is better saved.
    """
    copies: list[tuple[int, int, int]] = []
    done = position = start
    expected = start
    misses = 0
    effort = _EFFORT * len(target) + _SPARE
    while position + _BLOCK <= end and misses < _MISSES and effort > 0:
        block = target[position : position + _BLOCK]
        effort -= _SEARCH
        offset = base.find(block, expected, expected + _NEAR)
        if offset < 0 and (misses in _FAR or len(base) <= _NEAR):
            effort -= len(base)
            offset = base.find(block, expected)
            if offset < 0:
                offset = base.find(block, 0, expected + _BLOCK - 1)
        if offset < 0:
            misses += 1
            position += _BLOCK
            continue
        back = 0
        while back < min(position - done, offset) and target[position - back - 1] == base[offset - back - 1]:
            back += 1
        last = position + _BLOCK + _common_prefix(base, target, offset + _BLOCK, position + _BLOCK, end)
        first, last = _character_start_after(target, position - back), _character_start(target, last)
        if last - first >= _SHORTEST_COPY:
            copies.append((first, offset - (position - first), last - first))
            done, expected, misses = last, offset - position + last, 0
        position = max(last, position + 1)
    return copies


def _common_prefix(base: bytes, target: bytes, offset: int, start: int, end: int | None = None) -> int:
    """How many bytes `base` from `offset` and `target` from `start` (to `end`) have in common."""
    high = min(len(base) - offset, (len(target) if end is None else end) - start)
    low, step = 0, 64
    while low < high:
        size = min(step, high - low)
        if base[offset + low : offset + low + size] == target[start + low : start + low + size]:
            low += size
            step *= 2
        elif size == 1:
            break
        else:
            high = low + size - 1
            step = max(size // 2, 1)
    return low


def _common_suffix(base: bytes, target: bytes, limit: int) -> int:
    """How many bytes `base` and `target` have in common at their ends, at most `limit`."""
    low, high, step = 0, limit, 64
    while low < high:
        size = min(step, high - low)
        left, right = len(base) - low, len(target) - low
        if base[left - size : left] == target[right - size : right]:
            low += size
            step *= 2
        elif size == 1:
            break
        else:
            high = low + size - 1
            step = max(size // 2, 1)
    return low


def _character_start(data: bytes, position: int) -> int:
    """`position`, or the beginning of the character that it is inside of."""
    while 0 < position < len(data) and data[position] in _CONTINUATION:
        position -= 1
    return position


def _character_start_after(data: bytes, position: int) -> int:
    """`position`, or the end of the character that it is inside of."""
    while position < len(data) and data[position] in _CONTINUATION:
        position += 1
    return position


def _number(value: int) -> bytes:
    if value < 64:
        return _DIGITS[value : value + 1]
    digits = bytearray()
    while value:
        digits.append(_DIGITS[value & 63])
        value >>= 6
    digits.reverse()
    return bytes(digits)
