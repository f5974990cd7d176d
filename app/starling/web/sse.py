"""`GET /sse/{channel}` and `GET /sse?channel=…`: what is published, as events for `curl` and EventSource."""

from collections.abc import Sequence
from http import HTTPStatus

from starlette.datastructures import QueryParams
from starlette.routing import Route

from starling.client.event_frames import EventStreams
from starling.client.event_stream import NO_EPOCH, EventStreamConnection
from starling.engine.direct_request import DirectResponse, Respond
from starling.engine.upgrade import Upgrade
from starling.protocol.event_stream import MEDIA_TYPE
from starling.protocol.messages import StreamPosition
from starling.protocol.resume_id import ResumeId, ResumeIdInvalid, parse_resume_id
from starling.web.dependencies import WebContext
from starling.web.http_endpoint import HttpEndpoint
from starling.web.http_stream import STREAM_HEADERS
from starling.web.one_way import EVENTS, StreamAnswer, bad_request, begin, handshake_of

PATH = "/sse"
# The values of `?event=`.
_BY_CHANNEL = "channel"
_REPLACEMENT = "\ufffd"


class _BadRequest(Exception):
    """The address or a header cannot be understood; the message says which, and why."""


class EventsEndpoint(HttpEndpoint):
    """Opens the stream of the channels in the query, or of the one in the path."""

    path = PATH
    methods = ("GET",)

    def __init__(self, context: WebContext, max_body_bytes: int, streams: EventStreams) -> None:
        super().__init__(context, max_body_bytes)
        self._streams = streams

    def answer(self, request: Upgrade, method: str, body: bytes, respond: Respond) -> None:
        """Open a stream, unless the client is rejected or refused."""
        context = self._context
        if (rejected := self.rejection(request)) is not None:
            respond(rejected)
            return
        if (refused := self.not_acceptable(request, MEDIA_TYPE)) is not None:
            respond(refused)
            return
        query = QueryParams(request.query)
        try:
            channels = self._channels(request, query)
            resume = resume_of(request, query, len(channels))
            names_channels = _names_channels(query)
        except _BadRequest as problem:
            respond(bad_request(context, request, str(problem)))
            return
        answer = StreamAnswer(context, request, respond, EVENTS)
        handshake = handshake_of(context, request, resume.right)
        connection = EventStreamConnection(
            context.dispatcher, handshake, answer, self._streams, channels, resume, names_channels=names_channels
        )
        begin(context, connection, answer, request)

    def _channels(self, request: Upgrade, query: QueryParams) -> Sequence[str]:
        """The channels of a request, each once. Raises _BadRequest."""
        channels = tuple(dict.fromkeys(self.names(request, query)))
        if not channels or not all(channels):
            raise _BadRequest("name a channel: /sse/CHANNEL, or /sse?channel=ONE&channel=OTHER")
        if any(_REPLACEMENT in channel for channel in channels):
            raise _BadRequest("the channel is not percent-encoded UTF-8")
        most = self._context.dispatcher.limits.max_channels
        if len(channels) > most:
            raise _BadRequest(f"a stream has {most} channels at most: see STARLING_MAX_CHANNELS")
        return channels

    def names(self, request: Upgrade, query: QueryParams) -> list[str]:
        """The channels that a request names."""
        return query.getlist("channel")

    def head(self, request: Upgrade) -> DirectResponse:
        """The head of a stream."""
        return DirectResponse(HTTPStatus.OK, [*STREAM_HEADERS, EVENTS], b"")


class ChannelEventsEndpoint(EventsEndpoint):
    """Opens the stream of the channel in the path."""

    path = f"{PATH}/"

    @property
    def route(self) -> Route:
        """Where an ASGI application finds it."""
        return Route(f"{PATH}/{{channel:path}}", self, include_in_schema=False)

    def names(self, request: Upgrade, query: QueryParams) -> list[str]:
        """The channel of the path; one in the query would be another way to say the same."""
        if "channel" in query:
            raise _BadRequest("name the channels in the path or in the query, not in both")
        return [request.path.partition(self.path)[2]]


def resume_of(request: Upgrade, query: QueryParams, channels: int) -> ResumeId:
    """Where the reader stopped: by `Last-Event-ID`, which is newer than the address, else by `?since=`.

    Raises _BadRequest for a `since` that is no id of these channels. A browser that has such a `Last-Event-ID` sends it
    for ever, so it counts as the end of another stream.
    """
    since = ResumeId()
    if (text := query.get("since")) is not None:
        try:
            since = parse_resume_id(text, channels)
        except ResumeIdInvalid as problem:
            raise _BadRequest(f"since: {problem}") from problem
    last = request.header(b"last-event-id")
    if not last:
        return since
    try:
        known = parse_resume_id(last, channels)
    except ResumeIdInvalid:
        return ResumeId({index: StreamPosition(0, NO_EPOCH) for index in range(channels)}, right=since.right)
    # A channel that the id does not name had not been reached yet, or keeps no history.
    positions = {**since.positions, **known.positions}
    return ResumeId(positions, known.from_start or since.from_start, known.right)


def _names_channels(query: QueryParams) -> bool:
    given = query.get("event")
    if given not in (None, _BY_CHANNEL):
        raise _BadRequest(f"event: it can be {_BY_CHANNEL}, so that each event has its channel for a type")
    return given is not None
