"""No hostile token grants anything, whatever it tries, and no refusal repeats what the token holds."""

import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from starling.auth.claims import TokenRules
from starling.auth.jwt import JwtVerifier
from starling.auth.keys import VerificationKey
from starling.auth.tokens import RefusalReason, TokenRefused
from tests.auth.forge import AUDIENCE, CANARY, ISSUER, NOW, SECRET, base64url, good_claims, sign

STRICT = TokenRules(audience=AUDIENCE, issuer=ISSUER, require_expiry=True, max_lifetime_seconds=3600)


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def rsa_pem(rsa_key: rsa.RSAPrivateKey) -> str:
    return rsa_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture
def verifier() -> JwtVerifier:
    return JwtVerifier([VerificationKey.from_secret(SECRET)], STRICT, clock=lambda: NOW)


def header(**parameters: Any) -> str:
    """Make a token that is right but for its header."""
    return sign(good_claims(), header={"typ": "JWT", "alg": "HS256", **parameters})


def claims(**changes: Any) -> str:
    """Make a token that is right but for its claims."""
    return sign(good_claims(**changes))


def payload(raw: bytes) -> str:
    """Make a token that is rightly signed over a payload which is not claims."""
    return sign(raw)


def without_signature(token: str) -> str:
    return token.rpartition(".")[0] + "."


def change_last_character(token: str) -> str:
    """Set the unused bits of the signature's last character: other text, same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def with_payload_of(token: str, other: str) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{other.split('.')[1]}.{signature}"


def raw_claims(members: str) -> bytes:
    return ("{" + json.dumps(good_claims())[1:-1] + "," + members + "}").encode()


R = RefusalReason
HOSTILE: dict[str, tuple[Callable[[], str], RefusalReason]] = {
    # not a signed token in compact form
    "nothing": (lambda: "", R.MALFORMED),
    "one part": (lambda: "token", R.MALFORMED),
    "two parts": (lambda: claims().rpartition(".")[0], R.MALFORMED),
    "four parts": (lambda: claims() + ".e30", R.MALFORMED),
    "five parts, as if encrypted": (lambda: claims() + ".e30.e30", R.MALFORMED),
    "only dots": (lambda: "..", R.MALFORMED),
    "trailing line end": (lambda: claims() + "\n", R.MALFORMED),
    "leading space": (lambda: " " + claims(), R.MALFORMED),
    "trailing bytes": (lambda: claims() + "!!!!", R.MALFORMED),
    "padding": (lambda: claims() + "=", R.MALFORMED),
    "unused bits set in the signature": (lambda: change_last_character(claims()), R.MALFORMED),
    "letters beyond ASCII": (lambda: claims() + "é", R.MALFORMED),
    "a null character": (lambda: claims() + "\x00", R.MALFORMED),
    "a lone surrogate": (lambda: claims() + "\ud800", R.MALFORMED),
    "nine thousand bytes": (lambda: claims(info="x" * 9000), R.TOO_LARGE),
    "a million bytes": (lambda: claims(info="x" * 1_000_000), R.TOO_LARGE),
    # the header
    "header not JSON": (lambda: sign(good_claims(), header=b"alg"), R.MALFORMED),
    "header a list": (lambda: sign(good_claims(), header=b'["HS256"]'), R.MALFORMED),
    "header not UTF-8": (lambda: sign(good_claims(), header=b'{"alg":"HS256","x":"\xff"}'), R.MALFORMED),
    "header with two algorithms": (
        lambda: sign(good_claims(), header=b'{"alg":"none","alg":"HS256"}'),
        R.MALFORMED,
    ),
    "header with what is no number": (lambda: sign(good_claims(), header=b'{"alg":"HS256","x":NaN}'), R.MALFORMED),
    "no algorithm": (lambda: sign(good_claims(), header={"typ": "JWT"}), R.MALFORMED),
    "algorithm a number": (lambda: header(alg=256), R.MALFORMED),
    "algorithm null": (lambda: header(alg=None), R.MALFORMED),
    "algorithm a list": (lambda: header(alg=["HS256", "none"]), R.MALFORMED),
    "alg none, no signature": (lambda: without_signature(header(alg="none")), R.WRONG_ALGORITHM),
    "alg nOnE": (lambda: without_signature(header(alg="nOnE")), R.WRONG_ALGORITHM),
    "alg none, a signature": (lambda: header(alg="none"), R.WRONG_ALGORITHM),
    "alg empty": (lambda: header(alg=""), R.WRONG_ALGORITHM),
    "alg in lower case": (lambda: header(alg="hs256"), R.WRONG_ALGORITHM),
    "alg unknown": (lambda: header(alg="HS257"), R.WRONG_ALGORITHM),
    "alg of another family": (lambda: header(alg="RS256"), R.WRONG_ALGORITHM),
    "alg of a longer hash than was used": (lambda: header(alg="HS512"), R.BAD_SIGNATURE),
    "made to refresh": (lambda: header(typ="refresh+jwt"), R.WRONG_TYPE),
    "made for a log out": (lambda: header(typ="logout+jwt"), R.WRONG_TYPE),
    "type a number": (lambda: header(typ=1), R.WRONG_TYPE),
    "an unknown extension": (lambda: header(crit=["exp"]), R.MALFORMED),
    "payload said not to be encoded": (lambda: header(crit=["b64"], b64=False), R.MALFORMED),
    "key id unknown": (lambda: header(kid="who"), R.UNKNOWN_KEY),
    "key id a path": (lambda: header(kid="../../dev/null"), R.UNKNOWN_KEY),
    "key id SQL": (lambda: header(kid="' UNION SELECT 'x"), R.UNKNOWN_KEY),
    "key id empty": (lambda: header(kid=""), R.UNKNOWN_KEY),
    "key id a number": (lambda: header(kid=1), R.MALFORMED),
    "key address of the attacker": (
        lambda: sign(
            good_claims(),
            header={"alg": "HS256", "jku": "http://127.0.0.1:9/keys", "x5u": "http://127.0.0.1:9/keys"},
            secret=b"attacker" * 8,
        ),
        R.BAD_SIGNATURE,
    ),
    "key of the attacker inside": (
        lambda: sign(
            good_claims(),
            header={"alg": "HS256", "jwk": {"kty": "oct", "k": base64url(b"attacker" * 8)}},
            secret=b"attacker" * 8,
        ),
        R.BAD_SIGNATURE,
    ),
    # the signature
    "another secret": (lambda: sign(good_claims(), secret="x" * 40), R.BAD_SIGNATURE),
    "an empty secret": (lambda: sign(good_claims(), secret=b""), R.BAD_SIGNATURE),
    "signature cut off": (lambda: without_signature(claims()), R.BAD_SIGNATURE),
    "signature shortened": (lambda: claims()[:-3], R.BAD_SIGNATURE),
    "signature of another token": (lambda: with_payload_of(claims(), claims(sub="admin")), R.BAD_SIGNATURE),
    # the payload
    "payload empty": (lambda: payload(b""), R.MALFORMED),
    "payload not JSON": (lambda: payload(b"sub=" + CANARY.encode()), R.MALFORMED),
    "payload a list": (lambda: payload(json.dumps([good_claims()]).encode()), R.MALFORMED),
    "payload a string": (lambda: payload(b'"' + CANARY.encode() + b'"'), R.MALFORMED),
    "payload twice": (lambda: payload(json.dumps(good_claims()).encode() * 2), R.MALFORMED),
    "payload with a byte order mark": (
        lambda: payload(b"\xef\xbb\xbf" + json.dumps(good_claims()).encode()),
        R.MALFORMED,
    ),
    "payload in UTF-16": (lambda: payload(json.dumps(good_claims()).encode("utf-16")), R.MALFORMED),
    "payload not UTF-8": (lambda: payload(raw_claims('"info":"?"').replace(b"?", b"\xff")), R.MALFORMED),
    "two users": (lambda: payload(raw_claims('"sub":"admin"')), R.MALFORMED),
    "two ends": (lambda: payload(raw_claims(f'"exp":{NOW + 60}')), R.MALFORMED),
    "twice the same inside info": (lambda: payload(raw_claims('"info":{"a":1,"a":2}')), R.MALFORMED),
    "nested a thousand deep": (lambda: payload(raw_claims('"info":' + "[" * 1500 + "]" * 1500)), R.MALFORMED),
    "not a number": (lambda: payload(raw_claims('"info":NaN')), R.MALFORMED),
    "half a character": (lambda: payload(raw_claims('"info":"\\ud83d"')), R.MALFORMED),
    "four thousand digits": (lambda: payload(raw_claims(f'"expire_at":{"9" * 4000}')), R.MALFORMED_CLAIM),
    "six thousand digits": (lambda: payload(raw_claims(f'"expire_at":{"9" * 5500}')), R.MALFORMED),
    # the times
    "expired": (lambda: claims(exp=NOW - 3600), R.EXPIRED),
    "expiring this moment": (lambda: claims(exp=NOW), R.EXPIRED),
    "no end": (lambda: claims(exp=...), R.MISSING_CLAIM),
    "ends in the year 9999": (lambda: claims(exp=253402300799), R.LIFETIME_TOO_LONG),
    "ends after the longest lifetime": (lambda: claims(exp=NOW + 3631), R.LIFETIME_TOO_LONG),
    "end null, which is none": (lambda: claims(exp=None), R.MISSING_CLAIM),
    "audience null, which is none": (lambda: claims(aud=None), R.MISSING_CLAIM),
    "issuer null, which is none": (lambda: claims(iss=None), R.MISSING_CLAIM),
    "channels of null": (lambda: claims(channels=[None]), R.MALFORMED_CLAIM),
    "subs of null": (lambda: claims(subs={"news": None}), R.MALFORMED_CLAIM),
    "end a string": (lambda: claims(exp=str(NOW + 600)), R.MALFORMED_CLAIM),
    "end true": (lambda: claims(exp=True), R.MALFORMED_CLAIM),
    "end a list": (lambda: claims(exp=[NOW + 600]), R.MALFORMED_CLAIM),
    "end in milliseconds": (lambda: claims(exp=(NOW + 600) * 1000), R.MALFORMED_CLAIM),
    "end infinite": (lambda: payload(raw_claims('"expire_at":1e999')), R.MALFORMED_CLAIM),
    "end negative": (lambda: claims(exp=-1), R.MALFORMED_CLAIM),
    "not valid before tomorrow": (lambda: claims(nbf=NOW + 86400), R.NOT_YET_VALID),
    "issued tomorrow": (lambda: claims(iat=NOW + 86400), R.NOT_YET_VALID),
    "not before a string": (lambda: claims(nbf="now"), R.MALFORMED_CLAIM),
    "connection over already": (lambda: claims(expire_at=NOW - 1), R.EXPIRED),
    "connection's end negative": (lambda: claims(expire_at=-1), R.MALFORMED_CLAIM),
    "connection's end a string": (lambda: claims(expire_at="never"), R.MALFORMED_CLAIM),
    # which it is for, which it is from
    "no audience": (lambda: claims(aud=...), R.MISSING_CLAIM),
    "another audience": (lambda: claims(aud="billing"), R.WRONG_AUDIENCE),
    "an audience that holds ours": (lambda: claims(aud="not-starling"), R.WRONG_AUDIENCE),
    "other audiences": (lambda: claims(aud=["billing", "mail"]), R.WRONG_AUDIENCE),
    "an empty list of audiences": (lambda: claims(aud=[]), R.WRONG_AUDIENCE),
    "audience an object": (lambda: claims(aud={"starling": True}), R.MALFORMED_CLAIM),
    "audience a list of numbers": (lambda: claims(aud=[1]), R.MALFORMED_CLAIM),
    "no issuer": (lambda: claims(iss=...), R.MISSING_CLAIM),
    "another issuer": (lambda: claims(iss="https://evil.example"), R.WRONG_ISSUER),
    "an issuer that starts like ours": (lambda: claims(iss=ISSUER + ".evil.example"), R.WRONG_ISSUER),
    "issuer with a slash more": (lambda: claims(iss=ISSUER + "/"), R.WRONG_ISSUER),
    "issuer a list": (lambda: claims(iss=[ISSUER]), R.MALFORMED_CLAIM),
    # the user and the channels
    "user a number": (lambda: claims(sub=42), R.MALFORMED_CLAIM),
    "user a list": (lambda: claims(sub=[CANARY]), R.MALFORMED_CLAIM),
    "token id a number": (lambda: claims(jti=7), R.MALFORMED_CLAIM),
    "channels a string": (lambda: claims(channels="news"), R.MALFORMED_CLAIM),
    "channels of numbers": (lambda: claims(channels=[1]), R.MALFORMED_CLAIM),
    "an empty channel": (lambda: claims(channels=["news", ""]), R.MALFORMED_CLAIM),
    "subs a list": (lambda: claims(subs=["news"]), R.MALFORMED_CLAIM),
    "subs of strings": (lambda: claims(subs={"news": "yes"}), R.MALFORMED_CLAIM),
    "half a character in its base64": (lambda: claims().replace(".", ".\ud800", 1), R.MALFORMED),
    "subs with an empty channel": (lambda: claims(subs={"": {}}), R.MALFORMED_CLAIM),
    "an override nobody knows": (
        lambda: claims(subs={"news": {"override": {"precense": {"value": True}}}}),
        R.MALFORMED_CLAIM,
    ),
    "an override that is no switch": (
        lambda: claims(subs={"news": {"override": {"presence": "yes"}}}),
        R.MALFORMED_CLAIM,
    ),
}


@pytest.mark.parametrize(("build", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_token_is_refused_for_its_reason(
    verifier: JwtVerifier, build: Callable[[], str], reason: RefusalReason
) -> None:
    token = build()
    with pytest.raises(TokenRefused) as refused:
        await verifier.connection(token)
    assert refused.value.reason is reason
    assert CANARY not in str(refused.value)
    assert not any(part in str(refused.value) for part in token.split(".") if len(part) > 8)
    with pytest.raises(TokenRefused):
        await verifier.subscription(token)


async def test_the_same_token_without_a_fault_is_accepted(verifier: JwtVerifier) -> None:
    """Without this the table above could pass because of one fault in all of its tokens."""
    assert (await verifier.connection(claims())).user == CANARY


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_public_key_taken_as_a_secret_signs_nothing(rsa_pem: str, algorithm: str) -> None:
    verifier = JwtVerifier(VerificationKey.from_pem(rsa_pem), STRICT, clock=lambda: NOW)
    for secret in (rsa_pem, rsa_pem.strip(), rsa_pem.replace("\n", "")):
        token = sign(good_claims(), header={"alg": algorithm}, secret=secret, algorithm=algorithm)
        with pytest.raises(TokenRefused) as refused:
            await verifier.connection(token)
        assert refused.value.reason is RefusalReason.WRONG_ALGORITHM


async def test_a_public_key_and_a_secret_together_are_not_confused(rsa_key: rsa.RSAPrivateKey, rsa_pem: str) -> None:
    verifier = JwtVerifier(
        [VerificationKey.from_secret(SECRET), *VerificationKey.from_pem(rsa_pem)], STRICT, clock=lambda: NOW
    )
    private_pem = rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for good in (sign(good_claims()), jwt.encode(good_claims(), private_pem, algorithm="RS256")):
        assert (await verifier.connection(good)).user == CANARY
    confused = sign(good_claims(), secret=rsa_pem)
    renamed = sign(good_claims(), header={"alg": "RS256"})
    for bad in (confused, renamed):
        with pytest.raises(TokenRefused) as refused:
            await verifier.connection(bad)
        assert refused.value.reason is RefusalReason.BAD_SIGNATURE


async def test_a_subscription_token_is_no_connection_token(verifier: JwtVerifier) -> None:
    token = claims(channel="news")
    assert (await verifier.subscription(token)).channel == "news"
    with pytest.raises(TokenRefused) as refused:
        await verifier.connection(token)
    assert (refused.value.reason, refused.value.claim) == (RefusalReason.MALFORMED_CLAIM, "channel")


async def test_a_connection_token_is_no_subscription_token(verifier: JwtVerifier) -> None:
    with pytest.raises(TokenRefused) as refused:
        await verifier.subscription(claims())
    assert (refused.value.reason, refused.value.claim) == (RefusalReason.MISSING_CLAIM, "channel")


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"sub": 42}, "sub"),
        ({"exp": "soon"}, "exp"),
        ({"aud": 1}, "aud"),
        ({"channels": ["a", 1]}, "channels[1]"),
        ({"subs": {"news": {"override": {"presence": {"value": "yes"}}}}}, "subs[...].override.presence.value"),
        ({"subs": {"news": {"override": {"precense": True}}}}, "subs[...].override"),
    ],
)
async def test_a_refusal_names_the_claim_at_fault(verifier: JwtVerifier, changes: dict[str, Any], claim: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        await verifier.connection(claims(**changes))
    assert refused.value.claim == claim
    assert f"claim {claim} " in refused.value.sentence


async def test_an_end_in_milliseconds_is_called_that(verifier: JwtVerifier) -> None:
    with pytest.raises(TokenRefused, match="seconds since 1970, not milliseconds"):
        await verifier.connection(claims(exp=NOW * 1000))
