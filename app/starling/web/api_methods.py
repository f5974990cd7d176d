"""The methods of the server API. Each raises CommandRefused with the error that the backend receives."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct

from starling.auth.tickets import Tickets
from starling.client.node_commands import (
    ConnectionCommand,
    DisconnectCommand,
    NodeCommands,
    RefreshCommand,
    SubscribeCommand,
    UnsubscribeCommand,
)
from starling.engine.broker import (
    StreamPosition,
)
from starling.engine.engine import Engine
from starling.engine.override import plain
from starling.engine.top_channels import TopChannels
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Disconnect, Error, Unsubscribe
from starling.protocol.tags_filter import FilterInvalid, compile_filter
from starling.web import api_models as models
from starling.web import api_results as results
from starling.web import api_stream_models as stream_models
from starling.web import api_token_models as token_models
from starling.web.api_batch_publishing import BatchPublishing
from starling.web.api_errors import bad_request, error_of, not_available
from starling.web.api_publishing import BroadcastBody, BroadcastResponse, PublishBody, PublishMethods, PublishResponse
from starling.web.api_request import DONE, RequestChannels, payload, shown
from starling.web.api_results import Answer
from starling.web.permission_check import PermissionCheck
from starling.web.query_methods import QueryMethods
from starling.web.stream_methods import StreamMethods
from starling.web.token_methods import TokenMethods

_UNSUBSCRIBE_REASONS = {
    each.code: each.reason
    for each in (
        codes.UNSUBSCRIBE_INSUFFICIENT_STATE,
        codes.UNSUBSCRIBE_EXPIRED,
        codes.UNSUBSCRIBE_STATE_INVALIDATED,
    )
}


class Method:
    """One method of the API: what decodes its request, what does it, and what the documentation says of both."""

    def __init__(self, request: type[Struct], result: type[Struct], run: Callable[[Any], Awaitable[Answer]]) -> None:
        self.request = request
        self.result = result
        self.run = run
        self.decode = msgspec.json.Decoder(request).decode


class ApiMethods:
    """The methods by name. `revocation_seconds` is how long a revocation is kept that names no end."""

    def __init__(
        self,
        engine: Engine,
        commands: NodeCommands,
        top_channels: TopChannels,
        permissions: PermissionCheck,
        tickets: Tickets,
        *,
        revocation_seconds: float,
    ) -> None:
        self._engine = engine
        self._commands = commands
        request_channels = RequestChannels(engine)
        self._options = request_channels.options
        self.publishing = PublishMethods(engine, request_channels)
        self.batches = BatchPublishing(engine, request_channels, self.publishing)
        queries = QueryMethods(engine, request_channels, commands, top_channels, permissions)
        tokens = TokenMethods(engine.revocations, request_channels, tickets, revocation_seconds=revocation_seconds)
        streams = self._streams = StreamMethods(engine.append_streams, request_channels.options, engine.stream_readers)
        self.by_name = {
            "publish": Method(PublishBody, PublishResponse, self.publishing.publish),
            "broadcast": Method(BroadcastBody, BroadcastResponse, self.publishing.broadcast),
            "subscribe": Method(models.SubscribeBody, results.EmptyResponse, self._subscribe),
            "unsubscribe": Method(models.UnsubscribeBody, results.EmptyResponse, self._unsubscribe),
            "disconnect": Method(models.DisconnectBody, results.EmptyResponse, self._disconnect),
            "refresh": Method(models.RefreshBody, results.EmptyResponse, self._refresh),
            "presence": Method(models.PresenceBody, results.PresenceResponse, queries.presence),
            "presence_stats": Method(models.PresenceStatsBody, results.PresenceStatsResponse, queries.presence_stats),
            "history": Method(models.HistoryBody, results.HistoryResponse, queries.history),
            "history_remove": Method(models.HistoryRemoveBody, results.EmptyResponse, queries.history_remove),
            "channels": Method(models.ChannelsBody, results.ChannelsResponse, queries.channels),
            "connections": Method(models.ConnectionsBody, results.ConnectionsResponse, queries.connections),
            "can": Method(models.CanBody, results.CanResponse, queries.can),
            "info": Method(models.InfoBody, results.InfoResponse, queries.info),
            "top": Method(models.TopBody, results.TopResponse, queries.top),
            "revoke_token": Method(token_models.RevokeTokenBody, results.RevocationResponse, tokens.revoke_token),
            "revoke_session": Method(token_models.RevokeSessionBody, results.RevocationResponse, tokens.revoke_session),
            "invalidate_user_tokens": Method(
                token_models.InvalidateUserTokensBody,
                results.InvalidateUserTokensResponse,
                tokens.invalidate_user_tokens,
            ),
            "presence_set": Method(models.PresenceSetBody, results.EmptyResponse, queries.presence_set),
            "presence_unset": Method(models.PresenceUnsetBody, results.EmptyResponse, queries.presence_unset),
            "ticket": Method(token_models.TicketBody, results.TicketResponse, tokens.ticket),
            "stream_open": Method(stream_models.StreamOpenBody, stream_models.AppendStreamResponse, streams.open),
            "stream_append": Method(stream_models.StreamAppendBody, stream_models.AppendStreamResponse, streams.append),
            "stream_close": Method(stream_models.StreamCloseBody, stream_models.AppendStreamResponse, streams.close),
            "stream_cancel": Method(stream_models.StreamCancelBody, stream_models.AppendStreamResponse, streams.cancel),
            "stream_info": Method(stream_models.StreamInfoBody, stream_models.AppendStreamResponse, streams.info),
            "stream_delete": Method(stream_models.StreamDeleteBody, stream_models.StreamDeleteResponse, streams.delete),
            "stream_list": Method(stream_models.StreamListBody, stream_models.StreamListResponse, streams.list),
        }
        engine.metrics.name_methods(self.by_name)

    async def call(self, name: str, request: Any) -> Answer | Error:
        """Execute it; a failure is returned as an error."""
        if self._engine.tracer.on and (traceparent := getattr(request, "traceparent", "")):
            with self._engine.tracer.received(traceparent, request.tracestate):
                return await self._call(name, request)
        return await self._call(name, request)

    async def _call(self, name: str, request: Any) -> Answer | Error:
        started = time.perf_counter()
        outcome: Answer | Error
        try:
            outcome = await self.by_name[name].run(request)
        except Exception as failure:  # noqa: BLE001 - every failure is answered as an error
            self._engine.refusals.report_call(name, failure, getattr(request, "channel", ""))
            outcome = error_of(name, failure)
        self._count(name, outcome, started)
        return outcome

    def begin_append(self, request: stream_models.StreamAppendBody, done: Callable[[Answer | Error], None]) -> bool:
        """Append to a stream without a task; `done` gets the outcome, now or later.

        False, and nothing is begun, where a window is asked for, or tracing is on.
        """
        if request.window or self._engine.tracer.on:
            return False
        started = time.perf_counter()

        def finish(outcome: Answer | Exception) -> None:
            if isinstance(outcome, Exception):
                self._engine.refusals.report_call("stream_append", outcome, request.channel)
                answer: Answer | Error = error_of("stream_append", outcome)
            else:
                answer = outcome
            self._count("stream_append", answer, started)
            done(answer)

        try:
            self._streams.begin_append(request, finish)
        except Exception as failure:  # noqa: BLE001 - every failure is answered as an error
            finish(failure)
        return True

    def _count(self, name: str, outcome: Answer | Error, started: float) -> None:
        code = outcome.code if isinstance(outcome, Error) else 0
        self._engine.metrics.count_api(name, code, time.perf_counter() - started)

    # Connections

    async def _subscribe(self, request: models.SubscribeBody) -> results.EmptyResponse:
        options = self._options(request.channel)
        since = request.recover_since
        if since is not None and not options.keeps_history:
            raise not_available(f"recover_since: {request.channel} keeps no history")
        if request.expire_at is not None and request.expire_at <= time.time():
            raise CommandRefused(bad_request("expire_at: it is past, so there is nothing to subscribe to"))
        read = shown if options.publication_data_format in ("json", "json_object") else payload
        info = bytes(read(request.info, request.b64info, "info", needed=False))
        data = bytes(read(request.data, request.b64data, needed=False))
        if request.server_tags_filter is not None:
            try:
                compile_filter(request.server_tags_filter, "server_tags_filter")
            except FilterInvalid as invalid:
                raise CommandRefused(bad_request(str(invalid))) from invalid
        command = SubscribeCommand(
            channel=request.channel,
            info=info,
            data=data,
            override=plain(request.override),
            since=None if since is None else StreamPosition(since.offset, since.epoch),
            expire_at=request.expire_at,
            server_tags_filter=request.server_tags_filter,
        )
        return await self._send(command, request)

    async def _unsubscribe(self, request: models.UnsubscribeBody) -> results.EmptyResponse:
        self._options(request.channel)
        reason = request.reason or _UNSUBSCRIBE_REASONS.get(request.code, codes.UNSUBSCRIBE_SERVER.reason)
        command = UnsubscribeCommand(channel=request.channel, unsubscribe=Unsubscribe(request.code, reason))
        return await self._send(command, request)

    async def _disconnect(self, request: models.DisconnectBody) -> results.EmptyResponse:
        command = DisconnectCommand(whitelist=request.whitelist)
        if request.disconnect is not None:
            try:
                command.disconnect = Disconnect(request.disconnect.code, request.disconnect.reason)
            except ValueError as error:
                raise CommandRefused(bad_request(f"disconnect: {error}")) from error
        return await self._send(command, request)

    async def _refresh(self, request: models.RefreshBody) -> results.EmptyResponse:
        return await self._send(RefreshCommand(expired=request.expired, expire_at=request.expire_at), request)

    async def _send(self, command: ConnectionCommand, request: Any) -> results.EmptyResponse:
        command.user, command.client, command.session = request.user, request.client, request.session
        if not (command.user or command.client or command.session):
            raise CommandRefused(bad_request("user: name a user, or with an empty one a client or a session"))
        await self._commands.send(command)
        return DONE
