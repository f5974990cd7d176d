"""Issues tokens, as a backend would: for `starling token`, the demo page and tests."""

import time
import warnings
from typing import Any

import jwt

from starling.auth.keys import VerificationKey


def issue_connection_token(
    secret: str,
    user: str,
    ttl: float | None,
    *,
    now: float | None = None,
    allow_weak_secret: bool = False,
    **claims: Any,
) -> str:
    """Return a connection token (HS256) for `user`, empty for an anonymous one.

    It ends `ttl` seconds after `now` (seconds since 1970, by default this moment), never if `ttl` is None. `claims`
    are named as in the token: `info`, `meta`, `channels`, `subs`, `expire_at`, `aud`, `iss`, `jti` and whatever else.
    Raises ValueError for a secret that would not be accepted (see VerificationKey.from_secret).
    """
    return _issue(secret, user, ttl, claims, now=now, allow_weak_secret=allow_weak_secret)


def issue_subscription_token(
    secret: str,
    user: str,
    channel: str,
    ttl: float | None,
    *,
    now: float | None = None,
    allow_weak_secret: bool = False,
    **claims: Any,
) -> str:
    """Return a subscription token (HS256) that lets `user` subscribe to `channel`; the rest as in a connection token.

    `claims` may hold `info`, `data`, `override`, `expire_at`, `aud`, `iss`, `jti`.
    """
    return _issue(secret, user, ttl, {"channel": channel, **claims}, now=now, allow_weak_secret=allow_weak_secret)


def _issue(
    secret: str, user: str, ttl: float | None, claims: dict[str, Any], *, now: float | None, allow_weak_secret: bool
) -> str:
    VerificationKey.from_secret(secret, allow_weak_secret=allow_weak_secret)
    issued_at = int(time.time() if now is None else now)
    end = {} if ttl is None else {"exp": int(issued_at + ttl)}
    with warnings.catch_warnings():
        # A weak secret was let pass above, by those who asked for it.
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
        return jwt.encode({"sub": user, "iat": issued_at, **end, **claims}, secret, algorithm="HS256")
