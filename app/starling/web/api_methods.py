"""The methods of the server API. Each raises CommandRefused with the error that the backend receives."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import structlog
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
    BrokerRefused,
    BrokerUnavailable,
    PublicationTooLarge,
    PublishOptions,
    PublishOutcome,
    StreamPosition,
)
from starling.engine.channels import ChannelOptions
from starling.engine.data_format import check_publication
from starling.engine.engine import Engine
from starling.engine.override import plain
from starling.engine.top_channels import TopChannels
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Disconnect, Error, Unsubscribe
from starling.protocol.messages import Publication
from starling.protocol.portable_json import is_json
from starling.protocol.tags_filter import FilterInvalid, compile_filter
from starling.web import api_models as models
from starling.web import api_results as results
from starling.web import api_stream_models as stream_models
from starling.web import api_token_models as token_models
from starling.web.api_errors import bad_request, not_available
from starling.web.api_request import DONE, RequestChannels, payload
from starling.web.api_waiting import Waiting, waiting_key
from starling.web.permission_check import PermissionCheck
from starling.web.query_methods import QueryMethods
from starling.web.stream_methods import StreamMethods
from starling.web.token_methods import TokenMethods

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
# What became of a publication that was sent and not kept.
_SENT = results.PublishAnswer(result=results.PublishResponse())
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
        self._waiting = Waiting()
        request_channels = RequestChannels(engine)
        self._options = request_channels.options
        queries = QueryMethods(engine, request_channels, commands, top_channels, permissions)
        tokens = TokenMethods(engine.revocations, request_channels, tickets, revocation_seconds=revocation_seconds)
        streams = StreamMethods(engine.append_streams, request_channels.options, engine.stream_readers)
        self.by_name = {
            "publish": Method(models.PublishBody, results.PublishResponse, self._publish),
            "broadcast": Method(models.BroadcastBody, results.BroadcastResponse, self._broadcast),
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
                answer: Answer | Error = results.PublishResponse(outcome.offset, outcome.epoch)
            else:
                answer = _error_of("publish", outcome)
            done(self._counted("publish", answer, started))

        try:
            publication, options = self._publication(request)
            outcome = self._engine.publisher.begin(request.channel, publication, options, finish)
        except ValueError as error:
            finish(not_available(str(error)))
        except Exception as failure:  # noqa: BLE001 - every failure is answered as an error
            finish(failure)
        else:
            if outcome is not None:
                finish(outcome)
        return True

    # Publishing

    async def _publish(self, request: models.PublishBody) -> results.PublishResponse:
        publication, options = self._publication(request)
        try:
            position = await self._waiting.until_stored(
                lambda: self._engine.publisher.publish(request.channel, publication, options), request.wait_seconds
            )
        except ValueError as error:
            raise not_available(str(error)) from error
        return results.PublishResponse(position.offset, position.epoch)

    def _publication(self, request: models.PublishBody) -> tuple[Publication, PublishOptions]:
        """What a request publishes, and how it is kept. Raises CommandRefused."""
        publication = Publication(data=payload(request.data, request.b64data), tags=request.tags)
        channel_options = self._options(request.channel)
        _check_no_stream(channel_options)
        check_publication(bytes(publication.data), channel_options)
        _check_delta(channel_options, request)
        return publication, _publish_options(channel_options, request)

    async def _broadcast(self, request: models.BroadcastBody) -> results.BroadcastResponse:
        publication = Publication(data=payload(request.data, request.b64data), tags=request.tags)
        answers: list[results.PublishAnswer | None] = []
        requests: list[tuple[str, PublishOptions]] = []
        of_namespace: dict[int, PublishOptions | results.PublishAnswer] = {}
        for channel in request.channels:
            try:
                options = self._options(channel)
            except CommandRefused as refusal:
                answers.append(results.PublishAnswer(error=_api_error(refusal.reason)))
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
            raise not_available(str(error)) from error
        except BrokerUnavailable:
            if all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes):
                raise
        published = iter(outcomes)
        return results.BroadcastResponse([_publish_answer(next(published)) if one is None else one for one in answers])

    # Connections

    async def _subscribe(self, request: models.SubscribeBody) -> results.EmptyResponse:
        options = self._options(request.channel)
        since = request.recover_since
        if since is not None and not options.keeps_history:
            raise not_available(f"recover_since: {request.channel} keeps no history")
        if request.expire_at is not None and request.expire_at <= time.time():
            raise CommandRefused(bad_request("expire_at: it is past, so there is nothing to subscribe to"))
        info = bytes(payload(request.info, request.b64info, "info", needed=False))
        data = bytes(payload(request.data, request.b64data, needed=False))
        for field, given in (("b64info", info), ("b64data", data)):
            if given and options.publication_data_format in ("json", "json_object") and not is_json(given):
                raise CommandRefused(bad_request(f"{field}: it is not JSON that every client can read"))
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
        raise not_available("channel: it is an append-only stream: use stream_append")


def _check_delta(options: ChannelOptions, request: models.PublishBody | models.BroadcastBody) -> None:
    """Raise CommandRefused with 108 for patches where nobody may have any."""
    if request.delta and not options.allowed_delta_types:
        raise not_available("delta: the channel's options allow no patches: set allowed_delta_types: [fossil]")


def _broadcast_options(
    options: ChannelOptions, request: models.BroadcastBody, publication: Publication
) -> PublishOptions | results.PublishAnswer:
    """How a publication is kept in the channels of one namespace, or why it is refused there."""
    try:
        _check_no_stream(options)
        check_publication(bytes(publication.data), options)
        _check_delta(options, request)
    except CommandRefused as refusal:
        return results.PublishAnswer(error=_api_error(refusal.reason))
    return _publish_options(options, request)


def _publish_answer(outcome: PublishOutcome) -> results.PublishAnswer:
    if isinstance(outcome, StreamPosition):
        if not outcome.epoch:
            return _SENT
        return results.PublishAnswer(result=results.PublishResponse(outcome.offset, outcome.epoch))
    if isinstance(outcome, BrokerUnavailable):
        return results.PublishAnswer(error=_api_error(unavailable(outcome)))
    return results.PublishAnswer(error=results.ApiError(codes.ERROR_LIMIT_EXCEEDED.code, f"limit exceeded: {outcome}"))


def _api_error(reason: Error | Disconnect) -> results.ApiError:
    return results.ApiError(reason.code, reason.message if isinstance(reason, Error) else reason.reason)
