"""What this process's clients do to presence, and how others are told who comes and goes."""

from collections.abc import Callable, Coroutine
from typing import Any

from app.core.broker import Broker
from app.core.channels import ChannelOptions
from app.core.presence import Presence
from app.protocol.messages import ClientInfo


class Attendance:
    """Keeps the clients of this process in the presence store, and publishes joins and leaves."""

    def __init__(
        self,
        presence: Presence | None,
        broker: Broker,
        *,
        start_task: Callable[[Coroutine[Any, Any, None]], None],
        leave_delay: float = 0.0,
    ) -> None:
        self._presence = presence
        self._broker = broker
        self._start_task = start_task

    async def arrive(self, channel: str, info: ClientInfo, options: ChannelOptions) -> None:
        """A client entered a channel."""
        if options.presence and self._presence is not None:
            await self._presence.add(channel, info)
        if options.join_leave:
            await self._broker.publish_join(channel, info)

    def depart(self, channel: str, info: ClientInfo, options: ChannelOptions) -> None:
        """A client left a channel."""
        self._start_task(self._depart(channel, info, options))

    async def _depart(self, channel: str, info: ClientInfo, options: ChannelOptions) -> None:
        if options.presence and self._presence is not None:
            await self._presence.remove(channel, info)
        if options.join_leave:
            await self._broker.publish_leave(channel, info)

    async def refresh(self) -> None:
        """Keep the entries of this process alive."""

    async def close(self) -> None:
        """Take every entry of this process out."""
