"""Keys of every kind verify what their private half signed, and nothing that names another algorithm."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from starling.auth.claims import TokenRules
from starling.auth.jwt import JwtVerifier
from starling.auth.keys import VerificationKey
from starling.auth.tokens import RefusalReason, TokenRefused
from tests.auth.forge import NOW, SECRET, sign

MAKE: dict[str, Callable[[], Any]] = {
    "RSA": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
}
ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
    "Ed448": ("EdDSA",),
}
KINDS = {kind: (make(), ALGORITHMS[kind]) for kind, make in MAKE.items()}
RSA = KINDS["RSA"][0]
ALL_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def public_pem(private: Any) -> str:
    pem: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def private_pem(private: Any) -> str:
    pem: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


def public_jwk(private: Any, **members: Any) -> dict[str, Any]:
    algorithm = "RS256" if isinstance(private, rsa.RSAPrivateKey) else "EdDSA"
    if isinstance(private, ec.EllipticCurvePrivateKey):
        algorithm = "ES256"
    jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    return {**{name: value for name, value in jwk.items() if name != "key_ops"}, **members}


def verifier(*keys: VerificationKey) -> JwtVerifier:
    return JwtVerifier(keys, TokenRules(), clock=lambda: NOW)


async def refusal(of: JwtVerifier, token: str) -> RefusalReason:
    with pytest.raises(TokenRefused) as refused:
        await of.connection(token)
    return refused.value.reason


@pytest.mark.parametrize("kind", KINDS)
async def test_a_public_key_in_pem_form_verifies_its_own_algorithms_only(kind: str) -> None:
    private, algorithms = KINDS[kind]
    keys = VerificationKey.from_pem(public_pem(private))
    for algorithm in algorithms:
        token = jwt.encode({"sub": "alice"}, private, algorithm=algorithm)
        assert (await verifier(*keys).connection(token)).user == "alice"
    for other in set(ALL_ALGORITHMS) - set(algorithms):
        token = sign({"sub": "alice"}, header={"alg": other})
        assert await refusal(verifier(*keys), token) is RefusalReason.WRONG_ALGORITHM


@pytest.mark.parametrize("kind", KINDS)
async def test_a_public_key_as_a_jwk_verifies_its_own_algorithms_only(kind: str) -> None:
    private, algorithms = KINDS[kind]
    key = VerificationKey.from_jwk(public_jwk(private, kid="k", use="sig"))
    for algorithm in algorithms:
        token = jwt.encode({"sub": "alice"}, private, algorithm=algorithm, headers={"kid": "k"})
        assert (await verifier(key).connection(token)).user == "alice"
    assert key.algorithms == frozenset(algorithms)


@pytest.mark.parametrize("kind", KINDS)
async def test_another_key_of_the_same_kind_signs_nothing(kind: str) -> None:
    private, algorithms = KINDS[kind]
    token = jwt.encode({"sub": "alice"}, MAKE[kind](), algorithm=algorithms[0])
    keys = VerificationKey.from_pem(public_pem(private))
    assert await refusal(verifier(*keys), token) is RefusalReason.BAD_SIGNATURE


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_secret_verifies_the_three_hmac_algorithms(algorithm: str) -> None:
    token = sign({"sub": "alice"}, algorithm=algorithm)
    assert (await verifier(VerificationKey.from_secret(SECRET)).connection(token)).user == "alice"


async def test_naming_an_algorithm_narrows_a_key_to_it() -> None:
    narrow = verifier(VerificationKey.from_secret(SECRET, algorithm="HS512"))
    assert (await narrow.connection(sign({"sub": "a"}, algorithm="HS512"))).user == "a"
    assert await refusal(narrow, sign({"sub": "a"})) is RefusalReason.WRONG_ALGORITHM
    pss = verifier(*VerificationKey.from_pem(public_pem(RSA), algorithm="PS256"))
    assert (await pss.connection(jwt.encode({"sub": "a"}, RSA, algorithm="PS256"))).user == "a"
    assert await refusal(pss, jwt.encode({"sub": "a"}, RSA, algorithm="RS256")) is RefusalReason.WRONG_ALGORITHM


async def test_after_a_rotation_tokens_of_both_secrets_pass_until_the_old_one_is_taken_out() -> None:
    old, new = "the-secret-before-the-rotation-0123456789", SECRET
    during = verifier(VerificationKey.from_secret(new), VerificationKey.from_secret(old))
    for secret in (old, new):
        assert (await during.connection(sign({"sub": "a"}, secret=secret))).user == "a"
    after = verifier(VerificationKey.from_secret(new))
    assert await refusal(after, sign({"sub": "a"}, secret=old)) is RefusalReason.BAD_SIGNATURE


async def test_several_public_keys_in_one_text_are_all_taken() -> None:
    first, second = KINDS["P-256"][0], ec.generate_private_key(ec.SECP256R1())
    both = verifier(*VerificationKey.from_pem(public_pem(first) + "\n" + public_pem(second)))
    for private in (first, second):
        assert (await both.connection(jwt.encode({"sub": "a"}, private, algorithm="ES256"))).user == "a"


async def test_a_public_key_may_come_from_an_environment_variable_with_its_line_ends_written_out() -> None:
    private = KINDS["Ed25519"][0]
    (key,) = VerificationKey.from_pem(public_pem(private).replace("\n", "\\n"))
    assert (await verifier(key).connection(jwt.encode({"sub": "a"}, private, algorithm="EdDSA"))).user == "a"


def test_a_key_itself_refuses_an_algorithm_that_is_not_its_own() -> None:
    text = SECRET.encode()
    key = VerificationKey.from_secret(SECRET, algorithm="HS512")
    for algorithm, made in (("HS512", True), ("HS256", False)):
        signature = jwt.get_algorithm_by_name(algorithm).sign(text, SECRET.encode())
        assert key.verifies(algorithm, text, signature) is made


async def test_a_key_id_is_looked_up_among_those_given() -> None:
    keys = verifier(
        VerificationKey.from_secret(SECRET, key_id="2026"), VerificationKey.from_secret("x" * 40, key_id="2025")
    )
    named = sign({"sub": "a"}, header={"alg": "HS256", "kid": "2026"})
    assert (await keys.connection(named)).user == "a"
    assert (await keys.connection(sign({"sub": "a"}))).user == "a"
    misnamed = sign({"sub": "a"}, header={"alg": "HS256", "kid": "2025"})
    assert await refusal(keys, misnamed) is RefusalReason.BAD_SIGNATURE
    unknown = sign({"sub": "a"}, header={"alg": "HS256", "kid": "2024"})
    assert await refusal(keys, unknown) is RefusalReason.UNKNOWN_KEY


def test_a_secret_that_could_be_guessed_is_refused_with_the_remedy() -> None:
    for secret in ("", "secret", "x" * 31):
        with pytest.raises(ValueError, match="openssl rand"):
            VerificationKey.from_secret(secret)
    assert VerificationKey.from_secret("x" * 32).algorithms == {"HS256", "HS384", "HS512"}
    assert VerificationKey.from_secret("é" * 16).algorithms == {"HS256", "HS384", "HS512"}


async def test_a_weak_secret_works_where_it_is_allowed() -> None:
    weak = verifier(VerificationKey.from_secret("dev", allow_weak_secret=True))
    assert (await weak.connection(sign({"sub": "a"}, secret="dev"))).user == "a"
    with pytest.raises(ValueError, match="empty"):
        VerificationKey.from_secret("", allow_weak_secret=True)


def test_a_key_does_not_show_its_secret() -> None:
    assert SECRET not in repr(VerificationKey.from_secret(SECRET))


def certificate(private: ec.EllipticCurvePrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer.example")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
        .sign(private, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


def test_a_public_key_given_as_a_secret_is_refused() -> None:
    for text in (public_pem(RSA), certificate(KINDS["P-256"][0]), json.dumps(public_jwk(RSA))):
        with pytest.raises(ValueError, match="give it as a public key"):
            VerificationKey.from_secret(text)


def test_what_is_no_public_key_is_refused_with_the_remedy() -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    cases = {
        "": "BEGIN PUBLIC KEY",
        "not a key": "BEGIN PUBLIC KEY",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----": "openssl pkey -pubin",
        private_pem(RSA): "private key",
        certificate(KINDS["P-256"][0]): "openssl x509",
        public_pem(small): "1024 bits",
        public_pem(ec.generate_private_key(ec.SECP256K1())): "secp256k1",
        public_pem(dsa.generate_private_key(2048)): "RSA, ECDSA or Ed25519",
    }
    for text, words in cases.items():
        with pytest.raises(ValueError, match=words) as refused:
            VerificationKey.from_pem(text)
        assert "MII" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "algorithm"), [("RSA", "HS256"), ("RSA", "ES256"), ("P-256", "ES384"), ("Ed25519", "none")]
)
def test_an_algorithm_that_does_not_go_with_the_key_is_refused(kind: str, algorithm: str) -> None:
    with pytest.raises(ValueError, match="does not go with"):
        VerificationKey.from_pem(public_pem(KINDS[kind][0]), algorithm=algorithm)
    with pytest.raises(ValueError, match="does not go with"):
        VerificationKey.from_secret(SECRET, algorithm=algorithm if algorithm != "HS256" else "RS256")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


UNUSABLE_JWKS: dict[str, Any] = {
    "null": None,
    "a list": [],
    "empty": {},
    "a secret": {"kty": "oct", "k": b64(b"x" * 40), "alg": "HS256"},
    "kind a number": {**public_jwk(RSA), "kty": 1},
    "kind unknown": {**public_jwk(RSA), "kty": "AKP"},
    "to encrypt": public_jwk(RSA, use="enc"),
    "to sign": public_jwk(RSA, key_ops=["sign"]),
    "operations no list": public_jwk(RSA, key_ops="verify"),
    "private": public_jwk(RSA, d=b64(b"x" * 256)),
    "key id a number": public_jwk(RSA, kid=7),
    "algorithm a list": public_jwk(RSA, alg=["RS256"]),
    "algorithm of encryption": public_jwk(RSA, alg="RSA-OAEP"),
    "algorithm none": public_jwk(RSA, alg="none"),
    "algorithm HS256": public_jwk(RSA, alg="HS256"),
    "algorithm of another curve": public_jwk(KINDS["P-256"][0], alg="ES384"),
    "no modulus": {"kty": "RSA", "e": "AQAB"},
    "modulus a number": {**public_jwk(RSA), "n": 3},
    "modulus empty": {**public_jwk(RSA), "n": ""},
    "modulus no base64": {**public_jwk(RSA), "n": "é!"},
    "modulus of one character": {**public_jwk(RSA), "n": "A"},
    "modulus of 512 bits": {**public_jwk(RSA), "n": b64(b"\xff" * 64)},
    "modulus of 65536 bits": {**public_jwk(RSA), "n": b64(b"\xff" * 8192)},
    "exponent zero": {**public_jwk(RSA), "e": "AA"},
    "exponent one": {**public_jwk(RSA), "e": "AQ"},
    "exponent even": {**public_jwk(RSA), "e": "Ag"},
    "curve unknown": {**public_jwk(KINDS["P-256"][0]), "crv": "P-257"},
    "curve missing": {"kty": "EC", "x": b64(b"x" * 32), "y": b64(b"y" * 32)},
    "curve secp256k1": public_jwk(ec.generate_private_key(ec.SECP256K1())),
    "point off the curve": {"kty": "EC", "crv": "P-256", "x": b64(b"x" * 32), "y": b64(b"y" * 32)},
    "point too short": {**public_jwk(KINDS["P-256"][0]), "x": b64(b"x")},
    "Ed25519 too short": {"kty": "OKP", "crv": "Ed25519", "x": b64(b"x" * 31)},
    "X25519, which signs nothing": {"kty": "OKP", "crv": "X25519", "x": b64(b"x" * 32)},
}


@pytest.mark.parametrize("jwk", UNUSABLE_JWKS.values(), ids=UNUSABLE_JWKS.keys())
def test_a_jwk_that_must_not_verify_tokens_is_refused(jwk: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        VerificationKey.from_jwk(jwk)


async def test_the_algorithm_of_a_jwk_is_the_only_one() -> None:
    key = VerificationKey.from_jwk(public_jwk(RSA, alg="PS256", kid="k", key_ops=["verify"]))
    for algorithm, accepted in (("PS256", True), ("RS256", False), ("PS384", False)):
        token = jwt.encode({"sub": "a"}, RSA, algorithm=algorithm, headers={"kid": "k"})
        if accepted:
            assert (await verifier(key).connection(token)).user == "a"
        else:
            assert await refusal(verifier(key), token) is RefusalReason.WRONG_ALGORITHM
