"""Reads of streams as they were answered last, and how what was published since completes them."""

from collections.abc import Sequence
from dataclasses import dataclass

from starling.brokers.redis.known_entries import KnownEntry, Row
from starling.engine.broker import StreamPosition, StreamRead


@dataclass(frozen=True, slots=True)
class ReadKey:
    """What is asked for: see HistoryStore.read."""

    channel: str
    after: int
    before: int | None
    limit: int | None
    max_bytes: int | None
    newest: bool


class KnownRead:
    """The answer to a read, in which no entry was malformed."""

    __slots__ = ("entries", "read")

    def __init__(
        self, top: StreamPosition, bottom: int, entries: list[KnownEntry], *, more: bool, created: bool = False
    ) -> None:
        """As the fields of StreamRead; `entries` are the oldest first."""
        self.entries = entries
        size = sum([len(known.entry.publication.data) for known in entries])
        publications, pieces = [known.entry for known in entries], [known.pieces for known in entries]
        self.read = StreamRead(top, bottom, publications, more, created, pieces, size)

    @property
    def state(self) -> str:
        """What the read script says of the stream while the answer stays the same."""
        return f"{self.read.top.epoch} {self.read.top.offset} {self.read.bottom}"

    @property
    def size(self) -> int:
        """What it takes, in bytes."""
        return sum([known.size for known in self.entries])

    def reaches_top(self, key: ReadKey) -> bool:
        """Whether what is published next comes behind the last of the entries."""
        return key.before is None and bool(self.entries) and self.entries[-1].entry.offset == self.read.top.offset

    def leads_to(self, epoch: str, newer: Sequence[Row]) -> bool:
        """Whether these entries are the next of the same stream, as far as their positions show."""
        last = b"%d" % self.read.top.offset
        for name, fields in newer:
            if fields[:2] != [b"p", last]:
                return False
            last = name.split(b"-")[0]
        return epoch == self.read.top.epoch

    def followed_by(
        self, key: ReadKey, top: StreamPosition, bottom: int, newer: Sequence[KnownEntry]
    ) -> "KnownRead | None":
        """The answer to the same read, once `newer` entries stand behind these and none is left up to `bottom`.

        None where it takes more than these to know.
        """
        kept = [known for known in self.entries if known.entry.offset > bottom]
        lacks_older = key.newest and self.read.more and len(kept) == len(self.entries)
        entries, more = [*kept, *newer], lacks_older
        limit = key.limit
        if limit is not None and len(entries) >= limit:
            entries, more = (entries[-limit:] if key.newest else entries[:limit]), True
        elif lacks_older:
            # It was cut by its bytes, of which older entries may have room now.
            return None
        if key.max_bytes is not None and sum([_row_bytes(known) for known in entries]) > key.max_bytes:
            return None
        return KnownRead(top, bottom, entries, more=more)


def _row_bytes(known: KnownEntry) -> int:
    """The bytes of an entry as the read script counts them."""
    fields = known.row[1]
    return sum(map(len, fields[1::2]))
