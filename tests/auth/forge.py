"""Builds tokens part by part, well-formed or not, without the code under test and without PyJWT."""

import base64
import hashlib
import hmac
import json
from typing import Any

NOW = 1_800_000_000
SECRET = "the-current-secret-of-these-tests-0123456789"
AUDIENCE = "starling"
ISSUER = "https://issuer.example"
CANARY = "canary-5f1e"

_HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def base64url(data: bytes) -> str:
    """Encode as RFC 7515 section 2 says."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def good_claims(**changes: Any) -> dict[str, Any]:
    """Claims that strict rules accept, with `changes`; a value of `...` leaves a claim out."""
    claims = {"sub": CANARY, "iat": NOW, "exp": NOW + 600, "aud": AUDIENCE, "iss": ISSUER, **changes}
    return {name: value for name, value in claims.items() if value is not ...}


def sign(
    payload: bytes | dict[str, Any],
    *,
    header: bytes | dict[str, Any] | None = None,
    secret: str | bytes = SECRET,
    algorithm: str = "HS256",
) -> str:
    """Sign with HMAC. A payload or header given as bytes is taken as it is."""
    if header is None:
        header = {"typ": "JWT", "alg": algorithm}
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signing_input = ".".join(base64url(part) for part in parts)
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{signing_input}.{base64url(hmac.new(key, signing_input.encode(), _HASHES[algorithm]).digest())}"
