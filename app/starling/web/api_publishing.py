"""Publishing through the server API: `publish` and `broadcast`, their requests and their results."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from operator import is_
from typing import Annotated, cast

import msgspec
from msgspec import Meta, Raw, Struct

from starling.engine.broker import (
    BrokerUnavailable,
    PublishOptions,
    PublishOutcome,
    PublishRequest,
    SamePublication,
    StoredPositions,
    StreamPosition,
)
from starling.engine.channels import ChannelOptions
from starling.engine.engine import Engine
from starling.engine.publisher import check_publication
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Disconnect, Error
from starling.protocol.messages import Publication
from starling.web.api_errors import error_of, not_available, unavailable
from starling.web.api_models import Binary, Name
from starling.web.api_request import RequestChannels, payload
from starling.web.api_results import Answer, ApiError
from starling.web.api_waiting import Waiting, waiting_key

# One request may not keep the event loop from everyone else.
BROADCAST_CHANNELS = 10_000
IDEMPOTENCY_KEY_LENGTH = 255
WAIT_SECONDS = 60

Data = Annotated[Raw, Meta(description="Any JSON; it passes to the subscribers as it is.", examples=[{"text": "Hi"}])]
Tags = Annotated[dict[str, str], Meta(description="Texts that travel with the publication.")]
IdempotencyKey = Annotated[
    str,
    Meta(
        max_length=IDEMPOTENCY_KEY_LENGTH,
        description="A second publication into a channel with the same key within 5 minutes is not sent; its answer is "
        "the first one's. Give each publication one of its own, and a retry is harmless.",
    ),
]
WaitSeconds = Annotated[
    float,
    Meta(
        ge=0,
        le=WAIT_SECONDS,
        description="How long this may wait for a broker that is away, instead of being refused. The answer comes once "
        "it is stored; until then it is held by this process alone.",
    ),
]
TraceParent = Annotated[
    str,
    Meta(
        description="The trace that this publication belongs to, as in the header of the same name (W3C Trace "
        "Context), which it goes before. What is malformed, and all of it where tracing is off, is ignored.",
        examples=["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
    ),
]
TraceState = Annotated[str, Meta(description="What goes with `traceparent`, as in the header of the same name.")]
SkipHistory = Annotated[bool, Meta(description="Only to those who are there now, even where history is kept.")]
Version = Annotated[
    int,
    Meta(
        ge=0,
        le=2**63 - 1,
        description="In channels with history: the version of what the publication shows. One that is not above the "
        "last one of the same `version_epoch` is dropped, and the answer is the position of the newest. 0: none.",
    ),
]
VersionEpoch = Annotated[
    str,
    Meta(max_length=255, description="What `version` belongs to; versions of another epoch begin anew."),
]
Delta = Annotated[
    bool,
    Meta(
        description="Send it as a patch of the publication before to subscribers that asked for patches, also where "
        "the namespace has no `delta_publish`. The channel needs `allowed_delta_types`."
    ),
]


class PublishBody(Struct):
    """Send `data` to everyone in a channel."""

    channel: Name
    data: Data = msgspec.field(default_factory=Raw)
    b64data: Binary = ""
    skip_history: SkipHistory = False
    tags: Tags | None = None
    idempotency_key: IdempotencyKey = ""
    version: Version = 0
    version_epoch: VersionEpoch = ""
    delta: Delta = False
    wait_seconds: WaitSeconds = 0
    traceparent: TraceParent = ""
    tracestate: TraceState = ""


class BroadcastBody(Struct):
    """Send the same `data` to many channels."""

    channels: Annotated[
        list[str], Meta(min_length=1, max_length=BROADCAST_CHANNELS, description="Names of the channels.")
    ]
    data: Data = msgspec.field(default_factory=Raw)
    b64data: Binary = ""
    skip_history: SkipHistory = False
    tags: Tags | None = None
    idempotency_key: IdempotencyKey = ""
    version: Version = 0
    version_epoch: VersionEpoch = ""
    delta: Delta = False
    wait_seconds: WaitSeconds = 0
    traceparent: TraceParent = ""
    tracestate: TraceState = ""


class PublishResponse(Struct, omit_defaults=True, gc=False):
    """The publication's position in the channel's history; empty where it has none."""

    offset: int = 0
    epoch: str = ""


class PublishAnswer(Struct, omit_defaults=True, gc=False):
    """What became of one channel of a broadcast."""

    error: ApiError | None = None
    result: PublishResponse | None = None


class BroadcastResponse(Struct):
    """What became of each channel, in the order of the request."""

    responses: list[PublishAnswer]


class _StoredAnswer(Struct, gc=False):
    """A PublishAnswer as the broker gives it: a struct less for each channel."""

    result: StreamPosition


class _BroadcastAnswer(Struct):
    """A BroadcastResponse as it is made for many channels."""

    responses: Sequence[PublishAnswer | _StoredAnswer] | Raw


# What became of a publication that was sent and not kept.
_SENT = PublishAnswer(result=PublishResponse())


class PublishMethods:
    """Publishes as the channels' options say. Methods raise CommandRefused and the broker's errors."""

    def __init__(self, engine: Engine, channels: RequestChannels) -> None:
        self._engine = engine
        self._options = channels.options
        self._waiting = Waiting()

    # Without a task

    def begin(self, request: PublishBody, done: Callable[[Answer | Error], None]) -> bool:
        """Publish without a task; `done` gets the outcome, now or later.

        False, and nothing is begun, where the publication may wait for a broker that is away, or makes a span.
        """
        if request.wait_seconds or self._engine.tracer.on:
            return False
        started = time.perf_counter()

        def finish(outcome: PublishOutcome | Exception) -> None:
            if isinstance(outcome, StreamPosition):
                answer: Answer | Error = PublishResponse(outcome.offset, outcome.epoch)
            else:
                answer = error_of("publish", outcome)
            self._count("publish", answer, started)
            done(answer)

        try:
            publication, options = self.publication(request)
            outcome = self._engine.publisher.begin(request.channel, publication, options, finish)
        except ValueError as error:
            finish(not_available(str(error)))
        except Exception as failure:  # noqa: BLE001 - every failure is answered as an error
            finish(failure)
        else:
            if outcome is not None:
                finish(outcome)
        return True

    def begin_broadcast(self, request: BroadcastBody, done: Callable[[Answer | Error], None]) -> bool:
        """As `begin`, for a broadcast."""
        if request.wait_seconds or self._engine.tracer.on:
            return False
        started = time.perf_counter()
        refused: dict[int, PublishAnswer] = {}

        def finish(outcomes: Sequence[PublishOutcome] | Exception) -> None:
            if isinstance(outcomes, Exception):
                answer: Answer | Error = error_of("broadcast", outcomes)
            elif isinstance(outcomes, StoredPositions) and not refused:
                answer = _BroadcastAnswer(Raw(outcomes.json_list("result")))
            elif (away := _all_away(outcomes)) is not None:
                answer = error_of("broadcast", away)
            elif not refused and set(map(type, outcomes)) == {StreamPosition}:
                positions = cast("Sequence[StreamPosition]", outcomes)
                answer = _BroadcastAnswer([_StoredAnswer(each) if each.epoch else _SENT for each in positions])
            else:
                answer = _broadcast_response(refused, outcomes)
            self._count("broadcast", answer, started)
            done(answer)

        try:
            requests, refused = self._broadcast_requests(request)
            outcomes = self._engine.publisher.begin_all(requests, finish)
        except ValueError as error:
            finish(not_available(str(error)))
        except Exception as failure:  # noqa: BLE001 - every failure is answered as an error
            finish(failure)
        else:
            if outcomes is not None:
                finish(outcomes)
        return True

    def _count(self, method: str, answer: Answer | Error, started: float) -> None:
        code = answer.code if isinstance(answer, Error) else 0
        self._engine.metrics.count_api(method, code, time.perf_counter() - started)

    # In a task, which may wait for the broker

    async def publish(self, request: PublishBody) -> PublishResponse:
        """Publish in one channel."""
        publication, options = self.publication(request)
        try:
            position = await self._waiting.until_stored(
                lambda: self._engine.publisher.publish(request.channel, publication, options), request.wait_seconds
            )
        except ValueError as error:
            raise not_available(str(error)) from error
        return PublishResponse(position.offset, position.epoch)

    async def broadcast(self, request: BroadcastBody) -> BroadcastResponse:
        """Publish the same in many channels; each has its own answer, unless the broker did none of them."""
        requests, refused = self._broadcast_requests(request)
        outcomes: list[PublishOutcome] = []

        async def publish_all() -> None:
            outcomes[:] = await self._engine.publisher.publish_all(requests)
            away = [outcome for outcome in outcomes if isinstance(outcome, BrokerUnavailable)]
            # Some stored and some not is an answer, unless the rest may wait.
            if away and (len(away) == len(outcomes) or request.wait_seconds):
                raise away[0]

        try:
            await self._waiting.until_stored(publish_all, request.wait_seconds)
        except ValueError as error:
            raise not_available(str(error)) from error
        except BrokerUnavailable:
            if _all_away(outcomes) is not None:
                raise
        return _broadcast_response(refused, outcomes)

    # What a request publishes

    def publication(self, request: PublishBody) -> tuple[Publication, PublishOptions]:
        """What a request publishes, and how it is kept. Raises CommandRefused."""
        publication = Publication(data=payload(request.data, request.b64data), tags=request.tags)
        channel_options = self._options(request.channel)
        check_no_stream(channel_options)
        check_publication(bytes(publication.data), channel_options)
        if request.delta:
            _check_delta(channel_options)
        return publication, _publish_options(channel_options, request)

    def _broadcast_requests(self, request: BroadcastBody) -> tuple[Sequence[PublishRequest], dict[int, PublishAnswer]]:
        """What is published in the channels, and the answers to those that are refused, by number."""
        publication = Publication(data=payload(request.data, request.b64data), tags=request.tags)
        alike = self._options_of_all(request.channels)
        if alike is not None and isinstance(kept := _broadcast_options(alike, request, publication), PublishOptions):
            return SamePublication(request.channels, publication, kept), {}
        requests: list[PublishRequest] = []
        refused: dict[int, PublishAnswer] = {}
        of_namespace: dict[int, PublishOptions | PublishAnswer] = {}
        for number, channel in enumerate(request.channels):
            try:
                options = self._options(channel)
            except CommandRefused as refusal:
                refused[number] = PublishAnswer(error=_api_error(refusal.reason))
                continue
            found = of_namespace.get(id(options))
            if found is None:
                found = of_namespace[id(options)] = _broadcast_options(options, request, publication)
            if isinstance(found, PublishOptions):
                requests.append((channel, publication, found))
            else:
                refused[number] = found
        return requests, refused

    def _options_of_all(self, channels: Sequence[str]) -> ChannelOptions | None:
        """The options of all channels where they have the same ones, as those of one namespace do."""
        try:
            found = self._engine.channels.options_of_all(channels)
        except CommandRefused:
            return None
        return found[0] if all(map(is_, found, repeat(found[0]))) else None


def _all_away(outcomes: Sequence[PublishOutcome]) -> BrokerUnavailable | None:
    """The first failure where the broker did nothing at all."""
    first = outcomes[0] if outcomes else None
    if not isinstance(first, BrokerUnavailable):
        return None
    return first if all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes) else None


def _broadcast_response(refused: Mapping[int, PublishAnswer], outcomes: Sequence[PublishOutcome]) -> BroadcastResponse:
    if not refused:
        return BroadcastResponse([*map(_publish_answer, outcomes)])
    rest = iter(outcomes)
    count = len(refused) + len(outcomes)
    return BroadcastResponse([refused.get(number) or _publish_answer(next(rest)) for number in range(count)])


def _publish_options(options: ChannelOptions, request: PublishBody | BroadcastBody) -> PublishOptions:
    key = request.idempotency_key or (waiting_key() if request.wait_seconds else "")
    if request.skip_history:
        return PublishOptions(idempotency_key=key, delta=request.delta)
    kept = options.publish_options(key)
    if not (request.version or request.delta):
        return kept
    delta = request.delta or kept.delta
    return replace(kept, version=request.version, version_epoch=request.version_epoch, delta=delta)


def check_no_stream(options: ChannelOptions) -> None:
    """Raise CommandRefused with 108 for a publication in an append-only stream."""
    if options.stream is not None:
        raise not_available("channel: it is an append-only stream: use stream_append")


def _check_delta(options: ChannelOptions) -> None:
    """Raise CommandRefused with 108 for patches where nobody may have any."""
    if not options.allowed_delta_types:
        raise not_available("delta: the channel's options allow no patches: set allowed_delta_types: [fossil]")


def _broadcast_options(
    options: ChannelOptions, request: BroadcastBody, publication: Publication
) -> PublishOptions | PublishAnswer:
    """How a publication is kept in the channels of one namespace, or why it is refused there."""
    try:
        check_no_stream(options)
        check_publication(bytes(publication.data), options)
        if request.delta:
            _check_delta(options)
    except CommandRefused as refusal:
        return PublishAnswer(error=_api_error(refusal.reason))
    return _publish_options(options, request)


def _publish_answer(outcome: PublishOutcome) -> PublishAnswer:
    if isinstance(outcome, StreamPosition):
        if not outcome.epoch:
            return _SENT
        return PublishAnswer(result=PublishResponse(outcome.offset, outcome.epoch))
    if isinstance(outcome, BrokerUnavailable):
        return PublishAnswer(error=_api_error(unavailable(outcome)))
    return PublishAnswer(error=ApiError(codes.ERROR_LIMIT_EXCEEDED.code, f"limit exceeded: {outcome}"))


def _api_error(reason: Error | Disconnect) -> ApiError:
    return ApiError(reason.code, reason.message if isinstance(reason, Error) else reason.reason)
