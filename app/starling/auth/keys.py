"""The keys that verify tokens: secrets, public keys in PEM form and members of a key set, each pinned to algorithms."""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm

from starling.auth.options import SECRET_TOO_SHORT, SHORTEST_SECRET_BYTES

MIN_RSA_BITS = 2048

MAX_RSA_BITS = 8192

_DIGESTS: Mapping[str, str] = MappingProxyType({"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"})

_HMAC = frozenset(_DIGESTS)

_RSA = frozenset({"RS256", "RS384", "RS512"})

_RSA_PSS = frozenset({"PS256", "PS384", "PS512"})

_CURVES: Mapping[str, str] = MappingProxyType({"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"})

_EDDSA = "EdDSA"

PUBLIC_KEY_ALGORITHMS = _RSA | _RSA_PSS | frozenset(_CURVES.values()) | {_EDDSA}

_ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {name: jwt.get_algorithm_by_name(name) for name in sorted(_HMAC | PUBLIC_KEY_ALGORITHMS)}
)

_JWK_MEMBERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
)

_JWK_READER: Mapping[str, str] = MappingProxyType({"RSA": "RS256", "EC": "ES256", "OKP": _EDDSA})

_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)


class Secret:
    """An HMAC secret that has been taken in once for all tokens; PyJWT and `hmac.digest` do so for each.

    `hmac.digest` also lets other threads run meanwhile, which takes longer than the digest.
    """

    __slots__ = ("_keyed",)

    def __init__(self, secret: bytes) -> None:
        self._keyed = {algorithm: hmac.new(secret, digestmod=digest) for algorithm, digest in _DIGESTS.items()}

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether `signature` was made with this secret; the comparison takes constant time."""
        keyed = self._keyed[algorithm].copy()
        keyed.update(signing_input)
        return hmac.compare_digest(keyed.digest(), signature)


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One key: a token is checked with it only if it names one of `algorithms`, and `key_id` if it names a key at all.

    A secret takes HS256, HS384 and HS512, an RSA key RS256, RS384 and RS512, a key on a curve the one algorithm of
    its curve. Naming an algorithm narrows a key to that one.
    """

    algorithms: frozenset[str]
    material: Any = field(repr=False)
    key_id: str | None = None

    @classmethod
    def from_secret(
        cls, secret: str, *, algorithm: str | None = None, key_id: str | None = None, allow_weak_secret: bool = False
    ) -> Self:
        """Take an HMAC secret; `allow_weak_secret` lets one under 32 bytes pass (developer mode).

        Raises ValueError, with the remedy, for a secret that could be guessed or is a public key.
        """
        if not secret:
            raise ValueError("the secret is empty: make one with `openssl rand -base64 48`")
        if len(secret.encode()) < SHORTEST_SECRET_BYTES and not allow_weak_secret:
            raise ValueError(f"the secret {SECRET_TOO_SHORT}")
        algorithms = _narrowed(_HMAC, algorithm, "a secret")
        try:
            material = _ALGORITHMS["HS256"].prepare_key(secret)
        except jwt.InvalidKeyError:
            # Everyone who can read a public key could sign with it if it were used as a secret.
            raise ValueError("the secret is a public key, a certificate or a JWK: give it as a public key") from None
        return cls(algorithms, Secret(material), key_id)

    @classmethod
    def from_pem(cls, pem: str, *, algorithm: str | None = None, key_id: str | None = None) -> tuple[Self, ...]:
        r"""Take one or more public keys in PEM form, one after another; `\n` may stand for a line's end.

        Raises ValueError, with the remedy, for anything that is not a public key of a known kind and strength.
        """
        blocks = list(_PEM_BLOCK.finditer(pem.replace("\\n", "\n")))
        if not blocks:
            raise ValueError("no public key found: it must be PEM text that starts with -----BEGIN PUBLIC KEY-----")
        return tuple(cls._from_block(block[0], block[1], algorithm, key_id) for block in blocks)

    @classmethod
    def _from_block(cls, pem: str, label: str, algorithm: str | None, key_id: str | None) -> Self:
        if "PRIVATE KEY" in label:
            raise ValueError(
                "this is a private key, which belongs to the issuer alone: "
                "give its public half, made with `openssl pkey -in KEY -pubout`"
            )
        if label == "CERTIFICATE":
            raise ValueError(
                "this is a certificate: give its public key, made with `openssl x509 -in CERTIFICATE -pubkey -noout`"
            )
        try:
            material = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(
                "the PEM text cannot be read as a public key: `openssl pkey -pubin -in KEY -text` shows what is wrong"
            ) from None
        return cls(_pinned(material, algorithm), material, key_id)

    @classmethod
    def from_jwk(cls, jwk: Any) -> Self:
        """Take one member of a JSON Web Key Set (RFC 7517, RFC 7518 section 6, RFC 8037).

        Raises ValueError, saying why, for one that must not verify tokens: an `oct` secret, a private key, one whose
        `use`, `key_ops` or `alg` is for something else, a weak one, a broken one.
        """
        if not isinstance(jwk, dict):
            raise ValueError("it is not a JSON object")  # noqa: TRY004 - wrong data, like every other case here
        kind = jwk.get("kty")
        if not isinstance(kind, str) or kind not in _JWK_MEMBERS:
            raise ValueError("its kty is not RSA, EC or OKP")
        if "d" in jwk:
            raise ValueError("it is a private key")
        if jwk.get("use", "sig") != "sig":
            raise ValueError("its use is not sig")
        operations = jwk.get("key_ops", ["verify"])
        if not isinstance(operations, list) or "verify" not in operations:
            raise ValueError("its key_ops do not hold verify")
        key_id, algorithm = jwk.get("kid"), jwk.get("alg")
        if not isinstance(key_id, str | None) or not isinstance(algorithm, str | None):
            raise ValueError("its kid or alg is not a string")  # noqa: TRY004 - wrong data
        members = {name: jwk.get(name) for name in _JWK_MEMBERS[kind]}
        if not all(isinstance(value, str) and value.isascii() for value in members.values()):
            raise ValueError(f"one of its members {', '.join(members)} is missing or no base64url text")
        try:
            material = _ALGORITHMS[_JWK_READER[kind]].from_jwk({"kty": kind, **members})
        except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError(f"its members {', '.join(members)} do not make a key") from None
        return cls(_pinned(material, algorithm), material, key_id)

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether `signature` over `signing_input` was made for this key with `algorithm`, one of its own."""
        if algorithm not in self.algorithms:
            return False
        if isinstance(self.material, Secret):
            return self.material.verifies(algorithm, signing_input, signature)
        return _ALGORITHMS[algorithm].verify(signing_input, self.material, signature)


def _algorithms_of(material: Any) -> tuple[frozenset[str], str]:
    """Return the algorithms a public key is fit for, and what to call the key."""
    if isinstance(material, RSAPublicKey):
        if not MIN_RSA_BITS <= material.key_size <= MAX_RSA_BITS:
            raise ValueError(
                f"an RSA key of {material.key_size} bits: it must have {MIN_RSA_BITS} to {MAX_RSA_BITS}, 3072 is usual"
            )
        return _RSA | _RSA_PSS, "an RSA key"
    if isinstance(material, EllipticCurvePublicKey):
        name = material.curve.name
        if name not in _CURVES:
            raise ValueError(f"a key on the curve {name}: the curves for tokens are {', '.join(_CURVES)}")
        return frozenset({_CURVES[name]}), f"a key on {name}"
    if isinstance(material, Ed25519PublicKey | Ed448PublicKey):
        return frozenset({_EDDSA}), "an Ed25519 or Ed448 key"
    raise ValueError("a key of another kind: tokens are checked with RSA, ECDSA or Ed25519 keys")


def _pinned(material: Any, algorithm: str | None) -> frozenset[str]:
    fit, key = _algorithms_of(material)
    return _narrowed(fit, algorithm, key)


def _narrowed(fit: frozenset[str], algorithm: str | None, key: str) -> frozenset[str]:
    if algorithm is None:
        return fit - _RSA_PSS
    if algorithm not in fit:
        raise ValueError(f"{key} does not go with that algorithm: {', '.join(sorted(fit))} would")
    return frozenset({algorithm})
