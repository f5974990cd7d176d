"""The contract of authentication and permission for clients of the client protocol."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from msgspec import Raw, Struct

from starling.engine.channels import ChannelOptions
from starling.engine.hooks import ConnectDecision
from starling.engine.receiver import TokenFacts
from starling.protocol.codes import DISCONNECT_INVALID_TOKEN, CommandRefused
from starling.protocol.commands import ConnectRequest, SubscribeRequest
from starling.protocol.decisions import ServerTerms
from starling.protocol.messages import NO_PAYLOAD
from starling.protocol.tags_filter import TagsFilter


class HookTerms(Struct, frozen=True):
    """What a token says where hooks said something else, and the end that they set.

    `info` and `meta` are the token's: those of the hooks are in force until another token says something else. `end` is
    in seconds since 1970, and no token that the client brings moves it; None: hooks set none.
    """

    info: bytes = b""
    meta: bytes = b""
    end: float | None = None


# Shared by the clients of hooks that set no end, and have no token.
NO_TERMS = HookTerms()


def earlier(one: float | None, other: float | None) -> float | None:
    """The earlier of two ends; None never comes."""
    return min((end for end in (one, other) if end is not None), default=None)


# Structs, since each is made once or twice a connect: a frozen dataclass takes ten times as long.
class Grant(ServerTerms, frozen=True):
    """What a client has in one channel.

    `options` are the channel's, with what a token overrides. `info` is shown to others in the channel, `data` goes to
    the client with the subscription. `expires_at` in seconds since 1970; None never ends. `recover` lets the client
    recover even where its reading of history is not allowed. `token` is the subscription token that it came by.
    `filter`: the client gets only publications whose tags match; its own filter can narrow that, and never widen it.
    `token_filter` is the part of it that `token` forces. `needs_hook`: it counts only if a hook grants the channel.
    `renewable`: the client is notified of its end, and can renew it by a token. `hooked`: what hooks made of it.
    """

    options: ChannelOptions
    info: Raw = NO_PAYLOAD
    data: Raw = NO_PAYLOAD
    expires_at: float | None = None
    recover: bool = False
    token: TokenFacts | None = None
    filter: TagsFilter | None = None
    needs_hook: bool = False
    renewable: bool = True
    token_filter: TagsFilter | None = None
    hooked: HookTerms | None = None


class TokenTerms(Struct, frozen=True):
    """What a connection token says of one of its channels, as far as its successor may say otherwise."""

    info: bytes = b""
    expires_at: float | None = None
    filter: TagsFilter | None = None


# Shared by all that have none: an empty mapping alone takes 64 bytes of each client.
NO_GRANTS: Mapping[str, Grant] = MappingProxyType({})
NO_CHANNELS: Mapping[str, TokenTerms] = MappingProxyType({})


class Identity(Struct, frozen=True):
    """Who a client is; `user` is empty for an anonymous one.

    `client` is the id of its connection, empty before it is connected. `info` is public, `meta` stays on the server.
    `token_channels` are the channels that its token names, with what it says of each; `subscriptions` are all channels
    the server subscribes it to.
    `expires_at` in seconds since 1970; None never ends. `token` is the one that the client came with. `renewable`: the
    client is notified of its end, and can renew it by a token. `resume` is a secret that the client can connect by in
    the place of the ticket that it has spent. `renewed_by_hook`: hooks are asked at its end whether it goes on.
    `hooked`: what hooks made of what its token says.
    """

    user: str = ""
    info: Raw = NO_PAYLOAD
    meta: bytes = b""
    expires_at: float | None = None
    token: TokenFacts | None = None
    subscriptions: Mapping[str, Grant] = NO_GRANTS
    client: str = ""
    token_channels: Mapping[str, TokenTerms] = NO_CHANNELS
    renewable: bool = True
    resume: str = ""
    renewed_by_hook: bool = False
    hooked: HookTerms | None = None

    @property
    def ends_by_hook(self) -> bool:
        """Whether hooks set the end, which the client is not notified of and cannot move."""
        return self.hooked is not None and self.hooked.end is not None and self.hooked.end == self.expires_at

    def forced_filter(self, channel: str) -> TagsFilter | None:
        """The filter that every subscription of this connection to `channel` has; None where none is forced."""
        grant = self.subscriptions.get(channel)
        return None if grant is None else grant.filter

    def __repr__(self) -> str:
        return f"Identity(user={self.user!r}, expires_at={self.expires_at}, channels={tuple(self.subscriptions)})"


class PendingToken(Struct, frozen=True):
    """The token of a handshake that cannot be verified yet, because keys must be fetched. Its `repr` hides it.

    `right` is the right to resume the session of `token`, a ticket, once that is spent.
    """

    token: str
    right: str = ""

    def __repr__(self) -> str:
        return "PendingToken()"


# What is known of a client at its upgrade; CommandRefused says why its token is refused, None that it brought none.
Handshake = Identity | CommandRefused | PendingToken | None


class Authority(Protocol):
    """Decides. Every method raises starling.protocol.codes.CommandRefused.

    `identify_now` and `grant_now` return None where the keys of a token's issuer must be fetched first; then `identify`
    and `grant` do it. The rules of both are the same.
    """

    def identify_now(self, request: ConnectRequest, handshake: Handshake) -> Identity | None:
        """Who the client is: by the token of its command, else by the `handshake`, else anonymous where allowed.

        The token of a command counts, and not that of the handshake, where there are both.
        """

    async def identify(self, request: ConnectRequest, handshake: Handshake) -> Identity:
        """As `identify_now`, with keys that must be fetched."""

    def brings_token(self, request: ConnectRequest, handshake: Handshake) -> bool:
        """Whether a client brought a token, be it good or bad, in its command or its handshake."""

    def accepted(self, decision: ConnectDecision) -> Identity:
        """The identity that a hook gives to a client without a token. Raises CommandRefused for an illegal channel."""

    def grant_now(self, identity: Identity, request: SubscribeRequest) -> Grant | None:
        """What the client gets in a channel that it asks to enter: by the token of its command, else by the rights."""

    async def grant(self, identity: Identity, request: SubscribeRequest) -> Grant:
        """As `grant_now`, with keys that must be fetched."""

    async def renewal(self, token: str) -> Callable[[Identity], Identity]:
        """What a new token makes of the client that brings it: the same client with what the token says.

        The function raises CommandRefused, with 3010 where the token names other channels than the one before.
        """

    async def renew_grant(self, identity: Identity, channel: str, token: str) -> Grant:
        """What the client has in a channel with a new subscription token."""


def guesses(handshake: Handshake, identity: Identity) -> bool:
    """Whether a client is let in as anonymous though it brought an invalid token, as clients do that guess tokens."""
    refused = isinstance(handshake, CommandRefused) and handshake.reason == DISCONNECT_INVALID_TOKEN
    return refused and not identity.user and identity.token is None
