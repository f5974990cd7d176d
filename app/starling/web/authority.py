"""Authentication of a client of the client protocol, and its rights in channels: by tokens, tickets and namespaces."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import structlog
from msgspec import Raw

from starling.auth.handshake import find_token
from starling.auth.tickets import Tickets, is_ticket
from starling.auth.tokens import (
    Credentials,
    KeyNotLoaded,
    RefusalReason,
    SubscriptionGrant,
    TokenRefused,
    TokenVerifier,
)
from starling.client.authority import (
    NO_GRANTS,
    NO_TERMS,
    Grant,
    Handshake,
    HookTerms,
    Identity,
    PendingToken,
)
from starling.engine.channels import ChannelOptions, Channels
from starling.engine.hooks import ConnectDecision
from starling.engine.receiver import TokenFacts
from starling.engine.revocation import Revocations
from starling.engine.rights import Rule, Subject, Verb, may
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error
from starling.protocol.commands import ConnectRequest, SubscribeRequest
from starling.protocol.messages import NO_PAYLOAD
from starling.telemetry.refusals import RefusalLog
from starling.web.token_terms import channels_of, renewed

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.authority")

# How long a client waits for a worker that has just started to know which tokens are revoked. Seconds; SDKs wait 5.
LOAD_SECONDS = 3.0
# The namespaces of a channels file are few; more are the options that tokens change.
MOST_PLAIN_GRANTS = 256

EXPIRED_AT_REFRESH = Error(codes.ERROR_TOKEN_EXPIRED.code, codes.ERROR_TOKEN_EXPIRED.message, temporary=True)


class RevocableVerifier:
    """Implements starling.auth.tokens.TokenVerifier: what another one verifies, or a ticket, unless it is revoked.

    A ticket counts as a connection token whose key is not at hand, because the broker must be asked.
    """

    def __init__(self, verifier: TokenVerifier, revocations: Revocations, tickets: Tickets) -> None:
        self._verifier = verifier
        self._revocations = revocations
        self._tickets = tickets

    def connection_now(self, token: str) -> Credentials:
        """Verify a connection token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""
        if is_ticket(token):
            raise KeyNotLoaded(RefusalReason.TICKETS_UNAVAILABLE, "The broker has not been asked for the ticket.")
        credentials = self._verifier.connection_now(token)
        self._check(credentials.token)
        return credentials

    def subscription_now(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""
        grant = self._verifier.subscription_now(token)
        self._check(grant.token)
        return grant

    async def connection(self, token: str) -> Credentials:
        """Verify a connection token, or spend a ticket. Raises TokenRefused."""
        await self._revocations.until_loaded(LOAD_SECONDS)
        if is_ticket(token):
            # Before it is spent.
            self._check_loaded()
            credentials = await self._tickets.take(token)
        else:
            credentials = await self._verifier.connection(token)
        self._check(credentials.token)
        return credentials

    async def subscription(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token. Raises TokenRefused."""
        await self._revocations.until_loaded(LOAD_SECONDS)
        grant = await self._verifier.subscription(token)
        self._check(grant.token)
        return grant

    def still_valid(self, token: TokenFacts | None) -> bool:
        """As Revocations.still_valid."""
        return self._revocations.still_valid(token)

    def _check(self, token: TokenFacts) -> None:
        self._check_loaded()
        if not self.still_valid(token):
            raise TokenRefused(RefusalReason.REVOKED, "The token was revoked.")

    def _check_loaded(self) -> None:
        if not self._revocations.loaded:
            raise KeyNotLoaded(
                RefusalReason.REVOCATIONS_NOT_LOADED,
                "This process has not yet been able to read which tokens are revoked.",
            )


class TokenAuthority:
    """Implements starling.client.authority.Authority with tokens.

    `allow_anonymous` lets clients without a token connect.
    """

    def __init__(
        self, verifier: RevocableVerifier, channels: Channels, refusal_log: RefusalLog, *, allow_anonymous: bool
    ) -> None:
        self._verifier = verifier
        self._channels = channels
        self._refusal_log = refusal_log
        self._allow_anonymous = allow_anonymous
        self._plain_grants: dict[int, Grant] = {}

    def identify_now(self, request: ConnectRequest, handshake: Handshake) -> Identity | None:
        """By the token of the command, else by the handshake, else anonymous where allowed, else 3500.

        None where the keys of the token's issuer must be fetched first.
        """
        token = _presented(request, handshake)
        return self.identify_token_now(token) if token else self._without_token(handshake)

    async def identify(self, request: ConnectRequest, handshake: Handshake) -> Identity:
        """As `identify_now`, with keys that must be fetched."""
        token = _presented(request, handshake)
        if not token:
            return self._without_token(handshake)
        try:
            return await self.identify_token(token)
        except CommandRefused as refused:
            right = handshake.right if isinstance(handshake, PendingToken) and handshake.token == token else ""
            if not right or refused.reason != codes.ERROR_TOKEN_EXPIRED:
                raise
        return await self.identify_token(right)

    def _without_token(self, handshake: Handshake) -> Identity:
        if isinstance(handshake, Identity):
            # Seconds may have passed since the upgrade.
            if not self._verifier.still_valid(handshake.token):
                raise CommandRefused(codes.DISCONNECT_INVALID_TOKEN)
            return handshake
        if self._allow_anonymous:
            return Identity()
        raise handshake if isinstance(handshake, CommandRefused) else CommandRefused(codes.DISCONNECT_INVALID_TOKEN)

    def identify_token_now(self, token: str) -> Identity | None:
        """The identity in a connection token; None where keys must be fetched first. Raises as `identify_token`."""
        try:
            return self.identity_of(self._verifier.connection_now(token))
        except KeyNotLoaded:
            return None
        except TokenRefused as refused:
            raise _refusal(refused, codes.DISCONNECT_INVALID_TOKEN) from refused

    async def identify_token(self, token: str) -> Identity:
        """The identity in a connection token. Raises CommandRefused: 109 for an expired one, 3500 for a bad one."""
        return self.identity_of(await self._connection(token))

    def identity_of(self, credentials: Credentials) -> Identity:
        """The identity in verified credentials, with its channels. Raises CommandRefused for an illegal channel.

        Channels of an unknown namespace are left out: a token outlives the namespaces that it names, and a refusal
        would keep the client away for good.
        """
        subscriptions = {
            channel: Grant(
                known.overridden(options.override),
                Raw(options.info),
                Raw(options.data),
                options.expires_at,
                filter=options.filter,
            )
            for channel, options in credentials.subs.items()
            if (known := self._options_of_token(credentials.user, channel)) is not None
        }
        self._add_personal_channel(credentials.user, subscriptions)
        return Identity(
            user=credentials.user,
            info=Raw(credentials.info) if credentials.info else NO_PAYLOAD,
            meta=credentials.meta,
            expires_at=credentials.expires_at,
            token=credentials.token,
            subscriptions=subscriptions or NO_GRANTS,
            token_channels=channels_of(credentials),
            resume=credentials.resume,
        )

    def _options_of_token(self, user: str, channel: str) -> ChannelOptions | None:
        """The options of a channel that a connection token names; None and a log line for an unknown namespace."""
        try:
            return self._channels.options(channel)
        except CommandRefused as refusal:
            if refusal.reason != codes.ERROR_UNKNOWN_CHANNEL:
                raise
        self._refusal_log.write_as(
            "subscriptions_left_out",
            "unknown_namespace",
            user=user,
            channels=[channel],
            remedy="add the namespace to the file of STARLING_CHANNELS_FILE, or issue tokens without the channel",
        )
        return None

    def brings_token(self, request: ConnectRequest, handshake: Handshake) -> bool:
        """Whether a client brought a token, be it good or bad, in its command or its handshake."""
        return handshake is not None or bool(_presented(request, handshake))

    def accepted(self, decision: ConnectDecision) -> Identity:
        """The identity that a hook gives to a client without a token. Raises CommandRefused for an illegal channel."""
        user = decision.user or ""
        subscriptions = {
            channel: Grant(
                self._channels.options(channel).overridden(terms.override),
                terms.info,
                terms.data,
                terms.expires_at,
                filter=terms.filter,
            )
            for channel, terms in decision.channels.items()
        }
        self._add_personal_channel(user, subscriptions)
        return Identity(
            user=user,
            info=decision.info,
            meta=decision.meta,
            expires_at=decision.expires_at,
            # As if it had been given a token now: what is revoked from now on ends it.
            token=TokenFacts(user, issued_at=time.time()),
            subscriptions=subscriptions or NO_GRANTS,
            renewable=False,
            renewed_by_hook=decision.renewable,
            hooked=NO_TERMS if decision.renewable else _ending(decision.expires_at),
        )

    def _add_personal_channel(self, user: str, subscriptions: dict[str, Grant]) -> None:
        if personal := self._channels.personal_channel(user):
            subscriptions.setdefault(personal, Grant(self._channels.options(personal)))

    def grant_now(self, identity: Identity, request: SubscribeRequest) -> Grant | None:
        """By the subscription token of the command, else by the rights; None where keys must be fetched first."""
        facts = self._channels.facts(request.channel)
        if request.token:
            try:
                granted = self._verifier.subscription_now(request.token)
            except KeyNotLoaded:
                return None
            except TokenRefused as refused:
                raise _refusal(refused, codes.ERROR_PERMISSION_DENIED) from refused
            return _grant(facts.options, _checked(granted, identity, request.channel))
        decision = may(Subject(identity.user), Verb.SUBSCRIBE, facts)
        if not decision.allowed and decision.rule != Rule.SUBSCRIBE_BY_HOOK:
            raise CommandRefused(codes.ERROR_PERMISSION_DENIED)
        # A filter that the connection's token forces stays, also where the client leaves the channel and enters again.
        forced = identity.forced_filter(request.channel)
        if forced is None and decision.allowed:
            return self._plain_grant(facts.options)
        return Grant(facts.options, filter=forced, needs_hook=not decision.allowed)

    def _plain_grant(self, options: ChannelOptions) -> Grant:
        """The grant by the rights alone: one object for all clients, because it is never changed."""
        # A grant keeps its options alive, so no other options have their id.
        grant = self._plain_grants.get(id(options))
        if grant is None:
            if len(self._plain_grants) >= MOST_PLAIN_GRANTS:
                self._plain_grants.clear()
            grant = self._plain_grants[id(options)] = Grant(options)
        return grant

    async def grant(self, identity: Identity, request: SubscribeRequest) -> Grant:
        """As `grant_now`, with keys that must be fetched."""
        if (grant := self.grant_now(identity, request)) is not None:
            return grant
        granted = await self._subscription(identity, request.channel, request.token)
        return _grant(self._channels.options(request.channel), granted)

    async def renewal(self, token: str) -> Callable[[Identity], Identity]:
        """See starling.web.token_terms.renewed."""
        with _expired_is_temporary():
            credentials = await self._connection(token)
        return partial(renewed, credentials=credentials)

    async def renew_grant(self, identity: Identity, channel: str, token: str) -> Grant:
        """A new subscription token must be of the same user and channel, or it is refused with 103."""
        with _expired_is_temporary():
            granted = await self._subscription(identity, channel, token)
        return _grant(self._channels.options(channel), granted)

    async def _connection(self, token: str) -> Credentials:
        try:
            return await self._verifier.connection(token)
        except TokenRefused as refused:
            raise _refusal(refused, codes.DISCONNECT_INVALID_TOKEN) from refused

    async def _subscription(self, identity: Identity, channel: str, token: str) -> SubscriptionGrant:
        try:
            granted = await self._verifier.subscription(token)
        except TokenRefused as refused:
            raise _refusal(refused, codes.ERROR_PERMISSION_DENIED) from refused
        return _checked(granted, identity, channel)


def _presented(request: ConnectRequest, handshake: Handshake) -> str:
    """The token of a connect command, else one of the handshake that is still to be verified; empty without either.

    Browsers cannot set the headers of a WebSocket, so their SDK sends some with the command: an Authorization header
    among them counts as the token of the command.
    """
    if request.token:
        return request.token
    if request.headers:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if (presented := find_token(authorization=headers.get("authorization"))) is not None:
            return presented.token
    return handshake.token if isinstance(handshake, PendingToken) else ""


def _checked(granted: SubscriptionGrant, identity: Identity, channel: str) -> SubscriptionGrant:
    """Return `granted`. Raises CommandRefused for a valid token of another user, channel or connection."""
    other_client = bool(granted.client) and granted.client != identity.client
    if granted.user != identity.user or granted.channel != channel or other_client:
        log.info("token_refused", reason="for_another_client" if other_client else "for_another_user_or_channel")
        raise CommandRefused(codes.ERROR_PERMISSION_DENIED)
    return granted


@contextmanager
def _expired_is_temporary() -> Iterator[None]:
    """Answer an expired token as temporary: an SDK then fetches the next one, while it gives up after a final error."""
    try:
        yield
    except CommandRefused as refusal:
        if refusal.reason == codes.ERROR_TOKEN_EXPIRED:
            raise CommandRefused(EXPIRED_AT_REFRESH) from refusal
        raise


def _refusal(refused: TokenRefused, final: codes.Error | codes.Disconnect) -> CommandRefused:
    log.info("token_refused", reason=refused.reason.value, claim=refused.claim)
    if isinstance(refused, KeyNotLoaded):
        return CommandRefused(codes.ERROR_INTERNAL)
    # An SDK that gets the error of an expired token fetches the next one, and so the next ticket.
    over = refused.reason in (RefusalReason.EXPIRED, RefusalReason.TICKET_SPENT)
    return CommandRefused(codes.ERROR_TOKEN_EXPIRED if over else final)


def _ending(expires_at: float | None) -> HookTerms:
    return NO_TERMS if expires_at is None else HookTerms(end=expires_at)


def _grant(options: ChannelOptions, granted: SubscriptionGrant) -> Grant:
    return Grant(
        options.overridden(granted.override),
        Raw(granted.info),
        Raw(granted.data),
        granted.expires_at,
        token=granted.token,
        filter=granted.filter,
        token_filter=granted.filter,
    )
