"""The optional fields of the server API's methods as keyword arguments, for editors and type checkers."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class PublicationFields(TypedDict, total=False):
    """Of `publish` and `broadcast`."""

    b64data: str
    skip_history: bool
    tags: Mapping[str, str]
    idempotency_key: str
    version: int
    version_epoch: str
    delta: bool
    wait_seconds: float
    traceparent: str
    tracestate: str


class SincePosition(TypedDict):
    """A position in a channel's history."""

    offset: int
    epoch: str


class SubscribeFields(TypedDict, total=False):
    """Of `subscribe`."""

    client: str
    session: str
    info: Any
    b64info: str
    data: Any
    b64data: str
    recover_since: SincePosition
    expire_at: float
    override: Mapping[str, Any]
    server_tags_filter: Mapping[str, Any]


class UnsubscribeFields(TypedDict, total=False):
    """Of `unsubscribe`."""

    client: str
    session: str
    code: int
    reason: str


class DisconnectFields(TypedDict, total=False):
    """Of `disconnect`."""

    client: str
    session: str
    whitelist: Sequence[str]
    disconnect: Mapping[str, Any]


class RefreshFields(TypedDict, total=False):
    """Of `refresh`."""

    client: str
    session: str
    expired: bool
    expire_at: float


class HistoryFields(TypedDict, total=False):
    """Of `history`."""

    since: SincePosition
    reverse: bool


class ChannelsFields(TypedDict, total=False):
    """Of `channels`."""

    limit: int
    cursor: str


class ConnectionsFields(TypedDict, total=False):
    """Of `connections`."""

    user: str
    limit: int
    cursor: str


class PresenceSetFields(TypedDict, total=False):
    """Of `presence_set`."""

    info: Any
    ttl: float


class TicketFields(TypedDict, total=False):
    """Of `ticket`."""

    channels: Sequence[str]
    info: Any
    ttl: float
    expire_at: float


class RevocationFields(TypedDict, total=False):
    """Of `revoke_token` and `revoke_session`."""

    expire_at: float


class InvalidationFields(TypedDict, total=False):
    """Of `invalidate_user_tokens`."""

    issued_before: float
    channel: str
    expire_at: float
