"""`history`: publications that a channel keeps."""

import time

from starling.client.client_connection import ClientConnection
from starling.client.commands.base import Command
from starling.client.commands.rights import channel_options, require
from starling.engine.channels import ChannelOptions, Channels
from starling.engine.history import HistoryReader
from starling.engine.rights import Verb
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.decisions import Decision
from starling.protocol.decisions import History as HistoryAction


class History(Command):
    """Reads a part of a channel's stream, at most `limit` publications at once."""

    action = HistoryAction
    method = "history"

    def __init__(self, channels: Channels, history: HistoryReader, limit: int) -> None:
        self._channels = channels
        self._history = history
        self._limit = limit

    def prepare(self, client: ClientConnection, action: HistoryAction) -> ChannelOptions:
        """The right to read the channel's history, where there is one."""
        options = channel_options(client, action, self._channels)
        if not options.keeps_history or not client.reads(options):
            raise CommandRefused(codes.ERROR_NOT_AVAILABLE)
        require(client, Verb.HISTORY, action, options, self._channels)
        return options

    async def run(self, client: ClientConnection, action: HistoryAction, prepared: ChannelOptions) -> list[Decision]:
        """Read it."""
        result = await self._history.read(action.channel, prepared, action.request, self._limit)
        return client.session.answered(action, result, time.monotonic())
