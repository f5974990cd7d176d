"""The token verifier of a configuration: the keys that count, and mistakes that name their setting."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from starling.auth.build import build_keys, build_verifier
from starling.auth.options import TokenOptions
from starling.auth.tokens import TokenRefused
from starling.options import SettingsError
from tests.auth.forge import SECRET, sign

PEM = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def options(**given: object) -> TokenOptions:
    return TokenOptions.model_validate(given)


@pytest.mark.parametrize("name", ["token_hmac_secret", "token_hmac_secret_previous"])
def test_the_secret_and_the_one_before_it_are_keys(name: str) -> None:
    other = "another-secret-of-these-tests-0123456789"
    verifier, jwks = build_verifier(options(**{"token_hmac_secret": other, name: SECRET}))

    assert jwks is None
    assert verifier.connection_now(sign({"sub": "alice"})).user == "alice"
    with pytest.raises(TokenRefused):
        verifier.connection_now(sign({"sub": "alice"}, secret="x" * 40))


def test_a_public_key_is_a_key_too() -> None:
    keys = build_keys(options(token_public_key=PEM.decode(), token_hmac_secret=SECRET))

    assert len(keys) == 2


def test_developer_mode_takes_weak_secrets_and_without_any_makes_one_that_nobody_knows() -> None:
    assert len(build_keys(options(dev=True, token_hmac_secret="weak"))) == 1
    first, second = (build_keys(options(dev=True)) for _ in range(2))
    assert len(first) == len(second) == 1
    assert first != second


def test_the_address_of_an_issuer_s_keys_makes_a_key_set() -> None:
    _, jwks = build_verifier(options(token_jwks_url="https://issuer.example/keys", token_audience="starling"))

    assert jwks is not None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"token_hmac_secret": SECRET, "token_public_key": "no PEM"}, ["STARLING_TOKEN_PUBLIC_KEY: no public key"]),
        (
            {"token_hmac_secret": PEM.decode(), "token_public_key": "no PEM"},
            ["STARLING_TOKEN_HMAC_SECRET: the secret is a public key", "STARLING_TOKEN_PUBLIC_KEY: no public key"],
        ),
        (
            {"token_hmac_secret": SECRET, "token_audience": ""},
            ["STARLING_TOKEN_AUDIENCE, STARLING_TOKEN_ISSUER: audience and issuer must not be empty"],
        ),
        ({"token_jwks_url": "issuer.example/keys"}, ["STARLING_TOKEN_JWKS_URL: the address of a key set starts with"]),
    ],
)
def test_what_cannot_be_used_names_its_setting(given: dict[str, str], named: list[str]) -> None:
    with pytest.raises(SettingsError) as refused:
        build_verifier(options(**given))

    assert len(refused.value.problems) == len(named)
    for problem, beginning in zip(refused.value.problems, named, strict=True):
        assert problem.startswith(beginning)
