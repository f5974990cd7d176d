"""The value of options that name a backend: whether it decides, and where it is."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def is_web_address(text: str) -> bool:
    """Whether `text` is an address that HTTP requests can be sent to."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _check(value: bool | str) -> bool | str:
    if isinstance(value, str) and not is_web_address(value):
        raise ValueError("write true, or an address like https://backend.example.com/starling/subscribe")
    return value


# False, True for the backend that the settings name, or the address of another.
Proxied = Annotated[bool | str, AfterValidator(_check)]
