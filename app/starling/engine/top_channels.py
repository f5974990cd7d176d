"""Which channels are the busiest: of this node, and over all nodes."""

import msgspec
from msgspec import Struct

from starling.engine.control import Control, NodeCommand
from starling.engine.hub import Hub
from starling.telemetry.top_channels import ChannelTraffic, joined


class TopChannelsCommand(NodeCommand):
    """Return the `limit` busiest channels."""

    limit: int = 10


class TopChannelsAnswer(Struct):
    """The busiest channels of a node, the busiest first."""

    channels: list[ChannelTraffic]


class TopChannels:
    """Finds the busiest channels, by deliveries over about the last ten seconds."""

    def __init__(self, hub: Hub, control: Control) -> None:
        self._hub = hub
        self._control = control
        control.on_command(TopChannelsCommand, lambda command: TopChannelsAnswer(self.here(command.limit)))

    def here(self, limit: int) -> list[ChannelTraffic]:
        """The `limit` busiest channels of this node, the busiest first."""
        busiest = self._hub.traffic.busiest(limit)
        for traffic in busiest:
            traffic.subscribers = self._hub.subscribers.count(traffic.channel)
        return busiest

    async def everywhere(self, limit: int) -> list[ChannelTraffic]:
        """The `limit` busiest channels over all nodes that answer in time, the busiest first.

        Raises BrokerUnavailable, and NodeCommandRefused where a node of another version does not know what is asked.
        """
        # A channel that is busy everywhere may be the last in each node's own list.
        answers = await self._control.ask(TopChannelsCommand(2 * limit))
        reports = [msgspec.json.decode(answer, type=TopChannelsAnswer).channels for answer in answers.values()]
        return joined(reports, limit)
