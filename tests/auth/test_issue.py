"""Tokens issued here are what any JWT library reads, and their explanation names what is wrong with others."""

import jwt
import pytest

from starling.auth.claims import TokenRules
from starling.auth.explain import explain
from starling.auth.issue import issue_connection_token, issue_subscription_token
from starling.auth.jwt import JwtVerifier
from starling.auth.keys import VerificationKey
from starling.auth.tokens import RefusalReason
from tests.auth.forge import NOW, SECRET, sign

# 2027-01-15 08:00:00 UTC, by hand: 1,800,000,000 = 20,833 days * 86,400 + 28,800.
TEN_MINUTES_LATER = "2027-01-15 08:10:00+00:00"


def verifier(rules: TokenRules | None = None) -> JwtVerifier:
    return JwtVerifier([VerificationKey.from_secret(SECRET)], rules or TokenRules(), clock=lambda: NOW)


def read(token: str) -> dict[str, object]:
    """Read a token with PyJWT alone, whatever the time is."""
    return jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False})


def test_a_connection_token_holds_the_claims_given() -> None:
    token = issue_connection_token(SECRET, "alice", 600, now=NOW, info={"name": "Alice"}, channels=["news"])
    assert read(token) == {
        "sub": "alice",
        "iat": NOW,
        "exp": NOW + 600,
        "info": {"name": "Alice"},
        "channels": ["news"],
    }
    assert verifier().connection_now(token).subs.keys() == {"news"}


def test_a_subscription_token_holds_the_claims_given() -> None:
    token = issue_subscription_token(SECRET, "alice", "$chat", 600, now=NOW, expire_at=0)
    assert read(token) == {"sub": "alice", "channel": "$chat", "iat": NOW, "exp": NOW + 600, "expire_at": 0}
    assert verifier().subscription_now(token).expires_at is None


def test_a_token_may_be_without_end() -> None:
    assert read(issue_connection_token(SECRET, "", None, now=NOW)) == {"sub": "", "iat": NOW}


def test_a_weak_secret_is_refused_unless_allowed() -> None:
    with pytest.raises(ValueError, match="openssl rand"):
        issue_connection_token("dev", "alice", 60)
    token = issue_connection_token("dev", "alice", 60, allow_weak_secret=True)
    weak = JwtVerifier([VerificationKey.from_secret("dev", allow_weak_secret=True)], TokenRules())
    assert weak.connection_now(token).user == "alice"


async def test_the_explanation_of_a_valid_token_says_what_it_grants() -> None:
    token = issue_connection_token(SECRET, "alice", 600, now=NOW, info={"a": 1}, aud="x")
    explanation = await explain(token, verifier())
    assert explanation.accepted
    assert explanation.reason is None
    assert str(explanation).splitlines() == [
        f"Accepted: a connection token of user 'alice', until {TEN_MINUTES_LATER}.",
        '  alg: "HS256"',
        '  sub: "alice"',
        '  aud: "x"',
        "  iat: 1800000000 (2027-01-15 08:00:00+00:00)",
        f"  exp: 1800000600 ({TEN_MINUTES_LATER})",
        '  further claims: "info"',
    ]


async def test_the_explanation_knows_subscription_tokens_and_what_people_paste() -> None:
    token = issue_subscription_token(SECRET, "", "$chat", None, now=NOW)
    explanation = await explain(f"  Bearer {token}\n", verifier())
    assert explanation.sentence == (
        "Accepted: a subscription token of an anonymous user for the channel '$chat', without end."
    )


async def test_the_explanation_of_a_refused_token_names_the_reason_and_shows_its_claims() -> None:
    token = sign({"sub": "alice", "exp": NOW - 90, "nbf": "x", "iat": 1e300}, header={"alg": "HS256", "kid": "k"})
    explanation = await explain(token, verifier())
    assert not explanation.accepted
    assert explanation.reason is RefusalReason.UNKNOWN_KEY
    assert explanation.sentence.startswith("Refused (unknown_key). The token names a key id (kid)")
    assert explanation.details == (
        'alg: "HS256"',
        'kid: "k"',
        'sub: "alice"',
        "iat: 1e+300 (not a time in seconds since 1970)",
        'nbf: "x" (not a time)',
        "exp: 1799999910 (2027-01-15 07:58:30+00:00)",
    )
    expired = await explain(sign({"sub": "alice", "exp": NOW - 90}), verifier())
    assert expired.sentence == "Refused (expired). The token expired 90 s ago."


@pytest.mark.parametrize("text", ["", "Bearer", "not a token", "a.b.c", "\x1b[2J"])
async def test_the_explanation_of_what_is_no_token_has_no_details(text: str) -> None:
    explanation = await explain(text, verifier())
    assert explanation.reason is RefusalReason.MALFORMED
    assert explanation.details == ()
    assert "\x1b" not in str(explanation)


async def test_control_characters_in_a_token_do_not_reach_the_terminal() -> None:
    token = sign({"sub": "\x1b[2J", "channel": "\x1b]0;x\x07", "\x1b": 1})
    assert "\x1b" not in str(await explain(token, verifier()))
    assert "\x1b" not in str(await explain(token + "x", verifier()))
