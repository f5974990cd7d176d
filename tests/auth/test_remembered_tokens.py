"""Tokens that are remembered as verified: all but their signature is judged at each use.

tests/system/test_api.py revokes a token that a worker has just verified, and sees it refused.
"""

import pytest

from starling.auth.claims import TokenRules
from starling.auth.issue import issue_connection_token
from starling.auth.jwt import MOST_TOKEN_CHARACTERS, MOST_TOKENS, REMEMBERED_SECONDS, JwtVerifier, RememberedTokens
from starling.auth.keys import VerificationKey
from starling.auth.tokens import RefusalReason, TokenRefused

SECRET = "a secret of this test, longer than thirty-two bytes"
OTHER = "another secret of this test, over thirty-two bytes"
NOW = 1_000_000.0
KEYS = ((VerificationKey.from_secret(SECRET),), ())


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What keys were asked to verify."""
    asked: list[bytes] = []
    verifies = VerificationKey.verifies

    def counted(key: VerificationKey, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        asked.append(signing_input)
        return verifies(key, algorithm, signing_input, signature)

    monkeypatch.setattr(VerificationKey, "verifies", counted)
    return asked


def refusal(verifier: JwtVerifier, token: str) -> RefusalReason:
    with pytest.raises(TokenRefused) as refused:
        verifier.connection_now(token)
    return refused.value.reason


def test_a_token_that_returns_is_verified_once_and_grants_the_same(verified: list[bytes]) -> None:
    verifier = JwtVerifier(KEYS[0], TokenRules(), clock=Clock())
    token = issue_connection_token(SECRET, "alice", 60, now=NOW, channels=["news"])
    first = verifier.connection_now(token)
    assert verifier.connection_now(token) == first
    assert len(verified) == 1
    verifier.connection_now(issue_connection_token(SECRET, "bob", 60, now=NOW))
    assert len(verified) == 2


@pytest.mark.parametrize("changed", ["payload", "signature"])
def test_a_token_that_differs_in_one_letter_is_another(verified: list[bytes], changed: str) -> None:
    verifier = JwtVerifier(KEYS[0], TokenRules(), clock=Clock())
    header, payload, signature = issue_connection_token(SECRET, "alice", 60, now=NOW).split(".")
    verifier.connection_now(f"{header}.{payload}.{signature}")
    other = issue_connection_token(SECRET, "alicf", 60, now=NOW).split(".")
    forged = f"{header}.{other[1]}.{signature}" if changed == "payload" else f"{header}.{payload}.{other[2]}"
    assert refusal(verifier, forged) is RefusalReason.BAD_SIGNATURE
    assert refusal(verifier, forged) is RefusalReason.BAD_SIGNATURE
    assert len(verified) == 3, "what was refused is not remembered"


def test_a_remembered_token_that_has_expired_meanwhile_is_refused(verified: list[bytes]) -> None:
    clock = Clock()
    verifier = JwtVerifier(KEYS[0], TokenRules(), clock=clock)
    token = issue_connection_token(SECRET, "alice", 5, now=NOW)
    verifier.connection_now(token)
    clock.now += 5
    assert refusal(verifier, token) is RefusalReason.EXPIRED
    assert len(verified) == 1, "by its claims: the signature is remembered"


def test_a_remembered_token_is_refused_when_its_key_goes(verified: list[bytes]) -> None:
    verifier = JwtVerifier(KEYS[0], TokenRules(), clock=Clock())
    token = issue_connection_token(SECRET, "alice", 60, now=NOW)
    verifier.connection_now(token)
    verifier.replace_keys([VerificationKey.from_secret(OTHER)])
    assert refusal(verifier, token) is RefusalReason.BAD_SIGNATURE
    verifier.replace_keys([VerificationKey.from_secret(OTHER), *KEYS[0]])
    assert verifier.connection_now(token).user == "alice"
    assert len(verified) == 4


def test_a_connection_token_that_is_remembered_is_still_no_subscription_token() -> None:
    verifier = JwtVerifier(KEYS[0], TokenRules(), clock=Clock())
    token = issue_connection_token(SECRET, "alice", 60, now=NOW)
    verifier.connection_now(token)
    with pytest.raises(TokenRefused) as refused:
        verifier.subscription_now(token)
    assert refused.value.claim == "channel"


def test_a_token_is_forgotten_after_seconds() -> None:
    clock = Clock()
    tokens = RememberedTokens(clock)
    tokens.remember("a", KEYS, b"a")
    clock.now += REMEMBERED_SECONDS - 0.1
    assert tokens.payload("a", KEYS) == b"a"
    tokens.remember("b", KEYS, b"b")
    clock.now += 0.1
    assert tokens.payload("a", KEYS) is None
    assert tokens.payload("b", KEYS) == b"b"


def test_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    tokens = RememberedTokens(clock)
    tokens.remember("x" * (MOST_TOKEN_CHARACTERS + 1), KEYS, b"")
    assert len(tokens) == 0
    for number in range(MOST_TOKENS + 1):
        tokens.remember(str(number), KEYS, b"")
    assert len(tokens) == MOST_TOKENS
    assert tokens.payload("0", KEYS) is None
    clock.now += REMEMBERED_SECONDS
    tokens.remember("new", KEYS, b"")
    assert len(tokens) == 1, "what nobody asks for any more goes by itself"
