"""Presence without a connection: agents, such as bots and jobs, that a backend shows in a channel for a while."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial

import structlog
from msgspec import Raw

from starling.engine.broker import Broker, BrokerUnavailable, PublicationTooLarge
from starling.engine.channels import ChannelOptions
from starling.engine.presence import PresenceStore
from starling.protocol.codes import ERROR_NOT_AVAILABLE, CommandRefused
from starling.protocol.messages import NO_PAYLOAD, ClientInfo

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.presence")

CLIENT_MARK = "agent:"
# The store keeps an agent for longer than it is shown by this, so that its end finds it there. Seconds.
_MARGIN = 2.0


class Agents:
    """Shows agents in presence, as the client `agent:USER`, and publishes their joins and leaves.

    Any process may set, renew and unset an agent. The one that set it last ends it in time; if that process is gone by
    then, the store forgets the agent and no leave is published, as for clients of a process that crashed.
    """

    def __init__(
        self,
        presence: PresenceStore | None,
        broker: Broker,
        *,
        start_task: Callable[[Coroutine[object, None, None]], object],
    ) -> None:
        """`presence` None: this broker keeps none. `start_task` runs work in a task that the caller owns."""
        self._presence = presence
        self._broker = broker
        self._start_task = start_task
        self._ends: dict[tuple[str, str], asyncio.TimerHandle] = {}

    async def set(self, channel: str, user: str, info: Raw, seconds: float, options: ChannelOptions) -> None:
        """Show an agent for `seconds` from now. Raises BrokerUnavailable, CommandRefused where no presence is kept."""
        agent = _agent(user, info)
        new = await self._store(options).put(channel, agent, seconds + _MARGIN)
        self._forget(channel, user)
        end = partial(self._end, channel, agent, options)
        self._ends[channel, user] = asyncio.get_running_loop().call_later(seconds, end)
        if new and options.join_leave:
            await self._broker.publish_join(channel, agent)

    async def unset(self, channel: str, user: str, options: ChannelOptions) -> None:
        """Take an agent out; nothing, if it is not there. Raises as `set` does."""
        agent = _agent(user, NO_PAYLOAD)
        removed = await self._store(options).end(channel, agent, None)
        self._forget(channel, user)
        if removed is not None and options.join_leave:
            await self._broker.publish_leave(channel, removed)

    def stop(self) -> None:
        """End nothing any more: what is shown is for the store to forget."""
        for timer in self._ends.values():
            timer.cancel()
        self._ends.clear()

    def _store(self, options: ChannelOptions) -> PresenceStore:
        if self._presence is None or not options.presence:
            raise CommandRefused(ERROR_NOT_AVAILABLE)
        return self._presence

    def _forget(self, channel: str, user: str) -> None:
        timer = self._ends.pop((channel, user), None)
        if timer is not None:
            timer.cancel()

    def _end(self, channel: str, agent: ClientInfo, options: ChannelOptions) -> None:
        del self._ends[channel, agent.user]
        self._start_task(self._take_out(channel, agent, options))

    async def _take_out(self, channel: str, agent: ClientInfo, options: ChannelOptions) -> None:
        """Take an agent out whose time is over, unless another process has renewed it or taken it out."""
        try:
            removed = await self._store(options).end(channel, agent, _MARGIN)
            if removed is not None and options.join_leave:
                await self._broker.publish_leave(channel, removed)
        except (BrokerUnavailable, PublicationTooLarge) as error:
            log.warning("agent_leave_not_published", channel=channel, client=agent.client, reason=str(error))


def _agent(user: str, info: Raw) -> ClientInfo:
    return ClientInfo(user, f"{CLIENT_MARK}{user}", info)
