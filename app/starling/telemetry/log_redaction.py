"""Redaction of log lines: values and parts of texts that may be secret are replaced."""

import re
from collections.abc import Mapping
from functools import lru_cache

REDACTED = "[redacted]"

SECRET_KEYS = frozenset(
    {
        "access_token",
        "api_key",
        "authorization",
        "cookie",
        "cookies",
        "headers",
        "password",
        "query",
        "query_string",
        "resume",
        "sec_websocket_protocol",
        "secret",
        "session",
        "set_cookie",
        "ticket",
        "token",
    }
)

# Names, numbers and IP addresses, in which no SECRET_TEXT has room.
HARMLESS_TEXT = re.compile(r"[A-Za-z0-9_/-]*|[0-9A-Fa-f.:]*")

# Every SECRET_TEXT has one of these; most texts have none, and are spared the longer search.
SUSPECT_TEXT = re.compile(r"[=?@:,]|bearer", re.IGNORECASE)

SECRET_TEXT = re.compile(
    r"""
    (?: proxy-authorization | authorization | set-cookie | cookie | sec-websocket-protocol | x-api-key )
        ['"]? \s* [:=,] [^\r\n]*                        # a header, as a line or in a printed list
    | \b \w* (?: token | ticket | session | secret | password | api_key ) = [^\s&'",;]*
    | \b bearer [\s.]+ [\w.~+/=-]+
    | (?<=://) [^/\s@'"]+ (?=@)                         # user and password in an address
    | (?<=\?) [^\s'"]+                                  # the query in an address
    """,
    re.IGNORECASE | re.VERBOSE,
)


def redact(values: Mapping[str, object]) -> dict[str, object]:
    """Replace what may be secret: values of SECRET_KEYS, what SECRET_TEXT finds in texts, and bytes by their number."""
    return {
        key: REDACTED
        if _is_secret(key)
        # Most texts are as simple as this, and need no call of their own.
        else value
        if type(value) is str and HARMLESS_TEXT.fullmatch(value)
        else _clean(value)
        for key, value in values.items()
    }


# Keys are words of the code, but for mappings that are logged whole.
@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return key.lower().replace("-", "_") in SECRET_KEYS


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _clean_text(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return redact({str(key): inner for key, inner in value.items()})
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner) for inner in value]
    return _clean_text(str(value))


def _clean_text(text: str) -> str:
    if HARMLESS_TEXT.fullmatch(text):
        return text
    if SUSPECT_TEXT.search(text):
        text = SECRET_TEXT.sub(REDACTED, text)
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
