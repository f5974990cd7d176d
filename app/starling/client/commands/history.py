"""`history`: publications that a channel keeps."""

import time
from functools import partial

import structlog

from starling.client.client_connection import ClientConnection
from starling.client.commands.base import CommandHandler
from starling.client.commands.charges import charge_read
from starling.client.commands.rights import channel_options, require
from starling.client.shared_recoveries import SharedRecoveries
from starling.engine.allowances import Budgets, payer
from starling.engine.broker import StreamRead
from starling.engine.channels import ChannelOptions, Channels
from starling.engine.history import HistoryReader
from starling.engine.rights import Verb
from starling.engine.stream_contract import ANSWER_BYTES
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.commands import HistoryRequest
from starling.protocol.decisions import Decision, History
from starling.protocol.messages import HistoryResult
from starling.protocol.shared_values import SharedPublications

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.client")


class HistoryHandler(CommandHandler[History, ChannelOptions]):
    """Reads a part of a channel's stream, at most `limit` publications that match the client's filter."""

    action = History
    method = "history"

    def __init__(
        self, channels: Channels, history: HistoryReader, limit: int, first_uses: Budgets, *, developer: bool = False
    ) -> None:
        """`first_uses` are paid for channels that nobody used before; `developer`: log what new users misread."""
        self._first_uses = first_uses
        self._channels = channels
        self._history = history
        self._limit = limit
        self._developer = developer
        self._shared = SharedRecoveries()

    def prepare(self, client: ClientConnection, action: History) -> ChannelOptions:
        """The right to read the channel's history, where there is one."""
        options = channel_options(client, action, self._channels)
        if not options.keeps_history or not client.reads(options):
            raise CommandRefused(codes.ERROR_NOT_AVAILABLE)
        require(client, Verb.HISTORY, action, options, self._channels)
        return options

    def _charge(self, client: ClientConnection, read: StreamRead) -> None:
        """Spend of the client's budgets for what was read, whether or not the answer has it."""
        if read.created:
            self._first_uses.spend(payer(client))
        charge_read(client, read)

    async def run(self, client: ClientConnection, action: History, prepared: ChannelOptions) -> list[Decision]:
        """Read it."""
        # A channel that the client is in has been used.
        if action.subscription is None and self._first_uses.exhausted(payer(client)):
            raise CommandRefused(codes.ERROR_TOO_MANY_REQUESTS)
        wanted = client.memberships.filter(action.channel) or client.identity.forced_filter(action.channel)
        async with client.gates.reading:
            result = await self._history.read(
                action.channel,
                prepared,
                action.request,
                self._limit,
                ANSWER_BYTES,
                partial(self._charge, client),
                matches=None if wanted is None else wanted.matches,
            )
            if self._developer and _lacks_newest(action.request, result):
                _log_hint(client, action, result)
            if wanted is None and not isinstance(result.publications, SharedPublications):
                result.publications = self._shared.share(action.channel, result.publications)
            client.memberships.note_read(action.channel)
            decisions = client.session.answered(action, result, time.monotonic())
            client.carry_out(decisions)
            return []


def _lacks_newest(request: HistoryRequest, result: HistoryResult) -> bool:
    """Whether `limit` cut the newest publications off a read that did not say where it begins."""
    if request.reverse or request.since is not None or not 0 < request.limit == len(result.publications):
        return False
    return result.publications[-1].offset < result.offset


def _log_hint(client: ClientConnection, action: History, result: HistoryResult) -> None:
    log.info(
        "history_without_newest",
        connection_id=client.id,
        user=client.user,
        channel=action.channel,
        limit=action.request.limit,
        last_offset=result.publications[-1].offset,
        top_offset=result.offset,
        remedy="the answer has the oldest publications: set reverse: true for the newest, or read on with since",
    )
