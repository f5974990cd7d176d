"""The value of options that name a backend: whether it decides, and where it is."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

# Servers refuse what is much longer (RFC 9110 section 4.1 recommends 8000 at least).
_LONGEST = 8192
# Spaces and control characters, which no address has (RFC 3986 section 2).
_NEVER = re.compile(r"[\x00-\x20\x7f]")


def is_web_address(text: str) -> bool:
    """Whether `text` is an address that HTTP requests can be sent to."""
    if len(text) > _LONGEST or _NEVER.search(text):
        return False
    try:
        parts = urlsplit(text)
        # Names with empty and too long labels, and without a form for DNS, raise UnicodeError, which is a ValueError.
        host = (parts.hostname or "").encode("idna")
        return parts.scheme in {"http", "https"} and bool(host) and parts.port != 0
    except ValueError:
        return False


def _check(value: bool | str) -> bool | str:
    if isinstance(value, str) and not is_web_address(value):
        raise ValueError("write true, or an address like https://backend.example.com/starling/subscribe")
    return value


# False, True for the backend that the settings name, or the address of another.
Proxied = Annotated[bool | str, AfterValidator(_check)]
