"""Publishing to all processes: checked, through the broker, counted in the metrics and traced where tracing is on."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace

from starling.engine.broker import (
    Broker,
    BrokerRefused,
    BrokerUnavailable,
    PublicationTooLarge,
    PublishOptions,
    PublishOutcome,
    PublishRequest,
    StoredPositions,
    StreamPosition,
    channels_of,
)
from starling.engine.broker_refusals import BrokerRefusals
from starling.engine.channels import ChannelOptions, count_namespaces, namespace_of
from starling.protocol.codes import ERROR_BAD_REQUEST, CommandRefused, Error
from starling.protocol.messages import Publication
from starling.protocol.portable_json import PORTABLE_JSON, is_json, keeps_limits
from starling.telemetry.metrics import Metrics
from starling.telemetry.tracing import Tracer

_BRACE = b"{"
_STORED = {StreamPosition}


class Publisher:
    """Publishes; a publication reaches this process the same way as all others, through the broker."""

    def __init__(self, broker: Broker, metrics: Metrics, tracer: Tracer, refusals: BrokerRefusals) -> None:
        """`refusals` reports what the broker refuses."""
        self._broker = broker
        self._metrics = metrics
        self._tracer = tracer
        self._refusals = refusals

    def publish(
        self, channel: str, publication: Publication, options: PublishOptions
    ) -> Coroutine[object, None, StreamPosition]:
        """Publish and return the position. Raises BrokerUnavailable and PublicationTooLarge."""
        publish = self._publish_traced if self._tracer.on else self._publish
        return publish(channel, publication, options)

    async def _publish_traced(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        size = len(publication.data)
        with self._tracer.publish(channel, namespace_of(channel), size=size, channels=1) as publishing:
            return await self._publish(channel, publication, replace(options, trace=publishing.trace))

    async def _publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        try:
            position = await self._broker.publish(channel, publication, options)
        except (BrokerUnavailable, PublicationTooLarge) as failure:
            self._count(channel, failure)
            raise
        self._count(channel, position)
        return position

    def begin(
        self, channel: str, publication: Publication, options: PublishOptions, done: Callable[[PublishOutcome], None]
    ) -> PublishOutcome | None:
        """Publish without waiting: return the outcome, or None; after None, `done` is called with the outcome later.

        It makes no span: callers use `publish` where tracing is on.
        """

        def finish(outcome: PublishOutcome) -> None:
            self._count(channel, outcome)
            done(outcome)

        outcome = self._broker.begin_publish(channel, publication, options, finish)
        if outcome is not None:
            self._count(channel, outcome)
        return outcome

    def begin_all(
        self, requests: Sequence[PublishRequest], done: Callable[[Sequence[PublishOutcome]], None]
    ) -> Sequence[PublishOutcome] | None:
        """As `begin` for each of `requests`: return the outcomes in order, or None, and `done` gets them later.

        Raises ValueError where the broker cannot do one of them, and then nothing is published.
        """

        def finish(outcomes: Sequence[PublishOutcome]) -> None:
            self._count_all(requests, outcomes)
            done(outcomes)

        outcomes = self._broker.begin_publish_all(requests, finish)
        if outcomes is not None:
            self._count_all(requests, outcomes)
        return outcomes

    async def publish_all(self, requests: Sequence[PublishRequest]) -> list[PublishOutcome]:
        """Publish many, in one span; return the outcomes in the order of `requests`."""
        if not self._tracer.on:
            return await self._publish_all(requests)
        size = sum(len(publication.data) for publication in {id(each): each for _, each, _ in requests}.values())
        with self._tracer.publish("", "", size=size, channels=len(requests)) as publishing:
            if (trace := publishing.trace) is not None:
                requests = [(channel, each, replace(options, trace=trace)) for channel, each, options in requests]
            outcomes = await self._publish_all(requests)
            if failed := [outcome for outcome in outcomes if not isinstance(outcome, StreamPosition)]:
                publishing.fail(type(failed[0]).__name__, len(failed))
            return outcomes

    async def _publish_all(self, requests: Sequence[PublishRequest]) -> list[PublishOutcome]:
        outcomes = await self._broker.publish_all(requests)
        self._count_all(requests, outcomes)
        return outcomes

    def _count_all(self, requests: Sequence[PublishRequest], outcomes: Sequence[PublishOutcome]) -> None:
        if isinstance(outcomes, StoredPositions) or set(map(type, outcomes)) <= _STORED:
            stored: Sequence[str] = channels_of(requests)
        else:
            stored = list[str]()
            for (channel, _, _), outcome in zip(requests, outcomes, strict=True):
                if isinstance(outcome, StreamPosition):
                    stored.append(channel)
                else:
                    self._count(channel, outcome)
        for namespace, count in count_namespaces(stored).items():
            self._metrics.published[namespace, "stored"] += count

    def _count(self, channel: str, outcome: PublishOutcome) -> None:
        if isinstance(outcome, StreamPosition):
            self._metrics.published[namespace_of(channel), "stored"] += 1
            return
        failed = "failed" if isinstance(outcome, BrokerUnavailable) else "too_large"
        if isinstance(outcome, BrokerRefused):
            self._refusals.report(channel, outcome)
        self._metrics.published[namespace_of(channel), failed] += 1


def check_publication(data: bytes, options: ChannelOptions, *, decoded: bool = False) -> None:
    """Raise CommandRefused with 107 for data that is not of the namespace's `publication_data_format`.

    `decoded`: the data was part of JSON in UTF-8 that msgspec has decoded as it is.
    """
    wanted = options.publication_data_format
    if wanted in ("any", "binary"):
        return
    if not (keeps_limits(data) if decoded else is_json(data)):
        raise CommandRefused(_refusal(wanted, PORTABLE_JSON))
    if wanted == "json_object" and not data.lstrip().startswith(_BRACE):
        raise CommandRefused(_refusal(wanted, "a JSON object"))


def _refusal(wanted: str, what: str) -> Error:
    return Error(ERROR_BAD_REQUEST.code, f"bad request: data is not {what}, see publication_data_format: {wanted}")
