"""Signed tokens in their compact form (JSON Web Signatures, RFC 7515), read strictly; nothing is verified here."""

import binascii
import json
import re
from functools import lru_cache
from typing import Any, NoReturn

import msgspec
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

# Levels of JSON that every supported Python parses; their own limits differ.
_MOST_LEVELS = 900

_BRACKET_OR_STRING = re.compile(rb'[\[\]{}]|"(?:[^"\\]|\\.)*"?')


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


_STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
