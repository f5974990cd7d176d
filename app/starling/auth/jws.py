"""JSON Web Signatures (RFC 7515): the compact serialization, read strictly, and the keys that verify it."""

import binascii
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NoReturn, Self

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm
from msgspec import Struct

from starling.auth.tokens import RefusalReason, TokenRefused

MAX_TOKEN_BYTES = 8192

# More than issuers and their keys: a stranger's headers may push them out, which costs a few microseconds a token.
HEADERS_KEPT = 64

# RFC 8725 section 3.11: tokens made for another purpose, say `refresh+jwt`, carry another type. RFC 9068's access
# tokens are what identity providers issue for services like this one.
_TYPES = frozenset({"jwt", "at+jwt"})

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")

# The module base64 does the same in five calls.
_TO_BASE64 = str.maketrans("-_", "+/")
_PADDING = ("", "", "==", "=")

# What may come last, with 2 and with 3 characters over a multiple of 4: their lower 4 and 2 bits are unused, so 0.
_LAST = {2: "AQgw", 3: "AEIMQUYcgkosw048"}


class CompactToken(Struct, frozen=True):
    """The parts of a token, nothing of it verified yet.

    `algorithm` is what the token claims; it may only select among keys that are pinned to it.
    """

    algorithm: str
    key_id: str | None
    signing_input: bytes
    payload: bytes
    signature: bytes

    def __repr__(self) -> str:
        return f"CompactToken(algorithm={self.algorithm!r}, key_id={self.key_id!r})"


def parse_compact(token: str) -> CompactToken:
    """Take `token` apart. Raises TokenRefused: TOO_LARGE, MALFORMED or WRONG_TYPE.

    Header parameters that point at keys elsewhere (`jku`, `jwk`, `x5u`, `x5c`) are never read.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenRefused(RefusalReason.TOO_LARGE, f"The token is larger than {MAX_TOKEN_BYTES} bytes.")
    segments = token.split(".")
    if len(segments) == 5:
        raise malformed("it is encrypted (JWE), and this service takes signed ones (JWS)")
    if len(segments) != 3 or not segments[0] or not segments[1]:
        raise malformed("a signed token has three parts with dots between")
    algorithm, key_id = _read_header(segments[0])
    payload, signature = _decode(segments[1], "payload"), _decode(segments[2], "signature")
    return CompactToken(algorithm, key_id, f"{segments[0]}.{segments[1]}".encode(), payload, signature)


def looks_like_token(text: str) -> bool:
    """Whether `text` has the form of a signed token, be it good or bad; the sessions of web frameworks have not."""
    try:
        parse_compact(text)
    except TokenRefused as refused:
        return refused.reason is not RefusalReason.MALFORMED
    return True


@lru_cache(HEADERS_KEPT)
def _read_header(segment: str) -> tuple[str, str | None]:
    """Return the algorithm and the key id that a header names. An issuer's headers are all the same."""
    header = parse_strict_object(_decode(segment, "header"), "header")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise malformed("its header names no algorithm (alg)")
    key_id = header.get("kid")
    if key_id is not None and not isinstance(key_id, str):
        raise malformed("the key id (kid) in its header is not a string")
    if "crit" in header or "b64" in header:
        raise malformed("its header asks for extensions (crit, b64), and this service has none")
    _check_type(header.get("typ"))
    return algorithm, key_id


def parse_strict_object(data: bytes, part: str) -> dict[str, Any]:
    """Parse a JSON object in which no member comes twice, at any depth (RFC 8259 leaves it open which would count).

    Raises TokenRefused (MALFORMED), naming `part`.
    """
    if _deepest(data) > _MOST_LEVELS:
        raise malformed(f"its {part} is nested deeper than {_MOST_LEVELS} levels")
    try:
        value = _in_one_way(data) or _STRICT_JSON.decode(data.decode())
    except (ValueError, RecursionError):
        raise malformed(f"its {part} is not a JSON object with each member once") from None
    if not isinstance(value, dict):
        raise malformed(f"its {part} is not a JSON object")
    return value


def _deepest(data: bytes) -> int:
    """The levels of nesting in JSON; an upper bound where that is within the limit."""
    opened = data.count(b"[") + data.count(b"{")
    if opened <= _MOST_LEVELS:
        return opened
    level = deepest = 0
    for bracket in _BRACKET_OR_STRING.findall(data):
        level += (bracket in (b"[", b"{")) - (bracket in (b"]", b"}"))
        deepest = max(deepest, level)
    return deepest


def _in_one_way(data: bytes) -> Any:
    """Parse JSON without spaces, as issuers write it; None for what a parser that keeps one of each does not give back.

    Ten times as fast as asking about each member, for it is all in C.
    """
    try:
        value = msgspec.json.decode(data)
        return value if msgspec.json.encode(value) == data else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def malformed(why: str) -> TokenRefused:
    """Build the refusal of a token that is not a token at all."""
    return TokenRefused(RefusalReason.MALFORMED, f"The token is malformed: {why}.")


def _check_type(kind: Any) -> None:
    if kind is None:
        return
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise TokenRefused(
            RefusalReason.WRONG_TYPE, "The token was made for another purpose: its type (typ) is not JWT or at+jwt."
        )


def _decode(segment: str, part: str) -> bytes:
    left_over = len(segment) % 4
    if left_over == 1 or not _BASE64URL.fullmatch(segment):
        raise malformed(f"its {part} is not base64url without padding")
    # Several texts decode to the same bytes when unused bits are set; only one of them is the token that was issued.
    if left_over and segment[-1] not in _LAST[left_over]:
        raise malformed(f"its {part} is not base64url in its one canonical form")
    return binascii.a2b_base64(segment.translate(_TO_BASE64) + _PADDING[left_over])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member comes twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Levels of JSON that every supported Python parses; their own limits differ.
_MOST_LEVELS = 900

_BRACKET_OR_STRING = re.compile(rb'[\[\]{}]|"(?:[^"\\]|\\.)*"?')

_STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


MIN_SECRET_BYTES = 32

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
        if len(secret.encode()) < MIN_SECRET_BYTES and not allow_weak_secret:
            raise ValueError(
                f"the secret is shorter than {MIN_SECRET_BYTES} bytes and could be guessed: "
                "make one with `openssl rand -base64 48`"
            )
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
