"""The methods of the server API. Each raises CommandRefused with the error that the backend receives."""

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import structlog
from msgspec import UNSET, Raw, Struct

from starling.auth.tickets import Tickets
from starling.client.connection_list import ConnectionList
from starling.client.node_commands import (
    ConnectionCommand,
    DisconnectCommand,
    NodeCommands,
    RefreshCommand,
    SubscribeCommand,
    UnsubscribeCommand,
)
from starling.engine.broker import (
    BrokerRefused,
    BrokerUnavailable,
    PublicationTooLarge,
    PublishOptions,
    PublishOutcome,
    StreamPosition,
)
from starling.engine.channels import ChannelOptions
from starling.engine.control import NodeCommandRefused
from starling.engine.data_format import check_publication
from starling.engine.engine import Engine
from starling.engine.node_stats import NodeStatsCollector
from starling.engine.override import plain
from starling.engine.revocation import Revocation
from starling.engine.top_channels import TopChannels
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Disconnect, Error, Unsubscribe
from starling.protocol.commands import HistoryRequest
from starling.protocol.json_nulls import NULL
from starling.protocol.messages import NO_PAYLOAD, ClientInfo, Publication
from starling.protocol.messages import StreamPosition as Since
from starling.protocol.portable_json import is_json
from starling.protocol.tags_filter import FilterInvalid, compile_filter
from starling.web import api_models as models
from starling.web.api_waiting import Waiting, waiting_key
from starling.web.permission_check import PermissionCheck
from starling.web.stream_methods import StreamMethods

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.api")


class Unavailable(Error, frozen=True):
    """The broker did not do it; the answer's status is 503."""


UNAVAILABLE = Unavailable(
    codes.ERROR_INTERNAL.code, "the broker does not answer; it is not known to be done: try again"
)
NOT_READ = Unavailable(codes.ERROR_INTERNAL.code, "the broker does not answer, so nothing was read: try again")
# Methods that change nothing.
READS = frozenset(
    {
        "can",
        "channels",
        "connections",
        "history",
        "info",
        "presence",
        "presence_stats",
        "stream_info",
        "stream_list",
        "top",
    }
)
FAILED = Error(codes.ERROR_INTERNAL.code, "internal server error: the log has the cause")
# What one answer holds at most: data of a channel's history beyond the first publication, and clients in presence.
HISTORY_BYTES = 8 * 2**20
PRESENCE_LIMIT = 50_000
PRESENCE_BYTES = 8 * 2**20
_DONE = models.EmptyResponse()
# What became of a publication that was sent and not kept.
_SENT = models.PublishAnswer(result=models.PublishResponse())
_UNSUBSCRIBE_REASONS = {
    each.code: each.reason
    for each in (
        codes.UNSUBSCRIBE_INSUFFICIENT_STATE,
        codes.UNSUBSCRIBE_EXPIRED,
        codes.UNSUBSCRIBE_STATE_INVALIDATED,
    )
}

Answer = Struct | Mapping[str, Any]


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
        self._stats = NodeStatsCollector(engine)
        self._connection_list = ConnectionList(engine)
        self._top_channels = top_channels
        self._permissions = permissions
        self._tickets = tickets
        self._waiting = Waiting()
        self._revocation_seconds = revocation_seconds
        streams = StreamMethods(engine.append_streams, self._options, engine.stream_readers)
        self.by_name = {
            "publish": Method(models.PublishBody, models.PublishResponse, self._publish),
            "broadcast": Method(models.BroadcastBody, models.BroadcastResponse, self._broadcast),
            "subscribe": Method(models.SubscribeBody, models.EmptyResponse, self._subscribe),
            "unsubscribe": Method(models.UnsubscribeBody, models.EmptyResponse, self._unsubscribe),
            "disconnect": Method(models.DisconnectBody, models.EmptyResponse, self._disconnect),
            "refresh": Method(models.RefreshBody, models.EmptyResponse, self._refresh),
            "presence": Method(models.PresenceBody, models.PresenceResponse, self._presence),
            "presence_stats": Method(models.PresenceStatsBody, models.PresenceStatsResponse, self._presence_stats),
            "history": Method(models.HistoryBody, models.HistoryResponse, self._history),
            "history_remove": Method(models.HistoryRemoveBody, models.EmptyResponse, self._history_remove),
            "channels": Method(models.ChannelsBody, models.ChannelsResponse, self._channels),
            "connections": Method(models.ConnectionsBody, models.ConnectionsResponse, self._connections),
            "can": Method(models.CanBody, models.CanResponse, self._can),
            "info": Method(models.InfoBody, models.InfoResponse, self._info),
            "top": Method(models.TopBody, models.TopResponse, self._top),
            "revoke_token": Method(models.RevokeTokenBody, models.RevocationResponse, self._revoke_token),
            "revoke_session": Method(models.RevokeSessionBody, models.RevocationResponse, self._revoke_session),
            "invalidate_user_tokens": Method(
                models.InvalidateUserTokensBody, models.InvalidateUserTokensResponse, self._invalidate_user_tokens
            ),
            "presence_set": Method(models.PresenceSetBody, models.EmptyResponse, self._presence_set),
            "presence_unset": Method(models.PresenceUnsetBody, models.EmptyResponse, self._presence_unset),
            "ticket": Method(models.TicketBody, models.TicketResponse, self._ticket),
            "stream_open": Method(models.StreamOpenBody, models.AppendStreamResponse, streams.open),
            "stream_append": Method(models.StreamAppendBody, models.AppendStreamResponse, streams.append),
            "stream_close": Method(models.StreamCloseBody, models.AppendStreamResponse, streams.close),
            "stream_cancel": Method(models.StreamCancelBody, models.AppendStreamResponse, streams.cancel),
            "stream_info": Method(models.StreamInfoBody, models.AppendStreamResponse, streams.info),
            "stream_delete": Method(models.StreamDeleteBody, models.StreamDeleteResponse, streams.delete),
            "stream_list": Method(models.StreamListBody, models.StreamListResponse, streams.list),
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
            outcome = _error_of(name, failure)
        return self._counted(name, outcome, started)

    def _counted(self, name: str, outcome: Answer | Error, started: float) -> Answer | Error:
        code = outcome.code if isinstance(outcome, Error) else 0
        self._engine.metrics.answered(name, code, time.perf_counter() - started)
        return outcome

    def begin_publish(self, request: models.PublishBody, done: Callable[[Answer | Error], None]) -> bool:
        """Publish without a task; `done` gets the outcome, now or later.

        False, and nothing is begun, where the publication may wait for a broker that is away, or makes a span.
        """
        if request.wait_seconds or self._engine.tracer.on:
            return False
        started = time.perf_counter()

        def finish(outcome: PublishOutcome | Exception) -> None:
            if isinstance(outcome, StreamPosition):
                answer: Answer | Error = models.PublishResponse(outcome.offset, outcome.epoch)
            else:
                answer = _error_of("publish", outcome)
            done(self._counted("publish", answer, started))

        try:
            publication, options = self._publication(request)
            outcome = self._engine.publisher.begin(request.channel, publication, options, finish)
        except ValueError as error:
            finish(_not_available(str(error)))
        except Exception as failure:  # noqa: BLE001 - every failure is answered as an error
            finish(failure)
        else:
            if outcome is not None:
                finish(outcome)
        return True

    # Publishing

    async def _publish(self, request: models.PublishBody) -> models.PublishResponse:
        publication, options = self._publication(request)
        try:
            position = await self._waiting.until_stored(
                lambda: self._engine.publisher.publish(request.channel, publication, options), request.wait_seconds
            )
        except ValueError as error:
            raise _not_available(str(error)) from error
        return models.PublishResponse(position.offset, position.epoch)

    def _publication(self, request: models.PublishBody) -> tuple[Publication, PublishOptions]:
        """What a request publishes, and how it is kept. Raises CommandRefused."""
        publication = Publication(data=_payload(request.data, request.b64data), tags=request.tags)
        channel_options = self._options(request.channel)
        _check_no_stream(channel_options)
        check_publication(bytes(publication.data), channel_options)
        _check_delta(channel_options, request)
        return publication, _publish_options(channel_options, request)

    async def _broadcast(self, request: models.BroadcastBody) -> models.BroadcastResponse:
        publication = Publication(data=_payload(request.data, request.b64data), tags=request.tags)
        answers: list[models.PublishAnswer | None] = []
        requests: list[tuple[str, PublishOptions]] = []
        of_namespace: dict[int, PublishOptions | models.PublishAnswer] = {}
        for channel in request.channels:
            try:
                options = self._options(channel)
            except CommandRefused as refusal:
                answers.append(models.PublishAnswer(error=_api_error(refusal.reason)))
                continue
            kept = of_namespace.get(id(options))
            if kept is None:
                kept = of_namespace[id(options)] = _broadcast_options(options, request, publication)
            if isinstance(kept, PublishOptions):
                requests.append((channel, kept))
                answers.append(None)
            else:
                answers.append(kept)
        outcomes: list[PublishOutcome] = []

        async def publish_all() -> None:
            outcomes[:] = await self._engine.publisher.publish_many(publication, requests)
            away = [outcome for outcome in outcomes if isinstance(outcome, BrokerUnavailable)]
            # Some stored and some not is an answer, unless the rest may wait.
            if away and (len(away) == len(outcomes) or request.wait_seconds):
                raise away[0]

        try:
            await self._waiting.until_stored(publish_all, request.wait_seconds)
        except ValueError as error:
            raise _not_available(str(error)) from error
        except BrokerUnavailable:
            if all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes):
                raise
        published = iter(outcomes)
        return models.BroadcastResponse([_publish_answer(next(published)) if one is None else one for one in answers])

    # Connections

    async def _subscribe(self, request: models.SubscribeBody) -> models.EmptyResponse:
        options = self._options(request.channel)
        since = request.recover_since
        if since is not None and not options.keeps_history:
            raise _not_available(f"recover_since: {request.channel} keeps no history")
        if request.expire_at is not None and request.expire_at <= time.time():
            raise CommandRefused(_bad_request("expire_at: it is past, so there is nothing to subscribe to"))
        info = bytes(_payload(request.info, request.b64info, "info", needed=False))
        data = bytes(_payload(request.data, request.b64data, needed=False))
        for field, given in (("b64info", info), ("b64data", data)):
            if given and options.publication_data_format in ("json", "json_object") and not is_json(given):
                raise CommandRefused(_bad_request(f"{field}: it is not JSON that every client can read"))
        if request.server_tags_filter is not None:
            try:
                compile_filter(request.server_tags_filter, "server_tags_filter")
            except FilterInvalid as invalid:
                raise CommandRefused(_bad_request(str(invalid))) from invalid
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

    async def _unsubscribe(self, request: models.UnsubscribeBody) -> models.EmptyResponse:
        self._options(request.channel)
        reason = request.reason or _UNSUBSCRIBE_REASONS.get(request.code, codes.UNSUBSCRIBE_SERVER.reason)
        command = UnsubscribeCommand(channel=request.channel, unsubscribe=Unsubscribe(request.code, reason))
        return await self._send(command, request)

    async def _disconnect(self, request: models.DisconnectBody) -> models.EmptyResponse:
        command = DisconnectCommand(whitelist=request.whitelist)
        if request.disconnect is not None:
            try:
                command.disconnect = Disconnect(request.disconnect.code, request.disconnect.reason)
            except ValueError as error:
                raise CommandRefused(_bad_request(f"disconnect: {error}")) from error
        return await self._send(command, request)

    async def _refresh(self, request: models.RefreshBody) -> models.EmptyResponse:
        return await self._send(RefreshCommand(expired=request.expired, expire_at=request.expire_at), request)

    async def _send(self, command: ConnectionCommand, request: Any) -> models.EmptyResponse:
        command.user, command.client, command.session = request.user, request.client, request.session
        if not (command.user or command.client or command.session):
            raise CommandRefused(_bad_request("user: name a user, or with an empty one a client or a session"))
        await self._commands.send(command)
        return _DONE

    # Looking

    async def _presence(self, request: models.PresenceBody) -> models.PresenceResponse:
        here = await self._engine.presence.members(
            request.channel, self._options_with_presence(request.channel), PRESENCE_LIMIT, PRESENCE_BYTES
        )
        return models.PresenceResponse({client: _client_info(info) for client, info in here.items()})

    async def _presence_stats(self, request: models.PresenceStatsBody) -> models.PresenceStatsResponse:
        stats = await self._engine.presence.count(request.channel, self._options_with_presence(request.channel))
        return models.PresenceStatsResponse(stats.num_clients, stats.num_users)

    async def _presence_set(self, request: models.PresenceSetBody) -> models.EmptyResponse:
        options = self._options_with_presence(request.channel)
        info = _payload(request.info, "", "info", needed=False)
        await self._engine.presence.agents.set(request.channel, request.user, info, request.ttl, options)
        return _DONE

    async def _presence_unset(self, request: models.PresenceUnsetBody) -> models.EmptyResponse:
        options = self._options_with_presence(request.channel)
        await self._engine.presence.agents.unset(request.channel, request.user, options)
        return _DONE

    async def _history(self, request: models.HistoryBody) -> models.HistoryResponse:
        options = self._options_with_history(request.channel)
        since = None if request.since is None else Since(request.since.offset, request.since.epoch)
        wanted = HistoryRequest(request.channel, request.limit, since, request.reverse)
        found = await self._engine.history.read(request.channel, options, wanted, models.HISTORY_LIMIT, HISTORY_BYTES)
        publications = [_history_publication(publication) for publication in found.publications]
        return models.HistoryResponse(publications, found.offset, found.epoch)

    async def _history_remove(self, request: models.HistoryRemoveBody) -> models.EmptyResponse:
        options = self._options_with_history(request.channel)
        if options.stream is not None:
            raise _not_available("channel: it is an append-only stream: use stream_delete")
        await self._engine.history.remove(request.channel, options)
        return _DONE

    async def _channels(self, request: models.ChannelsBody) -> models.ChannelsResponse:
        try:
            counts, more = await self._commands.channels(request.pattern or "*", request.limit, request.cursor)
        except NodeCommandRefused as refused:
            raise CommandRefused(Error(codes.ERROR_LIMIT_EXCEEDED.code, f"limit exceeded: {refused}")) from refused
        channels = {channel: models.ChannelCount(count) for channel, count in counts.items()}
        return models.ChannelsResponse(channels, next(reversed(counts)) if more else "")

    async def _connections(self, request: models.ConnectionsBody) -> models.ConnectionsResponse:
        try:
            found, more, missing = await self._connection_list.page(request.user, request.limit, request.cursor)
        except NodeCommandRefused as refused:
            raise _not_available(str(refused)) from refused
        return models.ConnectionsResponse(found, missing, found[-1].client if more else "")

    async def _can(self, request: models.CanBody) -> models.CanResponse:
        self._options(request.channel)
        found = await self._permissions.decide(
            request.user, request.verb, request.channel, token=request.token, subscribed=request.subscribed
        )
        return models.CanResponse(found.allowed, found.rule, found.namespace, found.sentence)

    async def _info(self, request: models.InfoBody) -> models.InfoResponse:
        return models.InfoResponse(self._engine.control.nodes())

    async def _top(self, request: models.TopBody) -> models.TopResponse:
        try:
            (nodes, missing), channels = await asyncio.gather(
                self._stats.everywhere(), self._top_channels.everywhere(request.limit)
            )
        except NodeCommandRefused as refused:
            raise _not_available(str(refused)) from refused
        return models.TopResponse(nodes, channels, missing)

    # Revoking

    async def _revoke_token(self, request: models.RevokeTokenBody) -> models.RevocationResponse:
        stored = await self._revoke(Revocation("token", request.uid, self._end(request.expire_at)))
        return models.RevocationResponse(stored)

    async def _revoke_session(self, request: models.RevokeSessionBody) -> models.RevocationResponse:
        stored = await self._revoke(Revocation("session", request.session, self._end(request.expire_at)))
        return models.RevocationResponse(stored)

    async def _invalidate_user_tokens(
        self, request: models.InvalidateUserTokensBody
    ) -> models.InvalidateUserTokensResponse:
        # Whole seconds, as in tokens: one that is issued right after this must pass.
        before = float(int(time.time())) if request.issued_before is None else request.issued_before
        if request.channel:
            self._options(request.channel)
        revocation = Revocation("user", request.user, self._end(request.expire_at), before, request.channel)
        stored = await self._revoke(revocation)
        return models.InvalidateUserTokensResponse(before, stored)

    async def _revoke(self, revocation: Revocation) -> bool:
        if not self._engine.revocations.available:
            raise _not_available("this broker keeps no revocations: use redis://")
        return await self._engine.revocations.revoke(revocation)

    def _end(self, expire_at: float | None) -> float:
        if expire_at is None:
            return time.time() + self._revocation_seconds
        if expire_at <= time.time():
            raise CommandRefused(_bad_request("expire_at: it is past, so there is nothing left to revoke"))
        return expire_at

    # Tickets

    async def _ticket(self, request: models.TicketBody) -> models.TicketResponse:
        if not self._tickets.available:
            raise _not_available("this broker keeps no tickets: use redis://")
        for channel in request.channels:
            self._options(channel)
        if request.expire_at is not None and request.expire_at <= time.time():
            raise CommandRefused(_bad_request("expire_at: it is past, so there is no session to open"))
        info = bytes(_payload(request.info, "", "info", needed=False))
        issued = await self._tickets.issue(
            request.user, request.channels, info, seconds=request.ttl, expires_at=request.expire_at
        )
        return models.TicketResponse(issued.ticket, issued.session)

    # Channels

    def _options(self, channel: str) -> ChannelOptions:
        try:
            return self._engine.channels.options(channel)
        except CommandRefused as refusal:
            if refusal.reason == codes.ERROR_UNKNOWN_CHANNEL:
                remedy = f"unknown channel: {channel!r}: its namespace is not in the channels file"
                raise CommandRefused(Error(codes.ERROR_UNKNOWN_CHANNEL.code, remedy)) from refusal
            remedy = "channel: too long, or with {, } or control characters, or against its namespace's channel_regex"
            raise CommandRefused(_bad_request(remedy)) from refusal

    def _options_with_history(self, channel: str) -> ChannelOptions:
        options = self._options(channel)
        if not self._engine.history.keeps(options):
            raise _not_available(f"{channel} keeps no history: set history_size and history_ttl in its options")
        return options

    def _options_with_presence(self, channel: str) -> ChannelOptions:
        options = self._options(channel)
        if not self._engine.presence.keeps(options):
            raise _not_available(f"{channel} keeps no presence: set it in the channel's options")
        return options


def _error_of(name: str, failure: Exception) -> Error:
    """The error that answers a request of a method; what is nobody's fault but ours is logged."""
    if isinstance(failure, CommandRefused):
        reason = failure.reason
        return reason if isinstance(reason, Error) else Error(codes.ERROR_INTERNAL.code, reason.reason)
    if isinstance(failure, BrokerUnavailable):
        return unavailable(failure, reads=name in READS)
    if isinstance(failure, PublicationTooLarge):
        return Error(codes.ERROR_LIMIT_EXCEEDED.code, f"limit exceeded: {failure}")
    log.error("api_method_failed", method=name, exc_info=failure)
    return FAILED


def unavailable(failure: BrokerUnavailable, *, reads: bool = False) -> Unavailable:
    """The error of what the broker did not do: it refused, and why, or it does not answer."""
    if isinstance(failure, BrokerRefused):
        return Unavailable(codes.ERROR_INTERNAL.code, f"the broker did nothing: {failure}")
    return NOT_READ if reads else UNAVAILABLE


def _payload(data: Raw, b64: str, field: str = "data", *, needed: bool = True) -> Raw:
    if b64:
        try:
            return Raw(base64.b64decode(b64, validate=True))
        except (binascii.Error, ValueError) as error:
            raise CommandRefused(_bad_request(f"b64{field}: it is no base64")) from error
    if not data and needed:
        raise CommandRefused(_bad_request(f"{field}: it is missing"))
    if not needed and data == NULL:
        return NO_PAYLOAD
    # A view would keep the whole request alive, as long as the publication is.
    return data.copy() if data else NO_PAYLOAD


def _publish_options(options: ChannelOptions, request: models.PublishBody | models.BroadcastBody) -> PublishOptions:
    key = request.idempotency_key or (waiting_key() if request.wait_seconds else "")
    if request.skip_history:
        return PublishOptions(idempotency_key=key, delta=request.delta)
    kept = options.publish_options(key)
    if not (request.version or request.delta):
        return kept
    delta = request.delta or kept.delta
    return replace(kept, version=request.version, version_epoch=request.version_epoch, delta=delta)


def _check_no_stream(options: ChannelOptions) -> None:
    """Raise CommandRefused with 108 for a publication in an append-only stream."""
    if options.stream is not None:
        raise _not_available("channel: it is an append-only stream: use stream_append")


def _check_delta(options: ChannelOptions, request: models.PublishBody | models.BroadcastBody) -> None:
    """Raise CommandRefused with 108 for patches where nobody may have any."""
    if request.delta and not options.allowed_delta_types:
        raise _not_available("delta: the channel's options allow no patches: set allowed_delta_types: [fossil]")


def _broadcast_options(
    options: ChannelOptions, request: models.BroadcastBody, publication: Publication
) -> PublishOptions | models.PublishAnswer:
    """How a publication is kept in the channels of one namespace, or why it is refused there."""
    try:
        _check_no_stream(options)
        check_publication(bytes(publication.data), options)
        _check_delta(options, request)
    except CommandRefused as refusal:
        return models.PublishAnswer(error=_api_error(refusal.reason))
    return _publish_options(options, request)


def _publish_answer(outcome: PublishOutcome) -> models.PublishAnswer:
    if isinstance(outcome, StreamPosition):
        if not outcome.epoch:
            return _SENT
        return models.PublishAnswer(result=models.PublishResponse(outcome.offset, outcome.epoch))
    if isinstance(outcome, BrokerUnavailable):
        return models.PublishAnswer(error=_api_error(unavailable(outcome)))
    return models.PublishAnswer(error=models.ApiError(codes.ERROR_LIMIT_EXCEEDED.code, f"limit exceeded: {outcome}"))


def _history_publication(publication: Publication) -> models.HistoryPublication:
    data, binary = publication.data, ""
    if not is_json(bytes(data)):
        data, binary = Raw(b"null"), base64.b64encode(data).decode()
    info = None if publication.info is None else _client_info(publication.info)
    return models.HistoryPublication(data, publication.offset, publication.time, info, publication.tags, binary)


def _client_info(info: ClientInfo) -> models.PresentClient:
    """The client without what JSON cannot hold."""
    readable = (raw if raw and is_json(bytes(raw)) else UNSET for raw in (info.conn_info, info.chan_info))
    return models.PresentClient(info.user, info.client, *readable)


def _api_error(reason: Error | Disconnect) -> models.ApiError:
    return models.ApiError(reason.code, reason.message if isinstance(reason, Error) else reason.reason)


def _bad_request(remedy: str) -> Error:
    return Error(codes.ERROR_BAD_REQUEST.code, f"bad request: {remedy}")


def _not_available(remedy: str) -> CommandRefused:
    return CommandRefused(Error(codes.ERROR_NOT_AVAILABLE.code, f"not available: {remedy}"))
