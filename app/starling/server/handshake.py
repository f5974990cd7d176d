"""The opening handshake of a WebSocket, from headers that were parsed once (RFC 6455 section 4.2)."""

import binascii
import hashlib
from collections.abc import Iterable, Sequence
from http import HTTPStatus

Header = tuple[bytes, bytes]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT = (b"Content-Type", b"text/plain; charset=utf-8")


class BadHandshake(Exception):
    """What was asked is no WebSocket handshake; the message says what is missing."""


class WrongVersion(BadHandshake):
    """The client speaks another version of the WebSocket protocol."""


def check_handshake(method: bytes, target: bytes, http_version: str, headers: Sequence[Header]) -> bytes:
    """Return the client's key. Raises BadHandshake, WrongVersion where nothing else is wrong.

    `headers` have lower-case names; httptools saw the upgrade.
    """
    if not target.isascii():
        raise BadHandshake("The address of a request is ASCII: escape other characters (RFC 3986 section 2.1).")
    if method != b"GET" or http_version != "1.1":
        raise BadHandshake("A WebSocket handshake is a GET request of HTTP/1.1.")
    keys, versions, has_body = [], [], False
    for name, value in headers:
        if name == b"sec-websocket-key":
            keys.append(value)
        elif name == b"sec-websocket-version":
            versions.append(value)
        elif name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            has_body = True
    if len(keys) != 1 or not _is_key(keys[0]):
        raise BadHandshake("A WebSocket handshake needs one Sec-WebSocket-Key of 16 bytes in base64.")
    if has_body:
        raise BadHandshake("A WebSocket handshake has no body.")
    if versions != [b"13"]:
        raise WrongVersion("A WebSocket handshake needs Sec-WebSocket-Version: 13.")
    return keys[0]


def _is_key(value: bytes) -> bool:
    try:
        return len(value) == 24 and len(binascii.a2b_base64(value, strict_mode=True)) == 16
    except binascii.Error:
        return False


def subprotocols_of(headers: Iterable[Header]) -> list[str]:
    """Return the subprotocols that a client offers, in its order."""
    return [
        token.strip()
        for name, value in headers
        if name == b"sec-websocket-protocol"
        for token in value.decode("latin-1").split(",")
    ]


def accept_response(key: bytes, subprotocol: str | None, headers: Iterable[Header]) -> bytes:
    """Return the bytes that accept the handshake."""
    # SHA-1 as the protocol has it; it keeps nothing safe there.
    accept = binascii.b2a_base64(hashlib.sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    chosen = [(b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1"))] if subprotocol else []
    return b"%b%b\r\n%b\r\n" % (head, accept, _lines([*chosen, *headers]))


def refuse_response(status: int, headers: Iterable[Header], body: bytes = b"") -> bytes:
    """Return the bytes that refuse the handshake, after which the connection ends."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    if b"content-type" not in names:
        given.append(_TEXT)
    if b"content-length" not in names:
        given.append((b"Content-Length", b"%d" % len(body)))
    if b"connection" not in names:
        given.append((b"Connection", b"close"))
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, phrase.encode(), _lines(given), body)


def _lines(headers: Iterable[Header]) -> bytes:
    lines = [b"%b: %b" % header for header in headers]
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise ValueError("a header holds a line end")
    return b"".join([line + b"\r\n" for line in lines])
