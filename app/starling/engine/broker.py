"""The broker contract: what carries publications between processes, and what it guarantees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from msgspec import Struct

from starling.protocol.messages import ClientInfo, Publication
from starling.telemetry.tracing import TraceContext


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """A place in a channel's stream: the last `offset` seen, in the stream's life `epoch`."""

    offset: int
    epoch: str


# A struct, since one is made for each message: a frozen dataclass takes half a microsecond longer.
class StreamEntry(Struct, frozen=True):
    """One publication as a stream holds it; `previous` is the offset of the entry before it (0 for the first).

    `trace` is only there when the broker tells it, and the publication belongs to a trace that is sampled. `delta`:
    readers that can apply patches may get it as one.
    """

    publication: Publication
    previous: int
    epoch: str
    trace: TraceContext | None = None
    delta: bool = False

    @property
    def offset(self) -> int:
        """The place of the publication in the stream."""
        return self.publication.offset


@dataclass(frozen=True, slots=True)
class StreamRead:
    """What one atomic read of a stream gave: its top position and the entries asked for, oldest first.

    Who stands before offset `bottom` has missed what the stream no longer holds; the top itself if it holds nothing.
    `more` is true when the read stopped at its limits, so that there may be further entries. `created`: the channel had
    no position before this read.
    """

    top: StreamPosition
    bottom: int
    entries: list[StreamEntry]
    more: bool = False
    created: bool = False


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
    """The broker did not take the call within its time: nothing is acknowledged, and the caller may try again."""


class BrokerRefused(BrokerUnavailable):
    """The broker answered that it does not do it, in the words of the message: nothing was done."""


class PublicationTooLarge(Exception):
    """The broker cannot carry a publication of this size; the message names the limit in bytes."""


PublishOutcome = StreamPosition | BrokerUnavailable | PublicationTooLarge


class LinkState(Enum):
    """The state of this process's own link to the broker.

    DEAF is told while it is down: new links fail one after the other, and yet the broker serves others of this process.
    """

    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"
    UNRESPONSIVE = "unresponsive"


class BrokerEvents(Protocol):
    """What a broker tells the node. Called from the event loop, in the broker's order; every method returns at once."""

    def on_publication(self, channel: str, entry: StreamEntry, received_at: float) -> None:
        """A publication of a subscribed channel; `entry.epoch` is empty where the channel has no history.

        `received_at` is when this process received it from the broker, on the clock of `time.monotonic`.
        """

    def on_join(self, channel: str, info: ClientInfo) -> None:
        """A client entered a subscribed channel somewhere."""

    def on_leave(self, channel: str, info: ClientInfo) -> None:
        """A client left a subscribed channel somewhere."""

    def on_link(self, state: LinkState) -> None:
        """The link was lost or found; told in order with the publications around it, which may lack some between."""


class Broker(Protocol):
    """Carries messages between processes: live delivery at most once, per channel in one order for all.

    A process subscribes a channel once; whoever calls guards against two calls for one channel at a time.
    """

    async def start(self, events: BrokerEvents) -> None:
        """Begin to connect and return at once; the link's state is told to `events`."""

    async def stop(self) -> None:
        """Give the links back; nothing is told afterwards."""

    async def subscribe(self, channel: str) -> None:
        """Return when the server has acknowledged: what is published from now on is told.

        While the link is down the wish is kept and this raises BrokerUnavailable after the broker's time; `unsubscribe`
        takes the wish back. Links that return subscribe again by themselves.
        """

    async def unsubscribe(self, channel: str) -> None:
        """End the subscription; never raises for a link that is down."""

    async def publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        """Keep and send in one atomic step; returns the position, (0, "") without history.

        Raises BrokerUnavailable when it is not known to be stored, PublicationTooLarge when it never can be.
        """

    def begin_publish(
        self, channel: str, publication: Publication, options: PublishOptions, done: Callable[[PublishOutcome], None]
    ) -> PublishOutcome | None:
        """As `publish`, without a task: return what became of it, or None, and then `done` is told later.

        What is begun first is published first.
        """

    async def publish_all(
        self, publication: Publication, requests: Sequence[tuple[str, PublishOptions]]
    ) -> list[PublishOutcome]:
        """Publish the same in many channels at once; returns what became of each, in their order.

        Raises ValueError for options that this broker has not.
        """

    async def publish_join(self, channel: str, info: ClientInfo) -> None:
        """Tell the channel's subscribers everywhere that a client entered."""

    async def publish_leave(self, channel: str, info: ClientInfo) -> None:
        """Tell the channel's subscribers everywhere that a client left."""
