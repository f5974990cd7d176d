"""The broker contract: what carries publications between processes, and what it guarantees."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import repeat
from typing import Any, Protocol, overload

from msgspec import Struct
from msgspec.json import Decoder

from starling.protocol.messages import ClientInfo, Publication
from starling.protocol.shared_values import SharedPublications
from starling.protocol.tags_filter import Matches
from starling.telemetry.tracing import TraceContext

# Filters of which a read that is remembered keeps what they match.
_MOST_FILTERS = 8


# A struct, since one is made for each publication: a frozen dataclass takes half a microsecond longer.
class StreamPosition(Struct, frozen=True, gc=False):
    """A position in a channel's stream: the `offset` of the last entry seen, and the `epoch` of the stream."""

    offset: int
    epoch: str


# A struct for the same reason.
class StreamEntry(Struct, frozen=True, gc=False):
    """One publication as a stream holds it; `previous` is the offset of the entry before it (0 for the first).

    `trace` is set where the broker carries it and the publication belongs to a sampled trace. `delta`:
    readers that can apply patches may get it as one.
    """

    publication: Publication
    previous: int
    epoch: str
    trace: TraceContext | None = None
    delta: bool = False

    @property
    def offset(self) -> int:
        """The position of the publication in the stream."""
        return self.publication.offset


@dataclass(frozen=True, slots=True)
class StreamRead:
    """The result of one atomic read of a stream: its top position and the requested entries, oldest first.

    A reader before offset `bottom` has missed entries that the stream no longer holds; an empty stream has its top
    there.
    `more` is true when the read stopped at its limits, so that there may be further entries. `created`: the channel had
    no position before this read. `pieces`: where the store remembers entries, what codecs made of the publication of
    each, see SharedPublications; `data_bytes` of all data. A store may return one object for equal reads, so nothing
    changes it.
    """

    top: StreamPosition
    bottom: int
    entries: list[StreamEntry]
    more: bool = False
    created: bool = False
    pieces: list[dict[str, Any]] | None = field(default=None, compare=False)
    data_bytes: int | None = field(default=None, compare=False)
    _shared: dict[bool, SharedPublications] = field(default_factory=dict, compare=False, repr=False)
    _matching: dict[Matches, list[int]] = field(default_factory=dict, compare=False, repr=False)

    def publications(self, *, reverse: bool = False) -> list[Publication]:
        """The publications, with `reverse` the newest first.

        Where the store remembers entries, all that get this read get one object with what codecs made of the whole.
        """
        if self.pieces is None:
            found = [entry.publication for entry in self.entries]
            return found[::-1] if reverse else found
        shared = self._shared.get(reverse)
        if shared is None:
            step = -1 if reverse else 1
            found = [entry.publication for entry in self.entries[::step]]
            shared = self._shared[reverse] = SharedPublications(found, self.pieces[::step])
        return shared

    def matching(self, matches: Matches, *, reverse: bool) -> Iterable[int]:
        """Which entries match, with `reverse` the newest first; all that get this read share what was found."""
        step = -1 if reverse else 1
        known = self._matching.get(matches)
        if known is not None:
            return known[::step]
        found = (at for at in range(len(self.entries))[::step] if matches(self.entries[at].publication.tags or {}))
        if self.pieces is None:
            return found
        if len(self._matching) == _MOST_FILTERS:
            self._matching.clear()
        known = self._matching[matches] = sorted(found)
        return known[::step]


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How a publication is kept. `history_size` 0 keeps nothing; times are in seconds.

    Two publishes with the same `idempotency_key` in one channel within 5 minutes are one: the second returns the
    position of the first and reaches nobody. In a channel with history, a publication whose `version` (from 1; 0: none)
    is not above the one that was kept last with the same `version_epoch` is dropped: it is neither kept nor sent, and
    the position of the stream's top is returned. `trace` and `delta` travel with what is sent; they are not kept.
    """

    history_size: int = 0
    history_ttl: float = 0
    history_meta_ttl: float = 0
    idempotency_key: str = ""
    version: int = 0
    version_epoch: str = ""
    trace: TraceContext | None = None
    delta: bool = False


class BrokerUnavailable(Exception):
    """The broker did not answer a call within its time: nothing is acknowledged, and the caller may try again."""


class BrokerRefused(BrokerUnavailable):
    """The broker refused a call, for the reason in the message: nothing was changed."""

    reported = False
    """Whether the log has it."""


class PublicationTooLarge(Exception):
    """The broker cannot carry a publication of this size; the message names the limit in bytes."""


PublishOutcome = StreamPosition | BrokerUnavailable | PublicationTooLarge

PublishRequest = tuple[str, Publication, PublishOptions]
"""A channel, what is published in it, and how that is kept."""


class SamePublication(Sequence[PublishRequest]):
    """The requests to publish one publication in many channels, kept alike: no object is made for each."""

    __slots__ = ("channels", "options", "publication")

    def __init__(self, channels: Sequence[str], publication: Publication, options: PublishOptions) -> None:
        self.channels = channels
        self.publication = publication
        self.options = options

    def __len__(self) -> int:
        return len(self.channels)

    def __iter__(self) -> Iterator[PublishRequest]:
        return zip(self.channels, repeat(self.publication), repeat(self.options), strict=False)

    @overload
    def __getitem__(self, number: int) -> PublishRequest: ...

    @overload
    def __getitem__(self, number: slice) -> "SamePublication": ...

    def __getitem__(self, number: int | slice) -> "PublishRequest | SamePublication":
        if isinstance(number, slice):
            return SamePublication(self.channels[number], self.publication, self.options)
        return self.channels[number], self.publication, self.options


def channels_of(requests: Sequence[PublishRequest]) -> Sequence[str]:
    """The channel of each request."""
    return requests.channels if isinstance(requests, SamePublication) else [channel for channel, _, _ in requests]


class StoredPositions(Sequence[StreamPosition]):
    """The positions of publications that are all kept, in JSON; it is read when one of them is looked at first."""

    __slots__ = ("_count", "_found", "_json")

    def __init__(self, json: bytes, count: int) -> None:
        """`json` has `count` objects with a comma in between: `{"offset":1,"epoch":"a"},{"offset":7,"epoch":"b"}`.

        No epoch has a brace in it.
        """
        self._json = json
        self._count = count
        self._found: list[StreamPosition] | None = None

    def json_list(self, member: str) -> bytes:
        """A JSON list of objects, each with a position as its `member`."""
        if not self._count:
            return b"[]"
        before = b'{"%b":' % member.encode()
        return b"[%b%b}]" % (before, self._json.replace(b"},{", b"}},%b{" % before))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[StreamPosition]:
        return iter(self[:])

    @overload
    def __getitem__(self, number: int) -> StreamPosition: ...

    @overload
    def __getitem__(self, number: slice) -> list[StreamPosition]: ...

    def __getitem__(self, number: int | slice) -> StreamPosition | list[StreamPosition]:
        if self._found is None:
            self._found = _decode_positions(b"[%b]" % self._json)
        return self._found[number]


_decode_positions = Decoder(list[StreamPosition]).decode


class LinkState(Enum):
    """The state of this process's own link to the broker.

    UNRESPONSIVE follows DOWN: new links fail one after the other, although the broker serves other connections of this
    process.
    """

    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"
    UNRESPONSIVE = "unresponsive"


class BrokerEvents(Protocol):
    """What a broker reports to the node: called from the event loop, in the broker's order; no method waits."""

    def on_publication(self, channel: str, entry: StreamEntry, received_at: float) -> None:
        """A publication of a subscribed channel; `entry.epoch` is empty where the channel has no history.

        `received_at` is when this process received it from the broker, on the clock of `time.monotonic`.
        """

    def on_join(self, channel: str, info: ClientInfo) -> None:
        """A client entered a subscribed channel somewhere."""

    def on_leave(self, channel: str, info: ClientInfo) -> None:
        """A client left a subscribed channel somewhere."""

    def on_link(self, state: LinkState) -> None:
        """The link was lost or restored; called in order with publications, of which some may be missing in between."""


class Broker(Protocol):
    """Carries messages between processes: live delivery at most once, per channel in one order for all.

    A process subscribes to a channel once; the caller prevents two concurrent calls for one channel.
    """

    async def start(self, events: BrokerEvents) -> None:
        """Begin to connect and return at once; `events` receives the state of the link."""

    async def stop(self) -> None:
        """Close the links; `events` receives nothing afterwards."""

    async def subscribe(self, channel: str) -> None:
        """Return when the server has acknowledged: what is published from now on is received.

        While the link is down the request is kept and this raises BrokerUnavailable after the broker's timeout;
        `unsubscribe` withdraws the request. Links that reconnect subscribe again by themselves.
        """

    def subscribe_now(self, channel: str) -> bool:
        """As `subscribe`, where that needs no waiting; False where it does, and then nothing was done."""

    async def unsubscribe(self, channel: str) -> None:
        """End the subscription; never raises for a link that is down."""

    async def publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        """Keep and send in one atomic step; returns the position, (0, "") without history.

        Raises BrokerUnavailable when it is not known to be stored, PublicationTooLarge when it never can be.
        """

    def begin_publish(
        self, channel: str, publication: Publication, options: PublishOptions, done: Callable[[PublishOutcome], None]
    ) -> PublishOutcome | None:
        """As `publish`, without a task: return the outcome, or None, and then `done` is called with it later.

        Publishes keep the order in which they begin.
        """

    def begin_publish_all(
        self, requests: Sequence[PublishRequest], done: Callable[[Sequence[PublishOutcome]], None]
    ) -> Sequence[PublishOutcome] | None:
        """As `begin_publish` for each of `requests`, in their order, with one report of all outcomes in that order.

        What requests that follow each other have in common, the very same publication and options, is encoded once.
        Raises ValueError for options that this broker does not support, and then nothing is published.
        """

    async def publish_all(self, requests: Sequence[PublishRequest]) -> list[PublishOutcome]:
        """As `begin_publish_all`; returns the outcomes."""

    async def publish_join(self, channel: str, info: ClientInfo) -> None:
        """Publish to the channel's subscribers in all processes that a client entered."""

    async def publish_leave(self, channel: str, info: ClientInfo) -> None:
        """Publish to the channel's subscribers in all processes that a client left."""
