"""The claims of a verified token: checked against the rules, then turned into what the token grants."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from starling.auth.jws import malformed, parse_strict_object
from starling.auth.tokens import (
    NO_SUBSCRIPTIONS,
    Credentials,
    RefusalReason,
    SubscriptionGrant,
    SubscriptionOptions,
    TokenRefused,
)
from starling.engine.override import Override, Switch, plain
from starling.engine.receiver import TokenFacts
from starling.protocol.json_nulls import NULL, without_nulls
from starling.protocol.portable_json import PORTABLE_JSON, is_json
from starling.protocol.tags_filter import FilterInvalid, ForcedFilterNode, TagsFilter, compile_filter

MAX_LEEWAY_SECONDS = 30.0

# The last second of the year 9999. A time beyond it is a mistake, most often milliseconds.
_LAST_TIME = 253402300799

_MSGSPEC_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What every token must say.

    `audience` and `issuer` must stand in `aud` and `iss`; None checks neither. `leeway_seconds`, 30 at most, is how
    far an issuer's clock may be ahead (`nbf`, `iat`); an end (`exp`) has none, since a connection gets its grace to
    refresh anyway. A token without `exp` grants without end, as clients of this protocol are used to; `require_expiry`
    refuses it, and `max_lifetime_seconds` refuses any that lasts longer from now on, or for ever.
    Raises ValueError for rules that cannot be meant.
    """

    audience: str | None = None
    issuer: str | None = None
    leeway_seconds: float = MAX_LEEWAY_SECONDS
    require_expiry: bool = False
    max_lifetime_seconds: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.leeway_seconds <= MAX_LEEWAY_SECONDS:
            raise ValueError(f"leeway_seconds must be from 0 to {MAX_LEEWAY_SECONDS:g}")
        if self.max_lifetime_seconds is not None and not self.max_lifetime_seconds > 0:
            raise ValueError("max_lifetime_seconds must be more than 0, or None for no limit")
        if self.audience == "" or self.issuer == "":
            raise ValueError("audience and issuer must not be empty: leave them out to check neither")


class _Switch(Switch, forbid_unknown_fields=True):
    pass


class _Overrides(Override[_Switch | bool], frozen=True, forbid_unknown_fields=True):
    pass


class _Options(Struct):
    info: Raw = Raw()
    b64info: str = ""
    data: Raw = Raw()
    b64data: str = ""
    override: _Overrides | None = None
    expire_at: float | UnsetType = UNSET
    server_tags_filter: ForcedFilterNode | None = None


class _Registered(Struct):
    """The claims of RFC 7519 section 4.1, and those that both kinds of token share."""

    iss: str | UnsetType = UNSET
    sub: str = ""
    aud: str | list[str] | UnsetType = UNSET
    exp: float | UnsetType = UNSET
    nbf: float | UnsetType = UNSET
    iat: float | UnsetType = UNSET
    jti: str = ""
    sid: str = ""
    expire_at: float | UnsetType = UNSET
    info: Raw = Raw()
    b64info: str = ""


class _ConnectionClaims(_Registered):
    meta: Raw = Raw()
    channels: list[str] = []
    subs: dict[str, _Options] = {}
    channel: Raw = Raw()


class _SubscriptionClaims(_Registered):
    channel: str | UnsetType = UNSET
    client: str = ""
    data: Raw = Raw()
    b64data: str = ""
    override: _Overrides | None = None
    server_tags_filter: ForcedFilterNode | None = None


_Claims = TypeVar("_Claims", bound=_Registered)


def read_connection_claims(payload: bytes, rules: TokenRules, now: float) -> Credentials:
    """Read a connection token's verified payload. Raises TokenRefused for claims that are wrong or break `rules`."""
    claims = _decode(payload, _ConnectionClaims)
    _check(claims, rules, now)
    if bytes(claims.channel) not in {b"", NULL}:
        raise TokenRefused(
            RefusalReason.MALFORMED_CLAIM,
            "The token is for a subscription (it has the claim channel): a connection token has channels or subs.",
            claim="channel",
        )
    return Credentials(
        token=TokenFacts(claims.sub, claims.jti, claims.sid, _time(claims.iat)),
        expires_at=_end(claims, now),
        info=_payload(claims.info, claims.b64info, "info"),
        meta=_one_line(claims.meta),
        subs=_subscriptions(claims, now),
    )


def read_subscription_claims(payload: bytes, rules: TokenRules, now: float) -> SubscriptionGrant:
    """Read a subscription token's verified payload. Raises TokenRefused for claims that are wrong or break `rules`."""
    claims = _decode(payload, _SubscriptionClaims)
    _check(claims, rules, now)
    if claims.channel is UNSET:
        raise _missing("channel", "a subscription token names the channel it is for")
    if not claims.channel:
        raise _wrong("channel", "it is empty")
    return SubscriptionGrant(
        token=TokenFacts(claims.sub, claims.jti, claims.sid, _time(claims.iat), claims.channel),
        expires_at=_end(claims, now),
        info=_payload(claims.info, claims.b64info, "info"),
        data=_payload(claims.data, claims.b64data, "data"),
        override=plain(claims.override),
        client=claims.client,
        filter=_filter(claims.server_tags_filter),
    )


def _decode(payload: bytes, kind: type[_Claims]) -> _Claims:
    parse_strict_object(payload, "payload")
    try:
        # `null` is as good as absent, for every claim: many serializers leave nothing out.
        return msgspec.json.decode(without_nulls(payload, kind) if NULL in payload else payload, type=kind)
    except msgspec.ValidationError as error:
        found = _MSGSPEC_PATH.match(str(error))
        what, path = (found["what"], found["path"]) if found else (str(error), None)
        raise _wrong(path or "", f"{what[:1].lower()}{what[1:]}") from None
    except (msgspec.DecodeError, RecursionError):
        raise malformed("its payload holds text that is not Unicode, or is nested too deep") from None


def _check(claims: _Registered, rules: TokenRules, now: float) -> None:
    for name in ("exp", "nbf", "iat", "expire_at"):
        value = getattr(claims, name)
        if value is not UNSET and not 0 <= value <= _LAST_TIME:
            raise _wrong(name, "it must be a time in seconds since 1970, not milliseconds, and not negative")
    if rules.issuer is not None:
        _check_issuer(claims.iss, rules.issuer)
    if rules.audience is not None:
        _check_audience(claims.aud, rules.audience)
    _check_times(claims, rules, now)


def _check_issuer(issuer: str | UnsetType, expected: str) -> None:
    if issuer is UNSET:
        raise _missing("iss", f"it must name the issuer {expected!r}")
    if issuer != expected:
        raise TokenRefused(RefusalReason.WRONG_ISSUER, f"The token's issuer (iss) is not {expected!r}.", claim="iss")


def _check_audience(audience: str | list[str] | UnsetType, expected: str) -> None:
    if audience is UNSET:
        raise _missing("aud", f"it must name the audience {expected!r}")
    if expected not in ([audience] if isinstance(audience, str) else audience):
        raise TokenRefused(
            RefusalReason.WRONG_AUDIENCE,
            f"The token was issued for somebody else: its audience (aud) does not hold {expected!r}.",
            claim="aud",
        )


def _check_times(claims: _Registered, rules: TokenRules, now: float) -> None:
    for name, value in (("nbf", claims.nbf), ("iat", claims.iat)):
        if value is not UNSET and value > now + rules.leeway_seconds:
            raise TokenRefused(
                RefusalReason.NOT_YET_VALID,
                f"The token is not valid yet: its {name} is {value - now:.0f} s ahead of this service's clock.",
                claim=name,
            )
    if claims.exp is UNSET:
        if rules.require_expiry or rules.max_lifetime_seconds is not None:
            raise _missing("exp", "tokens here must end")
        return
    if claims.exp <= now:
        raise _expired("exp", f"The token expired {now - claims.exp:.0f} s ago.")
    if rules.max_lifetime_seconds is not None and claims.exp > now + rules.max_lifetime_seconds + rules.leeway_seconds:
        raise TokenRefused(
            RefusalReason.LIFETIME_TOO_LONG,
            f"The token ends (exp) in {claims.exp - now:.0f} s, and {rules.max_lifetime_seconds:g} s is the longest.",
            claim="exp",
        )


def _end(claims: _Registered, now: float) -> float | None:
    """Return when what the token grants ends: `expire_at` counts before `exp`, and 0 there means never."""
    if claims.expire_at is UNSET:
        return _time(claims.exp)
    if claims.expire_at == 0:
        return None
    if claims.expire_at <= now:
        raise _expired("expire_at", f"What the token grants ended (expire_at) {now - claims.expire_at:.0f} s ago.")
    return claims.expire_at


def _subscriptions(claims: _ConnectionClaims, now: float) -> Mapping[str, SubscriptionOptions]:
    if "" in claims.channels:
        raise _wrong("channels", "it holds an empty name")
    if "" in claims.subs:
        raise _wrong("subs", "it holds an empty name")
    if not claims.channels and not claims.subs:
        return NO_SUBSCRIPTIONS
    options = dict.fromkeys(claims.channels, SubscriptionOptions())
    for channel, given in claims.subs.items():
        options[channel] = SubscriptionOptions(
            info=_payload(given.info, given.b64info, "info"),
            data=_payload(given.data, given.b64data, "data"),
            override=plain(given.override),
            expires_at=_subscription_end(given.expire_at, now),
            filter=_filter(given.server_tags_filter, f"subs[{channel!r}]."),
        )
    return MappingProxyType(options)


def _filter(node: ForcedFilterNode | None, where: str = "") -> TagsFilter | None:
    """Return the filter that a token forces, which stands in the claim `where`, if not among the token's own."""
    if node is None:
        return None
    try:
        return compile_filter(node, f"{where}server_tags_filter")
    except FilterInvalid as invalid:
        raise _wrong("subs" if where else "server_tags_filter", str(invalid)) from None


def _subscription_end(expire_at: float | UnsetType, now: float) -> float | None:
    if expire_at is UNSET or expire_at == 0:
        return None
    if not 0 <= expire_at <= _LAST_TIME:
        raise _wrong("subs", "an expire_at in it must be a time in seconds since 1970, not milliseconds")
    if expire_at <= now:
        raise _expired("subs", f"A subscription in it ended (expire_at) {now - expire_at:.0f} s ago.")
    return expire_at


def _shown(raw: Raw, claim: str) -> bytes:
    """As `_one_line`, of what clients see."""
    text = _one_line(raw)
    if text and not is_json(text):
        raise _wrong(claim, f"it is not {PORTABLE_JSON}")
    return text


def _one_line(raw: Raw) -> bytes:
    """Return JSON without line ends, which would split a frame of the protocol in two; `null` is as good as absent."""
    text = bytes(raw)
    if not text or text == b"null":
        return b""
    return msgspec.json.format(text, indent=-1)


def _payload(raw: Raw, encoded: str, claim: str) -> bytes:
    """Return what a claim says as JSON, or its twin as base64 of JSON, which goes before it."""
    if not encoded:
        return _shown(raw, claim)
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise _wrong(f"b64{claim}", "it is no base64") from None
    if not is_json(data):
        raise _wrong(f"b64{claim}", f"it is base64 of something else than {PORTABLE_JSON}")
    return _one_line(Raw(data))


def _time(value: float | UnsetType) -> float | None:
    return None if value is UNSET else value


def _missing(claim: str, why: str) -> TokenRefused:
    return TokenRefused(RefusalReason.MISSING_CLAIM, f"The token lacks the claim {claim}: {why}.", claim=claim)


def _wrong(claim: str, why: str) -> TokenRefused:
    return TokenRefused(RefusalReason.MALFORMED_CLAIM, f"The token's claim {claim} cannot be used: {why}.", claim=claim)


def _expired(claim: str, sentence: str) -> TokenRefused:
    return TokenRefused(RefusalReason.EXPIRED, sentence, claim=claim)
