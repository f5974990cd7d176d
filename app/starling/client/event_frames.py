"""Frames of server-sent events: whole ones that all readers of one channel share, and ones whose ids readers add."""

from collections.abc import Callable, Iterable

import msgspec

from starling.client.one_way import StreamedPushes
from starling.engine.stream_contract import ANSWER_BYTES
from starling.engine.transport import Transport
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.event_stream import KEEP_ALIVE, data_fields, event, id_field, name_field
from starling.protocol.messages import Batch, Frame, Publication, Push, StreamFrame
from starling.protocol.portable_json import is_json
from starling.protocol.resume_id import id_of_one, id_of_several, part_of_several, with_right

# The tag of a publication that names the type of its event.
NAME_TAG = "event"
# Types that have a meaning of their own for readers: no publication can take one.
RESET, DISCONNECT, UNSUBSCRIBE = "reset", "disconnect", "unsubscribe"
RESERVED_NAMES = frozenset({RESET, DISCONNECT, UNSUBSCRIBE, "error", "open"})

EpochOf = Callable[[str], str]


def publication_fields(publication: Publication) -> bytes:
    """The type and the data of a publication's event. Raises CommandRefused for data that is no JSON."""
    data = bytes(publication.data)
    if not is_json(data):
        raise CommandRefused(codes.DISCONNECT_INAPPROPRIATE_PROTOCOL)
    name = publication.tags.get(NAME_TAG, "") if publication.tags else ""
    if not name or name in RESERVED_NAMES or "\n" in name or "\r" in name:
        return data_fields(data)
    return name_field(name) + data_fields(data)


def push_event(push: Push) -> bytes:
    """The event of a push that is no publication; nothing for what concerns no reader."""
    if push.unsubscribe is not None:
        ended = {"channel": push.channel, "code": push.unsubscribe.code, "reason": push.unsubscribe.reason}
        return event(msgspec.json.encode(ended), name=UNSUBSCRIBE)
    if push.disconnect is not None:
        return event(msgspec.json.encode(push.disconnect), name=DISCONNECT)
    return b""


class WholeEvents(StreamedPushes):
    """Encodes pushes as events for readers of one channel."""

    def __init__(self, epoch_of: EpochOf | None) -> None:
        """`epoch_of` gives the epoch of a channel's stream; None: these readers cannot resume, and get no ids."""
        self._epoch_of = epoch_of

    def encode_push(self, push: Push) -> Frame:
        """One push as an event."""
        publication = push.pub
        if publication is None:
            return StreamFrame(push_event(push) or KEEP_ALIVE)
        fields = publication_fields(publication)
        if self._epoch_of is None or not publication.offset:
            return StreamFrame(b"%b\n" % fields)
        identified = id_of_one(self._epoch_of(push.channel), publication.offset)
        return StreamFrame(b"%b%b\n" % (fields, id_field(identified)))


class PartialEvents(StreamedPushes):
    """Encodes publications as events without ids, which the `EventIds` of each reader add."""

    def __init__(self, epoch_of: EpochOf) -> None:
        self._epoch_of = epoch_of

    def encode_push(self, push: Push) -> Frame:
        """One push as an event, a publication as a part of one."""
        publication = push.pub
        if publication is None:
            return StreamFrame(push_event(push) or KEEP_ALIVE)
        return PartialEvent(
            publication_fields(publication), push.channel, self._epoch_of(push.channel), publication.offset
        )


class PartialEvent(Frame):
    """A publication's event without its id: `payload` is its type and its data."""

    __slots__ = ("channel", "epoch", "offset")

    def __init__(self, fields: bytes, channel: str, epoch: str, offset: int) -> None:
        self.payload = fields
        self.text = False
        self.wire = b""
        self.compressed = None
        self.channel = channel
        self.epoch = epoch
        self.offset = offset


class EventStreams:
    """What the event streams of one worker share: those that share an encoder get the same frames.

    One stream resumes `most` channels at most. A reader gets what it missed in pieces of `page_bytes`.
    """

    def __init__(self, epoch_of: EpochOf, most: int, write_limit: int) -> None:
        """More than `write_limit` bytes waiting for a reader make it too slow a one."""
        self.resumable = WholeEvents(epoch_of)
        self.live_only = WholeEvents(None)
        self.partial = PartialEvents(epoch_of)
        self.most = most
        self.page_bytes = min(ANSWER_BYTES, write_limit // 2)

    @property
    def answers_fit(self) -> bool:
        """Whether a reader may get all at once that is kept in memory of a channel."""
        return self.page_bytes == ANSWER_BYTES


EventEncoder = WholeEvents | PartialEvents


class EventIds:
    """Where one reader is in each of its channels, and the ids of its events.

    `right` is the right to resume the session of a ticket, and a part of every id.
    """

    __slots__ = ("_index", "_names_channels", "_parts", "right")

    def __init__(self, channels: Iterable[str], *, names_channels: bool = False) -> None:
        """`names_channels`: events without a type of their own have their channel for it."""
        self._index = {channel: index for index, channel in enumerate(channels)}
        self._names_channels = names_channels
        self._parts: dict[int, str] = {}
        self.right = ""

    def move(self, channel: str, epoch: str, offset: int) -> None:
        """The reader has got all of a channel up to here; nothing, where the channel is none of the URL's."""
        index = self._index.get(channel)
        if index is not None and epoch:
            one = len(self._index) == 1
            self._parts[index] = id_of_one(epoch, offset) if one else part_of_several(index, epoch, offset)

    def forget(self, channel: str) -> None:
        """The reader has no position in a channel."""
        self._parts.pop(self._index[channel], None)

    @property
    def text(self) -> str:
        """The id that names every position; empty without any, and without a right."""
        return with_right(id_of_several(self._parts.values()), self.right)

    def event(self, fields: bytes, channel: str, epoch: str, offset: int) -> bytes:
        """The whole event of a publication, after which the reader is at `offset`; 0: the position stays."""
        if self._names_channels and not fields.startswith(b"event:"):
            fields = name_field(channel) + fields
        if not (offset and epoch):
            return b"%b\n" % fields
        self.move(channel, epoch, offset)
        return b"%b%b\n" % (fields, id_field(self.text))


class IdentifyingTransport:
    """The transport of a reader whose events have ids of their own: it adds them in the order of writing."""

    __slots__ = ("_ids", "_inner")

    def __init__(self, inner: Transport, ids: EventIds) -> None:
        self._inner = inner
        self._ids = ids

    def send_frame(self, frame: Frame) -> None:
        """Send a frame, with its id where it has none."""
        self._inner.send_frame(self._identified(frame))

    def send_batch(self, batch: Batch) -> None:
        """Send frames."""
        self.queue_batch(batch)

    def queue_batch(self, batch: Batch) -> None:
        """Send frames, as one."""
        self._inner.send_frame(StreamFrame(b"".join([self._identified(frame).payload for frame in batch.frames])))

    def _identified(self, frame: Frame) -> Frame:
        if not isinstance(frame, PartialEvent):
            return frame
        return StreamFrame(self._ids.event(frame.payload, frame.channel, frame.epoch, frame.offset))

    def ping(self) -> None:
        """As the transport does."""
        self._inner.ping()

    def pause_reading(self) -> None:
        """As the transport does."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """As the transport does."""
        self._inner.resume_reading()

    @property
    def replies_wait(self) -> bool:
        """As the transport has it."""
        return self._inner.replies_wait

    def takes_replies(self) -> bool:
        """As the transport has it."""
        return self._inner.takes_replies()

    def close(self, code: int, reason: str = "") -> None:
        """As the transport does."""
        self._inner.close(code, reason)
