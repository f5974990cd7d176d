"""Explains in words what a token grants or why it is refused, to the people who run the service."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starling.auth.jws import CompactToken, parse_compact, parse_strict_object
from starling.auth.tokens import Credentials, RefusalReason, SubscriptionGrant, TokenRefused, TokenVerifier

_TIMES = ("iat", "nbf", "exp", "expire_at")
_SHOWN = ("sub", "iss", "aud", "jti", "channel", "channels")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of a token. `reason` is None when it was accepted.

    `details` are its own claims, a line each. They quote the token, so they are for its owner's terminal and
    never for a log.
    """

    reason: RefusalReason | None
    sentence: str
    details: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the service would take the token."""
        return self.reason is None

    def __str__(self) -> str:
        return "\n".join((self.sentence, *(f"  {line}" for line in self.details)))


async def explain(token: str, verifier: TokenVerifier) -> Explanation:
    """Judge `token` as the service would, as what it seems to be: a `channel` claim makes it a subscription token."""
    text = token.strip()
    if text.lower().startswith("bearer "):
        text = text[len("bearer ") :].strip()
    claims: dict[str, Any] = {}
    details: tuple[str, ...] = ()
    try:
        compact = parse_compact(text)
        claims = parse_strict_object(compact.payload, "payload")
        details = _describe(compact, claims)
        granted = await (verifier.subscription(text) if "channel" in claims else verifier.connection(text))
    except TokenRefused as refused:
        return Explanation(refused.reason, f"Refused ({refused.reason}). {refused.sentence}", details)
    return Explanation(None, _accepted(granted), details)


def _accepted(granted: Credentials | SubscriptionGrant) -> str:
    user = f"user {granted.user!r}" if granted.user else "an anonymous user"
    end = "without end" if granted.expires_at is None else f"until {_moment(granted.expires_at)}"
    if isinstance(granted, SubscriptionGrant):
        return f"Accepted: a subscription token of {user} for the channel {granted.channel!r}, {end}."
    return f"Accepted: a connection token of {user}, {end}."


def _describe(token: CompactToken, claims: dict[str, Any]) -> tuple[str, ...]:
    lines = [f"alg: {json.dumps(token.algorithm)}"]
    if token.key_id is not None:
        lines.append(f"kid: {json.dumps(token.key_id)}")
    lines += [f"{name}: {json.dumps(claims[name])}" for name in _SHOWN if name in claims]
    lines += [f"{name}: {json.dumps(claims[name])} ({_moment(claims[name])})" for name in _TIMES if name in claims]
    others = sorted(set(claims) - {*_SHOWN, *_TIMES})
    if others:
        lines.append(f"further claims: {', '.join(json.dumps(name) for name in others)}")
    return tuple(lines)


def _moment(seconds: Any) -> str:
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return "not a time"
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "not a time in seconds since 1970"
