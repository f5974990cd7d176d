"""Requests and results of the methods for append-only streams."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from starling.engine.append_store import StreamKind, StreamStatus
from starling.web.api_models import Name

STREAM_WAIT = 60

STREAM_LIST = 1_000

Producer = Annotated[
    str,
    Meta(
        max_length=255,
        description="Who writes, by a name of your choice. With it `producer_epoch` and `sequence` count: an append "
        "that is sent again is not done twice, and a process that was replaced is refused.",
    ),
]

ProducerEpoch = Annotated[
    int,
    Meta(ge=0, le=2**53 - 1, description="Which process of this producer writes; a higher one replaces lower ones."),
]

Sequence = Annotated[int, Meta(ge=0, le=2**53 - 1, description="Counts the appends of this epoch, from 0.")]

StreamText = Annotated[str, Meta(description="The chunk, in a stream of text.", examples=["Hello"])]

StreamJson = Annotated[
    Raw, Meta(description="The chunk, in a stream of JSON: an array of items.", examples=[[{"a": 1}]])
]

StreamBytes = Annotated[str, Meta(description="The chunk, in a stream of bytes: base64.")]

StreamReason = Annotated[str, Meta(max_length=1024, description="Why, for readers and producers.")]

StreamTtl = Annotated[float, Meta(gt=0, le=315360000, description="Seconds that it is kept after its last use.")]


class StreamOpenBody(Struct):
    """Open an append-only stream; one that is open already is found as it is. Its namespace has the option `stream`."""

    channel: Name
    type: Annotated[
        StreamKind | None, Meta(description="`text`, `json` or `bytes`; left out: what the namespace says.")
    ] = None
    ttl: Annotated[StreamTtl | None, Meta(description="Left out: stream_ttl of the namespace.")] = None
    producer: Producer = ""
    producer_epoch: Annotated[
        ProducerEpoch | None,
        Meta(description="Left out: the next one, so that all processes of this producer before are replaced."),
    ] = None
    idempotency_key: Annotated[
        str,
        Meta(
            max_length=255,
            description="Random text of this process: its request again, also one that was delayed, takes no further "
            "epoch.",
        ),
    ] = ""


class StreamAppendBody(Struct):
    """Add a chunk to the end of a stream: `text`, `json` or `b64data`. Without one it says that the producer lives."""

    channel: Name
    text: StreamText = ""
    json: StreamJson = msgspec.field(default_factory=Raw)
    b64data: StreamBytes = ""
    producer: Producer = ""
    producer_epoch: ProducerEpoch = 0
    sequence: Sequence = 0
    window: Annotated[
        bool,
        Meta(
            description="Join it with what this producer sends within append_window; the answer comes when it is kept."
        ),
    ] = False


class StreamCloseBody(Struct):
    """Close a stream for good, with a last chunk or without."""

    channel: Name
    status: Annotated[Literal["complete", "failed", "cancelled"], Meta(description="How it ended.")] = "complete"
    reason: StreamReason = ""
    final: Annotated[Raw, Meta(description="JSON that belongs to the end, such as counted tokens.")] = msgspec.field(
        default_factory=Raw
    )
    text: StreamText = ""
    json: StreamJson = msgspec.field(default_factory=Raw)
    b64data: StreamBytes = ""
    producer: Producer = ""
    producer_epoch: ProducerEpoch = 0
    sequence: Sequence = 0


class StreamCancelBody(Struct):
    """Close a stream as cancelled: its producer is notified, wherever it runs."""

    channel: Name
    reason: StreamReason = ""


class StreamInfoBody(Struct):
    """Ask how a stream is; with `wait` not before it is closed, or the seconds are over."""

    channel: Name
    wait: Annotated[float, Meta(ge=0, le=STREAM_WAIT, description="Seconds to wait for its end.")] = 0
    producer: Producer = ""
    producer_epoch: ProducerEpoch = 0


class StreamDeleteBody(Struct):
    """Delete a stream; another one may then be opened in its channel."""

    channel: Name
    epoch: Annotated[
        str,
        Meta(
            max_length=255,
            description="Of the stream that is meant, by stream_info: this request again, also one that was delayed, "
            "deletes no later one. Left out: whichever there is.",
        ),
    ] = ""


class StreamListBody(Struct):
    """Ask which streams are open."""

    limit: Annotated[int, Meta(ge=1, le=STREAM_LIST, description="Streams in the answer.")] = 100


class AppendStreamResponse(Struct, omit_defaults=True):
    """A stream: its type, `status` (open, complete, failed, cancelled, interrupted) and the position of its end.

    `length` is what it holds in UTF-8 bytes, items or bytes, by its type, `size` in bytes. `created`: it was opened by
    this request. `repeated`: the request was done before. `producer_epoch` is the one to write with;
    `append_window` and `producer_timeout` are those of the namespace, in seconds.
    """

    type: StreamKind
    status: StreamStatus
    offset: Annotated[int, Meta(ge=0)]
    epoch: str
    length: int
    size: int
    reason: str = ""
    final: Raw | UnsetType = UNSET
    created: bool = False
    repeated: bool = False
    producer_epoch: int | UnsetType = UNSET
    append_window: float = 0
    producer_timeout: float = 0


class StreamDeleteResponse(Struct):
    """Whether there was a stream."""

    deleted: bool


class ListedStream(Struct, omit_defaults=True):
    """An open stream, by its channel."""

    channel: str
    type: StreamKind
    status: StreamStatus
    length: int
    size: int


class StreamListResponse(Struct):
    """Streams that are open, over all nodes."""

    streams: list[ListedStream]
