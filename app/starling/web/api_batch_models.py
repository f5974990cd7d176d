"""Requests that hold the commands of several methods, and the legacy envelope."""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from starling.web.api_models import (
    BATCH_COMMANDS,
    CanBody,
    ChannelsBody,
    ConnectionsBody,
    DisconnectBody,
    HistoryBody,
    HistoryRemoveBody,
    InfoBody,
    Name,
    PresenceBody,
    PresenceSetBody,
    PresenceStatsBody,
    PresenceUnsetBody,
    RefreshBody,
    SubscribeBody,
    TopBody,
    UnsubscribeBody,
)
from starling.web.api_publishing import BroadcastBody, PublishBody
from starling.web.api_stream_models import (
    StreamAppendBody,
    StreamCancelBody,
    StreamCloseBody,
    StreamDeleteBody,
    StreamInfoBody,
    StreamListBody,
    StreamOpenBody,
)
from starling.web.api_token_models import InvalidateUserTokensBody, RevokeSessionBody, RevokeTokenBody, TicketBody


class BatchCommand(Struct, omit_defaults=True):
    """One command: exactly one of the methods, with its request."""

    publish: PublishBody | None = None
    broadcast: BroadcastBody | None = None
    subscribe: SubscribeBody | None = None
    unsubscribe: UnsubscribeBody | None = None
    disconnect: DisconnectBody | None = None
    refresh: RefreshBody | None = None
    presence: PresenceBody | None = None
    presence_stats: PresenceStatsBody | None = None
    history: HistoryBody | None = None
    history_remove: HistoryRemoveBody | None = None
    connections: ConnectionsBody | None = None
    channels: ChannelsBody | None = None
    can: CanBody | None = None
    info: InfoBody | None = None
    top: TopBody | None = None
    revoke_token: RevokeTokenBody | None = None
    revoke_session: RevokeSessionBody | None = None
    invalidate_user_tokens: InvalidateUserTokensBody | None = None
    ticket: TicketBody | None = None
    presence_set: PresenceSetBody | None = None
    presence_unset: PresenceUnsetBody | None = None
    stream_open: StreamOpenBody | None = None
    stream_append: StreamAppendBody | None = None
    stream_close: StreamCloseBody | None = None
    stream_cancel: StreamCancelBody | None = None
    stream_info: StreamInfoBody | None = None
    stream_delete: StreamDeleteBody | None = None
    stream_list: StreamListBody | None = None


class BatchBody(Struct):
    """Do several things with one request: one after the other, or with `parallel` all at once."""

    commands: Annotated[list[BatchCommand], Meta(max_length=BATCH_COMMANDS)]
    parallel: bool = False


class BatchFrame(Struct):
    """A BatchBody whose commands are still to be read, so that a malformed one fails alone."""

    commands: Annotated[list[Raw], Meta(max_length=BATCH_COMMANDS)]
    parallel: bool = False


class PlainPublish(Struct, forbid_unknown_fields=True, gc=False):
    """A PublishBody that is nothing but data for a channel."""

    channel: Name
    data: Raw


class PlainCommand(Struct, forbid_unknown_fields=True, gc=False):
    """A BatchCommand of one of these."""

    publish: PlainPublish


class PlainBatch(Struct, forbid_unknown_fields=True, gc=False):
    """A BatchBody of such commands, as most are: decoded as a whole."""

    commands: Annotated[list[PlainCommand], Meta(max_length=BATCH_COMMANDS)]


class EnvelopeCommand(Struct):
    """One line of a request to `/api`: a method by its name, with its request. The reply has the same `id`, if any."""

    method: str
    params: Raw = msgspec.field(default_factory=Raw)
    id: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
