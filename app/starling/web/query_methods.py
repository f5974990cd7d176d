"""The methods of the server API that look: presence, history, channels, connections, rights and nodes."""

import asyncio
import base64

from msgspec import UNSET, Raw

from starling.client.connection_list import ConnectionList
from starling.client.node_commands import (
    NodeCommands,
)
from starling.engine.control import NodeCommandRefused
from starling.engine.engine import Engine
from starling.engine.node_stats import NodeStatsCollector
from starling.engine.top_channels import TopChannels
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error
from starling.protocol.commands import HistoryRequest
from starling.protocol.messages import ClientInfo, Publication
from starling.protocol.messages import StreamPosition as Since
from starling.protocol.portable_json import is_json
from starling.web import api_models as models
from starling.web import api_results as results
from starling.web.api_errors import not_available
from starling.web.api_request import DONE, RequestChannels, shown
from starling.web.permission_check import PermissionCheck

HISTORY_BYTES = 8 * 2**20
PRESENCE_LIMIT = 50_000
PRESENCE_BYTES = 8 * 2**20


class QueryMethods:
    """Each method raises CommandRefused and BrokerUnavailable."""

    def __init__(
        self,
        engine: Engine,
        channels: RequestChannels,
        commands: NodeCommands,
        top_channels: TopChannels,
        permissions: PermissionCheck,
    ) -> None:
        self._engine = engine
        self._channels = channels
        self._commands = commands
        self._stats = NodeStatsCollector(engine)
        self._connection_list = ConnectionList(engine)
        self._top_channels = top_channels
        self._permissions = permissions

    async def presence(self, request: models.PresenceBody) -> results.PresenceResponse:
        """List the clients in a channel."""
        here = await self._engine.presence.members(
            request.channel, self._channels.with_presence(request.channel), PRESENCE_LIMIT, PRESENCE_BYTES
        )
        return results.PresenceResponse({client: _client_info(info) for client, info in here.items()})

    async def presence_stats(self, request: models.PresenceStatsBody) -> results.PresenceStatsResponse:
        """Count the clients and users in a channel."""
        stats = await self._engine.presence.count(request.channel, self._channels.with_presence(request.channel))
        return results.PresenceStatsResponse(stats.num_clients, stats.num_users)

    async def presence_set(self, request: models.PresenceSetBody) -> results.EmptyResponse:
        """Show a member without a connection."""
        options = self._channels.with_presence(request.channel)
        info = shown(request.info, field="info", needed=False)
        await self._engine.presence.agents.set(request.channel, request.user, info, request.ttl, options)
        return DONE

    async def presence_unset(self, request: models.PresenceUnsetBody) -> results.EmptyResponse:
        """Stop showing a member without a connection."""
        options = self._channels.with_presence(request.channel)
        await self._engine.presence.agents.unset(request.channel, request.user, options)
        return DONE

    async def history(self, request: models.HistoryBody) -> results.HistoryResponse:
        """Read a channel's publications."""
        options = self._channels.with_history(request.channel)
        since = None if request.since is None else Since(request.since.offset, request.since.epoch)
        wanted = HistoryRequest(request.channel, request.limit, since, request.reverse)
        found = await self._engine.history.read(request.channel, options, wanted, models.HISTORY_LIMIT, HISTORY_BYTES)
        publications = [_history_publication(publication) for publication in found.publications]
        return results.HistoryResponse(publications, found.offset, found.epoch)

    async def history_remove(self, request: models.HistoryRemoveBody) -> results.EmptyResponse:
        """Delete a channel's publications."""
        options = self._channels.with_history(request.channel)
        if options.stream is not None:
            raise not_available("channel: it is an append-only stream: use stream_delete")
        await self._engine.history.remove(request.channel, options)
        return DONE

    async def channels(self, request: models.ChannelsBody) -> results.ChannelsResponse:
        """List the channels with subscribers."""
        try:
            counts, more, missing = await self._commands.channels(request.pattern or "*", request.limit, request.cursor)
        except NodeCommandRefused as refused:
            raise CommandRefused(Error(codes.ERROR_LIMIT_EXCEEDED.code, f"limit exceeded: {refused}")) from refused
        channels = {channel: results.ChannelCount(count) for channel, count in counts.items()}
        return results.ChannelsResponse(channels, missing, next(reversed(counts)) if more else "")

    async def connections(self, request: models.ConnectionsBody) -> results.ConnectionsResponse:
        """List connections."""
        try:
            found, more, missing = await self._connection_list.page(request.user, request.limit, request.cursor)
        except NodeCommandRefused as refused:
            raise not_available(str(refused)) from refused
        return results.ConnectionsResponse(found, missing, found[-1].client if more else "")

    async def can(self, request: models.CanBody) -> results.CanResponse:
        """Whether a user may do something in a channel, and by which rule."""
        self._channels.options(request.channel)
        found = await self._permissions.decide(
            request.user, request.verb, request.channel, token=request.token, subscribed=request.subscribed
        )
        return results.CanResponse(found.allowed, found.rule, found.namespace, found.sentence)

    async def info(self, request: models.InfoBody) -> results.InfoResponse:
        """List the nodes."""
        return results.InfoResponse(self._engine.control.nodes())

    async def top(self, request: models.TopBody) -> results.TopResponse:
        """Return the statistics of all nodes, and the busiest channels."""
        try:
            (nodes, missing), channels = await asyncio.gather(
                self._stats.everywhere(), self._top_channels.everywhere(request.limit)
            )
        except NodeCommandRefused as refused:
            raise not_available(str(refused)) from refused
        return results.TopResponse(nodes, channels, missing)


def _history_publication(publication: Publication) -> results.HistoryPublication:
    data, binary = publication.data, ""
    if not is_json(bytes(data)):
        data, binary = Raw(b"null"), base64.b64encode(data).decode()
    info = None if publication.info is None else _client_info(publication.info)
    return results.HistoryPublication(data, publication.offset, publication.time, info, publication.tags, binary)


def _client_info(info: ClientInfo) -> results.PresentClient:
    """The client without what JSON cannot hold."""
    readable = (raw if raw and is_json(bytes(raw)) else UNSET for raw in (info.conn_info, info.chan_info))
    return results.PresentClient(info.user, info.client, *readable)
