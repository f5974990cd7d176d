"""Requests of the methods that end tokens and that give tickets."""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from starling.web.api_models import Seconds

ExpireAt = Annotated[
    float,
    Meta(
        ge=0,
        le=253402300799,
        description="When to forget it, in seconds since 1970: when the last of these tokens has expired. Left out: "
        "after STARLING_REVOCATION_SECONDS.",
    ),
]

TICKET_SECONDS = 60

TicketSeconds = Annotated[
    float, Meta(gt=0, le=TICKET_SECONDS, description="In how many seconds it must be spent, 60 at most.")
]

SessionEnd = Annotated[
    float,
    Meta(
        ge=0,
        le=253402300799,
        description="When the session ends, in seconds since 1970. Left out: it does not end by itself, and may be "
        "resumed for a day.",
    ),
]


class RevokeTokenBody(Struct):
    """Refuse one token from now on, and end its connections with 3500."""

    uid: Annotated[str, Meta(min_length=1, max_length=255, description="The token's `jti`.")]
    expire_at: ExpireAt | None = None


class RevokeSessionBody(Struct):
    """Refuse the tokens of one session (claim `sid`) from now on, and end its connections with 3500.

    Where tokens name no session, each connection is a session of its own, whose id is in the connect result; then the
    connection ends, and its token is refused from now on if it has a `jti`.
    """

    session: Annotated[str, Meta(min_length=1, max_length=255, description="The session's id.")]
    expire_at: ExpireAt | None = None


class TicketBody(Struct):
    """Make a ticket: a secret that opens one session of a user, once, on any pod."""

    user: Annotated[str, Meta(max_length=255, description="Id of the user; empty: an anonymous client.")]
    channels: Annotated[
        list[str], Meta(max_length=100, description="Channels that the client is subscribed to when it connects.")
    ] = msgspec.field(default_factory=list)
    info: Annotated[Raw, Meta(description="JSON that others see of the client.")] = msgspec.field(default_factory=Raw)
    ttl: TicketSeconds = 30
    expire_at: SessionEnd | None = None


class InvalidateUserTokensBody(Struct):
    """Refuse a user's tokens issued before a moment, and end the connections that came with one, with 3500."""

    user: Annotated[str, Meta(min_length=1, max_length=255, description="Id of the user.")]
    issued_before: Annotated[
        Seconds | None,
        Meta(
            description="Tokens whose `iat` is earlier, or that have none, are refused; in seconds since 1970. Left "
            "out: the current second, so that a token which you issue right afterwards passes."
        ),
    ] = None
    channel: Annotated[str, Meta(description="Only subscription tokens, of this channel.")] = ""
    expire_at: ExpireAt | None = None
