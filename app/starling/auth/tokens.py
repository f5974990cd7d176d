"""The contract of authentication: what a token grants, why one is refused, and who verifies it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct

from starling.engine.override import NO_OVERRIDE, ChannelOverride
from starling.engine.receiver import TokenFacts
from starling.protocol.codes import Refused
from starling.protocol.tags_filter import TagsFilter


class RefusalReason(StrEnum):
    """Why a token was refused: a bounded set, fit for a metric's label."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    WRONG_TYPE = "wrong_type"
    WRONG_ALGORITHM = "wrong_algorithm"
    UNKNOWN_KEY = "unknown_key"
    KEYS_UNAVAILABLE = "keys_unavailable"
    BAD_SIGNATURE = "bad_signature"
    MALFORMED_CLAIM = "malformed_claim"
    MISSING_CLAIM = "missing_claim"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    LIFETIME_TOO_LONG = "lifetime_too_long"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_ISSUER = "wrong_issuer"
    REVOKED = "revoked"
    REVOCATIONS_NOT_LOADED = "revocations_not_loaded"
    TICKET_SPENT = "ticket_spent"
    TICKETS_UNAVAILABLE = "tickets_unavailable"


class TokenRefused(Refused):
    """A token that grants nothing.

    `sentence` says why in words for the people who run the service. It never holds any part of a token whose
    signature was not verified. `claim` names the claim at fault, empty when it is not one claim's. Clients should get
    the same answer whatever the reason, except for EXPIRED, after which an SDK fetches a new token.
    """

    def __init__(self, reason: RefusalReason, sentence: str, *, claim: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence
        self.claim = claim


class KeyNotLoaded(TokenRefused):
    """A token that cannot be validated now: its key is unknown, and the issuer could not be asked for it yet.

    The token may be valid, so the answer must be temporary and the client retries: after a permanent refusal, such as
    3500, an SDK never reconnects, and an outage of the issuer would lock out every client.
    Also raised while the revocations are not loaded yet.
    """


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """How a subscription made by the server is set up.

    `info` (shown to others in the channel) and `data` (sent to the client with the subscription) are JSON on one
    line, empty when the token has none. `expires_at` is its end in seconds since 1970, None for the connection's.
    `filter`: only publications whose tags match it are sent, whatever the client asks for; None forces none.
    """

    info: bytes = b""
    data: bytes = b""
    override: ChannelOverride = NO_OVERRIDE
    expires_at: float | None = None
    filter: TagsFilter | None = None


NO_SUBSCRIPTIONS: Mapping[str, SubscriptionOptions] = MappingProxyType({})


class Credentials(Struct, frozen=True):
    """Who a connection belongs to and what its token grants.

    `expires_at` is when the connection ends, in seconds since 1970, None for never; it may differ from the token's own
    `exp`. `info` is public, `meta` stays on the server; both are JSON on one line, empty when the token has none.
    `subs` are the channels the server subscribes the connection to: the claims `channels` and `subs` together.
    `resume` is what resumes the session of a ticket; empty for a token, which can be used again.
    """

    token: TokenFacts = TokenFacts()
    expires_at: float | None = None
    info: bytes = b""
    meta: bytes = b""
    subs: Mapping[str, SubscriptionOptions] = NO_SUBSCRIPTIONS
    resume: str = ""

    def __repr__(self) -> str:
        return f"Credentials(token={self.token!r}, expires_at={self.expires_at})"

    @property
    def user(self) -> str:
        """The user of the token."""
        return self.token.user


class SubscriptionGrant(Struct, frozen=True):
    """What a subscription token allows: `user` may subscribe to `channel` until `expires_at` (None: without end).

    Its user must be the connection's, its channel the request's, and its `client`, where it names one, the connection's
    id. `info`, `data`, `override` and `filter` mean what they mean in SubscriptionOptions.
    """

    token: TokenFacts
    expires_at: float | None = None
    info: bytes = b""
    data: bytes = b""
    override: ChannelOverride = NO_OVERRIDE
    client: str = ""
    filter: TagsFilter | None = None

    def __repr__(self) -> str:
        return f"SubscriptionGrant(token={self.token!r}, expires_at={self.expires_at})"

    @property
    def user(self) -> str:
        """The user of the token."""
        return self.token.user

    @property
    def channel(self) -> str:
        """The channel of the token."""
        return self.token.channel


class TokenVerifier(Protocol):
    """Turns a token into what it grants, or raises TokenRefused.

    `connection` and `subscription` return without yielding to the event loop whenever the token's key is at hand.
    When it may be a new key of the issuer they wait for one fetch of its keys, a few seconds at most.
    """

    def connection_now(self, token: str) -> Credentials:
        """Verify a connection token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""

    def subscription_now(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""

    async def connection(self, token: str) -> Credentials:
        """Verify a connection token. Raises TokenRefused."""

    async def subscription(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token. Raises TokenRefused."""
