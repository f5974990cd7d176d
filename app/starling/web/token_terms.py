"""What a connection token says of its client, and what its successor changes in a connection."""

from collections.abc import Mapping

from msgspec import Raw
from msgspec.structs import replace

from starling.auth.tokens import Credentials, SubscriptionOptions
from starling.client.authority import NO_CHANNELS, Grant, HookTerms, Identity, TokenTerms, earlier
from starling.protocol import codes
from starling.protocol.codes import CommandRefused
from starling.protocol.messages import NO_PAYLOAD

# Shared by all channels of which a token says nothing.
_PLAIN = TokenTerms()


def channels_of(credentials: Credentials) -> Mapping[str, TokenTerms]:
    """The channels that a connection token names, with what it says of each."""
    if not credentials.subs:
        return NO_CHANNELS
    return {channel: _terms(given) for channel, given in credentials.subs.items()}


def _terms(given: SubscriptionOptions) -> TokenTerms:
    if not given.info and given.expires_at is None and given.filter is None:
        return _PLAIN
    return TokenTerms(given.info, given.expires_at, given.filter)


def renewed(identity: Identity, credentials: Credentials) -> Identity:
    """The client of `identity` with what its new token says.

    What hooks said in place of the token before stays, where the new one says the same as that. Raises CommandRefused:
    3500 for a token of another user, and 3010 where it names other channels or forces other filters in them.
    """
    if credentials.user != identity.user:
        raise CommandRefused(codes.DISCONNECT_INVALID_TOKEN)
    before, after = identity.token_channels, channels_of(credentials)
    if before.keys() != after.keys() or any(before[channel].filter != said.filter for channel, said in after.items()):
        raise CommandRefused(codes.DISCONNECT_INSUFFICIENT_STATE)
    info, meta, expires_at = Raw(credentials.info) or NO_PAYLOAD, credentials.meta, credentials.expires_at
    if (hooked := identity.hooked) is not None:
        info = identity.info if hooked.info == credentials.info else info
        meta = identity.meta if hooked.meta == credentials.meta else meta
        expires_at = earlier(expires_at, hooked.end)
        hooked = HookTerms(credentials.info, credentials.meta, hooked.end)
    return replace(
        identity,
        info=info,
        meta=meta,
        expires_at=expires_at,
        token=credentials.token,
        token_channels=after,
        subscriptions=_renewed_subscriptions(identity.subscriptions, before, after),
        hooked=hooked,
    )


def _renewed_subscriptions(
    held: Mapping[str, Grant], before: Mapping[str, TokenTerms], after: Mapping[str, TokenTerms]
) -> Mapping[str, Grant]:
    changed = {
        channel: _renewed_grant(held[channel], before[channel], said)
        for channel, said in after.items()
        if said != before[channel] and channel in held
    }
    return {**held, **changed} if changed else held


def _renewed_grant(held: Grant, before: TokenTerms, after: TokenTerms) -> Grant:
    info = held.info if before.info == after.info else Raw(after.info) or NO_PAYLOAD
    # Another end than that of the token before is a hook's.
    return replace(
        held, info=info, expires_at=after.expires_at if held.expires_at == before.expires_at else held.expires_at
    )
