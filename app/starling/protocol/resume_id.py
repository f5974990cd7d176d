"""The ids of server-sent events by which a reader resumes: `Last-Event-ID` of its next request, or `?since=`.

    one channel         EPOCH:OFFSET
    several channels    INDEX.EPOCH.OFFSET,INDEX.EPOCH.OFFSET…     INDEX: in the order of the URL; OFFSET in base 36
    after a ticket      the same, and behind a `~` the right to resume its session

A channel without a position is not in it. `0` stands for everything that is kept.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msgspec import Struct

from starling.protocol.messages import StreamPosition

FROM_START = "0"
# An id travels in every event and in a header of every request.
ID_BYTES = 2048
# What one channel of several takes at most: index, epoch, offset and what stands between them.
CHANNEL_BYTES = 27
MOST_CHANNELS = 64

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_HIGHEST_OFFSET = 2**63 - 1
_ONE = re.compile(r"(?P<epoch>[\w-]{1,32}):(?P<offset>\d{1,19})", re.ASCII)
_EACH = re.compile(r"(?P<index>0|[1-9]\d{0,4})\.(?P<epoch>[\w-]{1,32})\.(?P<offset>[0-9a-z]{1,13})", re.ASCII)
_RIGHT = re.compile(r"[\w.-]{1,2000}", re.ASCII)
_NO_POSITIONS: Mapping[int, StreamPosition] = MappingProxyType({})


class ResumeIdInvalid(ValueError):
    """A text that is no id of an event of these channels; the message explains why."""


class ResumeId(Struct, frozen=True):
    """Where a reader is in its channels, by their index in the URL.

    `from_start`: it wants everything that is kept in the others. `right` is the right to resume the session of a
    ticket; empty without one. Its `repr` does not show that.
    """

    positions: Mapping[int, StreamPosition] = _NO_POSITIONS
    from_start: bool = False
    right: str = ""

    def __repr__(self) -> str:
        return f"ResumeId(positions={dict(self.positions)}, from_start={self.from_start})"


def id_of_one(epoch: str, offset: int) -> str:
    """The id of an event of a single channel; empty where the channel keeps no history."""
    return f"{epoch}:{offset}" if epoch else ""


def part_of_several(index: int, epoch: str, offset: int) -> str:
    """The part of one channel in the id of an event that is one of several channels'."""
    return f"{index}.{epoch}.{_base36(offset)}"


def id_of_several(parts: Iterable[str]) -> str:
    """The id of an event that is one of several channels': the parts of those that keep history."""
    return ",".join(parts)


def with_right(event_id: str, right: str) -> str:
    """`event_id` with the right to resume the session of a ticket, if there is one."""
    return f"{event_id}~{right}" if right else event_id


def parse_resume_id(text: str, channels: int) -> ResumeId:
    """Read an id that a request for `channels` channels brings. Raises ResumeIdInvalid."""
    if len(text) > ID_BYTES:
        raise ResumeIdInvalid(f"it has over {ID_BYTES} characters")
    positions, mark, right = text.partition("~")
    if mark and not _RIGHT.fullmatch(right):
        raise ResumeIdInvalid("behind the ~ is no right to resume a session")
    if positions == FROM_START:
        return ResumeId(from_start=True, right=right)
    if not positions:
        if mark:
            return ResumeId(right=right)
        raise ResumeIdInvalid("it is empty")
    return ResumeId(_one(positions) if channels == 1 else _several(positions, channels), right=right)


def _one(text: str) -> dict[int, StreamPosition]:
    found = _ONE.fullmatch(text)
    if found is None:
        raise ResumeIdInvalid("with one channel it is EPOCH:OFFSET, or 0 for everything that is kept")
    return {0: StreamPosition(_checked(int(found["offset"])), found["epoch"])}


def _several(text: str, channels: int) -> dict[int, StreamPosition]:
    positions: dict[int, StreamPosition] = {}
    for part in text.split(","):
        found = _EACH.fullmatch(part)
        if found is None:
            raise ResumeIdInvalid("with several channels it is the whole id of one of their events, or 0")
        index = int(found["index"])
        if index >= channels or index in positions:
            raise ResumeIdInvalid("it is of other channels than those of this address")
        positions[index] = StreamPosition(_checked(int(found["offset"], 36)), found["epoch"])
    return positions


def _checked(offset: int) -> int:
    if offset > _HIGHEST_OFFSET:
        raise ResumeIdInvalid("its offset is beyond all offsets")
    return offset


def _base36(number: int) -> str:
    digits = ""
    while number >= 36:
        number, rest = divmod(number, 36)
        digits = _DIGITS[rest] + digits
    return _DIGITS[number] + digits
