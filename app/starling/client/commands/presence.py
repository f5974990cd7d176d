"""`presence` and `presence_stats`: who is in a channel, and how many."""

import time
from typing import TypeVar

from starling.client.client_connection import ClientConnection
from starling.client.commands.base import CommandHandler
from starling.client.commands.charges import charge_members
from starling.client.commands.rights import channel_options, require
from starling.engine.channels import ChannelOptions, Channels
from starling.engine.presence_tracker import PresenceTracker
from starling.engine.rights import Verb
from starling.engine.stream_contract import ANSWER_BYTES
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.decisions import Decision, Presence, PresenceStats
from starling.protocol.messages import PresenceResult, PresenceStatsResult

# Members in one answer, of ANSWER_BYTES at most. Beyond, presence_stats is left.
MEMBERS = 5_000

PresenceQuery = TypeVar("PresenceQuery", Presence, PresenceStats)


class _PresenceQueryHandler(CommandHandler[PresenceQuery, ChannelOptions]):
    """The rule of both commands."""

    def __init__(self, channels: Channels, presence: PresenceTracker) -> None:
        self._channels = channels
        self._presence = presence

    def prepare(self, client: ClientConnection, action: PresenceQuery) -> ChannelOptions:
        """The right to see who is in the channel, where presence is kept."""
        options = channel_options(client, action, self._channels)
        if not self._presence.keeps(options):
            raise CommandRefused(codes.ERROR_NOT_AVAILABLE)
        require(client, Verb.PRESENCE, action, options, self._channels)
        return options


class PresenceHandler(_PresenceQueryHandler[Presence]):
    """Reads the members of a channel."""

    action = Presence
    method = "presence"

    async def run(self, client: ClientConnection, action: Presence, prepared: ChannelOptions) -> list[Decision]:
        """Read the members."""
        async with client.gates.reading:
            try:
                members = await self._presence.members(action.channel, prepared, MEMBERS, ANSWER_BYTES)
            except CommandRefused:
                # Too many to be sent are looked at all the same.
                client.session.charge(ANSWER_BYTES, time.monotonic())
                raise
            charge_members(client, members)
            client.memberships.note_read(action.channel)
            client.carry_out(client.session.answered(action, PresenceResult(members), time.monotonic()))
            return []


class PresenceStatsHandler(_PresenceQueryHandler[PresenceStats]):
    """Counts the members of a channel."""

    action = PresenceStats
    method = "presence_stats"

    async def run(self, client: ClientConnection, action: PresenceStats, prepared: ChannelOptions) -> list[Decision]:
        """Count the members."""
        stats = await self._presence.count(action.channel, prepared)
        client.memberships.note_read(action.channel)
        result = PresenceStatsResult(stats.num_clients, stats.num_users)
        return client.session.answered(action, result, time.monotonic())
