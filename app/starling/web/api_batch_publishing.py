"""The publications of a batch of the server API: checked one by one, published by one call of the broker."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from msgspec import Raw, Struct

from starling.engine.broker import PublishOptions, PublishOutcome, PublishRequest, StoredPositions, StreamPosition
from starling.engine.engine import Engine
from starling.engine.publisher import check_publication
from starling.protocol.codes import CommandRefused, Error
from starling.protocol.messages import Publication
from starling.web.api_errors import error_of
from starling.web.api_publishing import PublishBody, PublishMethods, PublishResponse, check_no_stream
from starling.web.api_request import RequestChannels

Published = Sequence[StreamPosition | Error]
"""What became of the publications of a batch, in their order."""


class BatchPublishing:
    """Publishes what is in a batch with one call of the broker, without a task."""

    def __init__(self, engine: Engine, channels: RequestChannels, methods: PublishMethods) -> None:
        self._engine = engine
        self._methods = methods
        self._options = channels.options

    def begin(self, requests: Sequence[PublishBody], done: Callable[[Published], None]) -> bool:
        """Publish all in their order; `done` gets what became of them, now or later.

        False, and nothing is begun, where one may wait for a broker that is away, makes a span, or has options that
        this broker does not support: begin each by itself.
        """
        if self._engine.tracer.on or any(request.wait_seconds for request in requests):
            return False
        publications: list[PublishRequest] = []
        refused: dict[int, Error] = {}
        for number, request in enumerate(requests):
            try:
                publications.append((request.channel, *self._methods.publication(request)))
            except CommandRefused as refusal:
                refused[number] = error_of("publish", refusal)
        return self._begin(publications, refused, done)

    def begin_plain(self, requests: Sequence[tuple[str, bytes]], done: Callable[[Published], None]) -> bool:
        """As `begin`, for JSON that goes to a channel without anything further, and was decoded as part of a batch."""
        if self._engine.tracer.on:
            return False
        publications: list[PublishRequest] = []
        refused: dict[int, Error] = {}
        of_namespace: dict[int, PublishOptions] = {}
        for number, (channel, data) in enumerate(requests):
            try:
                options = self._options(channel)
                kept = of_namespace.get(id(options))
                if kept is None:
                    check_no_stream(options)
                    kept = of_namespace[id(options)] = options.publish_options()
                check_publication(data, options, decoded=True)
            except CommandRefused as refusal:
                refused[number] = error_of("publish", refusal)
            else:
                publications.append((channel, Publication(Raw(data)), kept))
        return self._begin(publications, refused, done)

    def _begin(
        self,
        publications: Sequence[PublishRequest],
        refused: Mapping[int, Error],
        done: Callable[[Published], None],
    ) -> bool:
        started = time.perf_counter()

        def finish(outcomes: Sequence[PublishOutcome]) -> None:
            if isinstance(outcomes, StoredPositions) and not refused:
                self._engine.metrics.count_api("publish", 0, time.perf_counter() - started, len(outcomes))
                done(outcomes)
                return
            found = [each if isinstance(each, StreamPosition) else error_of("publish", each) for each in outcomes]
            if refused:
                rest = iter(found)
                found = [refused.get(number) or next(rest) for number in range(len(refused) + len(outcomes))]
            self._count(found, time.perf_counter() - started)
            done(found)

        try:
            outcomes = self._engine.publisher.begin_all(publications, finish)
        except ValueError:
            return False
        if outcomes is not None:
            finish(outcomes)
        return True

    def _count(self, found: Published, seconds: float) -> None:
        failed = Counter([each.code for each in found if isinstance(each, Error)])
        failed[0] = len(found) - failed.total()
        for code, times in failed.items():
            if times:
                self._engine.metrics.count_api("publish", code, seconds, times)


class _StoredReply(Struct, gc=False):
    """The reply to a publication that is kept."""

    publish: StreamPosition


class _SentReply(Struct):
    """The reply to a publication that is not kept."""

    publish: PublishResponse


_SENT = _SentReply(PublishResponse())


def published_replies(found: Published) -> Raw | list[Struct | Mapping[str, Error]]:
    """The replies to publications, as they are encoded."""
    if isinstance(found, StoredPositions):
        return Raw(found.json_list("publish"))
    return [
        {"error": each} if isinstance(each, Error) else _StoredReply(each) if each.epoch else _SENT for each in found
    ]
