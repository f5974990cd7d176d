"""Routes what the broker reports: publications, joins and leaves, and changes of its link."""

from starling.engine.broker import LinkState, StreamEntry
from starling.engine.clock import Clock
from starling.engine.control import Control
from starling.engine.hub import Hub
from starling.engine.link_watch import LinkWatch
from starling.engine.subscriptions import Subscriptions
from starling.protocol.messages import ClientInfo, Join, Leave, Push


class EventRouter:
    """Implements starling.engine.broker.BrokerEvents for one worker."""

    def __init__(
        self, subscriptions: Subscriptions, control: Control, hub: Hub, link_watch: LinkWatch, clock: Clock
    ) -> None:
        self._subscriptions = subscriptions
        self._control = control
        self._hub = hub
        self._link_watch = link_watch
        self._clock = clock

    def on_publication(self, channel: str, entry: StreamEntry, received_at: float) -> None:
        """Deliver a publication to this process's subscribers, or to the listener of an internal channel."""
        if (listener := self._control.listeners.get(channel)) is not None:
            listener(entry.publication)
            return
        self._hub.received_at = self._clock.arrival(received_at)
        try:
            self._subscriptions.on(channel, entry)
        finally:
            self._hub.received_at = None

    def on_join(self, channel: str, info: ClientInfo) -> None:
        """Send a join to the watchers of the channel."""
        self._hub.push_to_watchers(Push(channel, join=Join(info)))

    def on_leave(self, channel: str, info: ClientInfo) -> None:
        """Send a leave to the watchers of the channel."""
        self._hub.push_to_watchers(Push(channel, leave=Leave(info)))

    def on_link(self, state: LinkState) -> None:
        """Pass the link's state on."""
        self._link_watch.on_link(state)
