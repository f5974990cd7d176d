"""One process's worth of a broker in a test: a started broker, and everything it reported, in order."""

from msgspec import Raw

from starling.brokers.broadcast import BroadcastBroker
from starling.engine.broker import LinkState, PublishOptions, StreamEntry
from starling.protocol.messages import ClientInfo, Publication

LIVE = PublishOptions()


class Party:
    """A broker and its recorded events; implements BrokerEvents."""

    def __init__(self, broker: BroadcastBroker) -> None:
        self.broker = broker
        self.links: list[LinkState] = []
        self.entries: list[tuple[str, StreamEntry]] = []
        self.joins: list[tuple[str, ClientInfo]] = []
        self.leaves: list[tuple[str, ClientInfo]] = []
        self.reported: list[str] = []

    def on_publication(self, channel: str, entry: StreamEntry, received_at: float) -> None:
        self.entries.append((channel, entry))
        self.reported.append("publication")
        if bytes(entry.publication.data) == b'"raise"':
            raise RuntimeError("a subscriber's mistake")

    def on_join(self, channel: str, info: ClientInfo) -> None:
        self.joins.append((channel, info))

    def on_leave(self, channel: str, info: ClientInfo) -> None:
        self.leaves.append((channel, info))

    def on_link(self, state: LinkState) -> None:
        self.links.append(state)
        self.reported.append(state.value)

    def received(self, channel: str) -> list[bytes]:
        """The data of the publications of `channel`, in order."""
        return [bytes(entry.publication.data) for name, entry in self.entries if name == channel]

    @property
    def up(self) -> bool:
        return bool(self.links) and self.links[-1] is LinkState.UP

    @property
    def down(self) -> bool:
        return bool(self.links) and self.links[-1] is LinkState.DOWN

    async def publish(self, channel: str, data: bytes) -> None:
        await self.broker.publish(channel, Publication(Raw(data)), LIVE)
