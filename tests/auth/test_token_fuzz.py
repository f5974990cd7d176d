"""Whatever bytes come as a token, the answer is a grant of legal values or TokenRefused, never another exception."""

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from starling.auth.claims import TokenRules
from starling.auth.jwt import JwtVerifier
from starling.auth.keys import VerificationKey
from starling.auth.tokens import Credentials, SubscriptionGrant, TokenRefused
from tests.auth.forge import NOW, SECRET, base64url, good_claims, sign

KEYS = [VerificationKey.from_secret(SECRET), VerificationKey.from_secret("x" * 40, key_id="2025")]
VERIFIER = JwtVerifier(KEYS, TokenRules(), clock=lambda: NOW)

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True), st.text(max_size=6))
json_values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=4), scalars, max_size=2)
algorithms = st.sampled_from(["HS256", "HS384", "HS512", "none", "None", "RS256", "ES256", "EdDSA", ""])
headers = st.fixed_dictionaries(
    {"alg": algorithms | json_values},
    optional={
        "typ": st.sampled_from(["JWT", "at+jwt", "refresh+jwt"]) | json_values,
        "kid": st.sampled_from(["2025", "../../dev/null"]) | json_values,
        "crit": json_values,
        "b64": scalars,
        "jku": scalars,
        "jwk": json_values,
    },
)
claim_names = [
    *("sub", "exp", "nbf", "iat", "jti", "aud", "iss", "info", "meta", "channels", "subs", "expire_at", "channel"),
    *("data", "override"),
]
times = st.integers(min_value=NOW - 100, max_value=NOW + 100)
names = st.text(min_size=1, max_size=6)
options = st.fixed_dictionaries({}, optional={"info": json_values, "data": json_values})
plausible_claims = st.fixed_dictionaries(
    {},
    optional={
        "sub": st.text(max_size=8),
        "exp": times,
        "nbf": times,
        "expire_at": times | st.just(0),
        "info": json_values,
        "meta": json_values,
        "channels": st.lists(names, max_size=3),
        "subs": st.dictionaries(names, options, max_size=3),
        "channel": names,
        "data": json_values,
    },
)
claims = st.dictionaries(st.sampled_from(claim_names) | st.text(max_size=4), json_values | times, max_size=6)
segments = st.text(max_size=40) | st.binary(max_size=60).map(base64url)


def verify(token: str) -> list[Credentials | SubscriptionGrant]:
    """Return what the token grants as either kind; any exception but TokenRefused is the test's failure."""
    granted: list[Credentials | SubscriptionGrant] = []
    for verification in (VERIFIER.connection_now, VERIFIER.subscription_now):
        with contextlib.suppress(TokenRefused):
            granted.append(verification(token))
    return granted


@settings(max_examples=800, deadline=None)
@given(st.lists(segments, max_size=6).map(".".join) | st.text(max_size=200))
def test_no_text_is_a_token(token: str) -> None:
    assert verify(token) == []


@settings(max_examples=1000, deadline=None)
@given(headers, claims, st.binary(max_size=70) | st.just(b""))
def test_no_header_makes_up_for_a_signature(header: dict[str, Any], payload: dict[str, Any], signature: bytes) -> None:
    head, body = (base64url(json.dumps(part).encode()) for part in (header, {**good_claims(), **payload}))
    assert verify(f"{head}.{body}.{base64url(signature)}") == []


@settings(max_examples=800, deadline=None)
@given(st.integers(min_value=0), st.integers(min_value=0, max_value=127))
def test_no_token_outlives_the_change_of_one_character(position: int, replacement: int) -> None:
    token = sign(good_claims())
    position %= len(token)
    changed = token[:position] + chr(replacement) + token[position + 1 :]
    assert (verify(changed) == []) == (changed != token)


@settings(max_examples=1000, deadline=None)
@given(
    st.just({"alg": "HS256"}) | headers, plausible_claims | claims | json_values | st.binary(max_size=60), st.booleans()
)
def test_a_rightly_signed_token_of_any_content_grants_legal_values_or_nothing(
    header: dict[str, Any], payload: Any, spaces: bool
) -> None:
    # As Python writes it, and as issuers do.
    style: dict[str, Any] = {} if spaces else {"separators": (",", ":"), "ensure_ascii": False}
    raw = payload if isinstance(payload, bytes) else json.dumps(payload, **style).encode()
    for granted in verify(sign(raw, header=header)):
        granted.user.encode()
        assert granted.expires_at is None or NOW < granted.expires_at < 2**40
        for text in (granted.info, granted.meta if isinstance(granted, Credentials) else granted.data):
            assert b"\n" not in text
            assert text == b"" or json.loads(text) is not None
        if isinstance(granted, Credentials):
            assert all(channel and isinstance(channel, str) for channel in granted.subs)
        else:
            assert granted.channel
