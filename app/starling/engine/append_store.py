"""The contract of append-only streams: what a store keeps of one, and how it answers each change."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from starling.engine.broker import BrokerUnavailable

# Producers that one stream knows, so that nobody fills the store with names.
PRODUCERS_LIMIT = 100


class StreamKind(StrEnum):
    """What a stream holds."""

    TEXT = "text"
    JSON = "json"
    BYTES = "bytes"


class StreamStatus(StrEnum):
    """OPEN takes appends; INTERRUPTED too, its producer was silent. The others are final until it is deleted."""

    OPEN = "open"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def closed(self) -> bool:
        """Whether the stream takes nothing more."""
        return self not in (StreamStatus.OPEN, StreamStatus.INTERRUPTED)


class AppendOutcome(StrEnum):
    """What became of a change. Everything but DONE changed nothing."""

    DONE = "done"
    REPEATED = "repeated"
    """It was done before: a request that was sent again. `expected` is the last sequence that was done."""
    NO_STREAM = "no_stream"
    OTHER_KIND = "other_kind"
    CLOSED = "closed"
    FULL = "full"
    GAP = "gap"
    """The producer's sequence is not the next one; `expected` is."""
    NEW_EPOCH = "new_epoch"
    """The producer begins another epoch, whose first sequence must be 0."""
    OVERLAP = "overlap"
    """Of the sequences that were joined some are known already; `expected` is the next one."""
    ZOMBIE = "zombie"
    """The producer's epoch is over; `expected` is the epoch that counts now."""
    MANY_PRODUCERS = "many_producers"
    STALE_MARK = "stale_mark"
    """The caller's own mark of order is not above the last one."""
    ALIVE = "alive"
    """The producer was not silent; `expected` are the milliseconds until it would be."""


class Producer(Struct, frozen=True):
    """One writer of a stream: `sequence` counts its appends from 0 in each of its epochs.

    `last` is the sequence of the last of several appends that were joined, None for one alone.
    """

    id: str
    epoch: int = 0
    sequence: int = 0
    last: int | None = None


class Chunk(Struct, frozen=True):
    """A piece of a stream: `data` as it is published, `units` that `at` counts, and `size` in bytes of content."""

    data: bytes
    units: int
    size: int


class Closing(Struct, frozen=True):
    """The end of a stream; `final` is JSON that belongs to the end, empty without any."""

    status: StreamStatus
    reason: str = ""
    final: bytes = b""


class StreamInfo(Struct, frozen=True):
    """A stream as it is: `length` in the units of its kind, `size` in bytes, `offset` and `epoch` of its top."""

    kind: StreamKind
    status: StreamStatus
    offset: int
    epoch: str
    length: int
    size: int
    reason: str = ""
    final: bytes = b""
    ttl: float = 0.0
    media_type: str = ""
    expires_at: float = 0.0


class Change(Struct, frozen=True):
    """The answer to a change. `info` is the stream after it, None where there is none.

    `resumed`: an interrupted stream goes on.
    """

    outcome: AppendOutcome
    info: StreamInfo | None = None
    expected: int = 0
    resumed: bool = False


class Opened(Struct, frozen=True):
    """The answer to an opening: the stream, whether this made it, and the producer's epoch where one was named."""

    outcome: AppendOutcome
    info: StreamInfo | None
    created: bool = False
    producer_epoch: int = 0


class Opening(Struct, frozen=True):
    """How a stream is opened. `ttl` in seconds after its last use (0: for ever); `producer` empty: none is named.

    `producer_epoch` None takes the next epoch, so that earlier ones are over. `watched`: the stream is interrupted when
    its producer is silent. `media_type` is the media type that HTTP readers get, `expires_at` the end of its life in
    seconds since 1970 in place of `ttl`; both are optional. An opening that is repeated with the same `key` takes no
    further epoch, so that one that was delayed does not replace the process that sent it.
    """

    kind: StreamKind
    ttl: float
    producer: str = ""
    producer_epoch: int | None = None
    watched: bool = True
    media_type: str = ""
    expires_at: float = 0.0
    key: str = ""


class Append(Struct, frozen=True):
    """One change at a stream's end: `chunk` None only says that the producer lives, or only closes.

    `max_bytes` bounds the stream's content. `mark` must be above that of the append before, byte by byte.
    """

    kind: StreamKind
    chunk: Chunk | None = None
    closing: Closing | None = None
    producer: Producer | None = None
    max_bytes: int = 2**20
    watched: bool = True
    mark: str = ""


AppendResult = Change | BrokerUnavailable
"""What became of a change that was begun."""


class AppendStore(Protocol):
    """Keeps append-only streams in the histories that starling.engine.history.HistoryStore reads.

    Each method is atomic, and raises BrokerUnavailable. An append is published to the channel's subscribers in the same
    step, with the tags `at` (what lies before it, in units) and, when it closes the stream, `status` and `reason`.
    """

    async def open(self, channel: str, opening: Opening) -> Opened:
        """Open a stream; one that is there already is left as it is."""

    async def append(self, channel: str, change: Append) -> Change:
        """Add a chunk, close, both in one step, or neither: then it only says that the producer lives."""

    def begin_append(self, channel: str, change: Append, done: Callable[[AppendResult], None]) -> AppendResult | None:
        """As `append`, without a task: return the result, or None, and then `done` is called with it later.

        Changes keep the order in which they begin.
        """

    async def interrupt(self, channel: str, silent: float) -> Change:
        """Leave the stream interrupted, unless its producer wrote within `silent` seconds."""

    async def info(self, channel: str) -> StreamInfo | None:
        """The stream, None where there is none."""

    async def delete(self, channel: str, epoch: str = "") -> bool:
        """Remove a stream; the channel gets a new epoch, of which its subscribers are notified.

        False without a stream, and where `epoch` is given and is not its own.
        """

    async def due(self, limit: int) -> Sequence[str]:
        """Channels of open streams whose producer may have been silent, for `interrupt`; at most `limit`."""

    async def plan(self, channel: str, seconds: float | None) -> None:
        """List a stream as open and `due` after `seconds`; None takes it off the list."""

    async def open_channels(self, limit: int) -> Sequence[str]:
        """Channels of streams that are listed as open, at most `limit`."""
