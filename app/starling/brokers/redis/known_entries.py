"""Entries of streams as they were read last, with what was made of them: entries never change, and reads overlap."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starling.engine.broker import StreamEntry

# In bytes of stored publications with what an entry adds to them; what is made of them takes a few times as much.
KNOWN_BYTES = 2 * 1024 * 1024
# What an entry takes in memory beyond its publication, about; so does the name of a channel.
_ENTRY_BYTES = 512
# Entries of a channel, at least, before those are looked for that its stream does not hold any more.
_LEAST_ENTRIES = 64

Row = list[Any]
"""An entry as Redis returns it: its id, and its fields with their values."""


@dataclass(eq=False, slots=True)
class KnownEntry:
    """An entry, the row that it was read from, and what codecs made of its publication, by their names."""

    row: Row
    entry: StreamEntry
    pieces: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """What it takes, in bytes, as KNOWN_BYTES counts them."""
        return _size(self.entry)


def _size(entry: StreamEntry) -> int:
    return len(entry.publication.data) + _ENTRY_BYTES


@dataclass(eq=False, slots=True)
class _Channel:
    """The entries of one channel by their ids. Beyond `many` those are looked for that the stream has lost."""

    epoch: str
    entries: dict[bytes, KnownEntry] = field(default_factory=dict)
    size: int = 0
    many: int = _LEAST_ENTRIES


class KnownEntries:
    """The entries of the channels that were read last, at most `max_bytes` together."""

    def __init__(self, max_bytes: int = KNOWN_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._channels: OrderedDict[str, _Channel] = OrderedDict()
        # Channels that were read once, with the bytes that their entries would take.
        self._read_once: OrderedDict[str, int] = OrderedDict()
        self._read_once_bytes = 0

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return self._bytes

    def is_worth_keeping(self, channel: str) -> bool:
        """Whether a channel is read again while there is room for its entries.

        Of a client that reads more channels in turn than have room, nothing is kept: it would be forgotten before it is
        read again, and keeping it costs as much as reading it.
        """
        return channel in self._channels or channel in self._read_once

    def note_read(self, channel: str, entries: Sequence[StreamEntry]) -> None:
        """Remember that a channel was read, without its entries."""
        size = _ENTRY_BYTES + sum([_size(entry) for entry in entries])
        self._read_once_bytes += size - self._read_once.pop(channel, 0)
        self._read_once[channel] = size
        while self._read_once_bytes > self._max_bytes:
            self._read_once_bytes -= self._read_once.popitem(last=False)[1]

    def find(self, channel: str, epoch: str, rows: Sequence[Row]) -> list[KnownEntry | None]:
        """What was made of each row, None for those that are new."""
        known = self._channels.get(channel)
        if known is None or known.epoch != epoch:
            return [None] * len(rows)
        self._channels.move_to_end(channel)
        entry_of = known.entries.get
        found = [entry_of(row[0]) for row in rows]
        return [
            entry if entry is not None and entry.row == row else None for entry, row in zip(found, rows, strict=True)
        ]

    def keep(self, channel: str, epoch: str, bottom: int, entries: Sequence[KnownEntry]) -> None:
        """Remember new entries of a channel, whose stream holds none up to offset `bottom` any more."""
        self._read_once_bytes -= self._read_once.pop(channel, 0)
        known = self._channels.get(channel)
        if known is None or known.epoch != epoch:
            self._forget(channel)
            known = self._channels[channel] = _Channel(epoch)
        for entry in entries:
            before = known.entries.get(entry.row[0])
            self._grow(known, entry.size - (0 if before is None else before.size))
            known.entries[entry.row[0]] = entry
        if len(known.entries) > known.many:
            known.entries = {name: entry for name, entry in known.entries.items() if entry.entry.offset > bottom}
            known.many = max(_LEAST_ENTRIES, 2 * len(known.entries))
            self._grow(known, sum(entry.size for entry in known.entries.values()) - known.size)
        self._channels.move_to_end(channel)
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._channels)))

    def _grow(self, known: _Channel, size: int) -> None:
        known.size += size
        self._bytes += size

    def _forget(self, channel: str) -> None:
        known = self._channels.pop(channel, None)
        if known is not None:
            self._bytes -= known.size
