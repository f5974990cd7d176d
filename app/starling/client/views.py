"""In which form a client gets a channel: what it asked for with `tf`, `delta` and `flag`, and what its grant forces."""

from msgspec.structs import replace

from starling.client.authority import Grant
from starling.client.client_connection import ClientConnection
from starling.engine.recovered_patches import RecoveredPatches
from starling.engine.subscriptions import Subscriber
from starling.engine.view import ChannelIds, View, ViewEncoder
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.commands import SubscribeRequest
from starling.protocol.messages import FLAG_CHANNEL_ID, SubscribeResult
from starling.protocol.tags_filter import FilterInvalid, TagsFilter, compile_filter

FOSSIL = "fossil"


def tags_filter(request: SubscribeRequest, grant: Grant) -> TagsFilter | None:
    """The filter of the client's publications: the forced one, narrowed by the client's own; None without either.

    Raises CommandRefused with 107 for a filter that is invalid, or where the namespace does not allow filters.
    """
    if request.tf is None:
        return grant.filter
    if not grant.options.allow_tags_filter:
        raise CommandRefused(codes.ERROR_BAD_REQUEST)
    try:
        wanted = compile_filter(request.tf)
    except FilterInvalid:
        raise CommandRefused(codes.ERROR_BAD_REQUEST) from None
    return wanted if grant.filter is None else grant.filter.narrowed(wanted)


def check_delta(request: SubscribeRequest) -> None:
    """Raise CommandRefused, which ends the connection, for a kind of patches that the protocol does not know."""
    if request.delta not in {"", FOSSIL}:
        raise CommandRefused(codes.DISCONNECT_BAD_REQUEST)


def make_view(
    encoder: ViewEncoder, request: SubscribeRequest, grant: Grant, result: SubscribeResult, channel_ids: ChannelIds
) -> View | None:
    """The view that the client gets, None for the ordinary form; `result` says so of patches and of the channel's id.

    Raises CommandRefused as `tags_filter` does.
    """
    wanted = tags_filter(request, grant)
    # A reader of patches must know that it missed nothing.
    result.delta = request.delta in grant.options.allowed_delta_types and result.positioned
    if request.flag & FLAG_CHANNEL_ID and grant.options.allow_channel_compaction and encoder.carries_channel_ids:
        result.id = channel_ids.of(request.channel)
    return View(encoder, wanted, result.id, result.delta) if wanted is not None or result.id or result.delta else None


def set_stream_view(subscriber: Subscriber, client: ClientConnection, grant: Grant, result: SubscribeResult) -> None:
    """Give a subscriber of a stream of bytes these as they are, where its protocol carries bytes."""
    encoder = client.stream_encoder
    if encoder is None or grant.options.stream not in ("bytes", "any"):
        return
    subscriber.view = replace(subscriber.view or View(encoder), encoder=encoder)
    result.publications = [encoder.publication(each) for each in result.publications]


def set_view(
    subscriber: Subscriber,
    encoder: ViewEncoder,
    request: SubscribeRequest,
    grant: Grant,
    result: SubscribeResult,
    channel_ids: ChannelIds,
    patches: RecoveredPatches,
) -> None:
    """Give a subscriber that is answered with `result` the view that the client asked for or its grant forces.

    Of what was recovered the filter leaves out what does not match; the rest becomes `patches` of each other where the
    client agreed on these. Raises CommandRefused as `tags_filter` does.
    """
    view = subscriber.view = make_view(encoder, request, grant, result, channel_ids)
    if view is None:
        return
    wanted = view.filter
    if wanted is not None:
        result.publications = [each for each in result.publications if wanted.matches(each.tags or {})]
    if view.delta:
        result.publications, subscriber.base = patches.of(request.channel, result.publications, encoder)
