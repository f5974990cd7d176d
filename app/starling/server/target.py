"""What a request's head says of its destination: the form of its target, and the Host field (RFC 9112 section 3.2)."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starling.server.handshake import Header

# RFC 3986 section 3.2.2: a name, an IPv4 address or an IPv6 address in brackets, and perhaps a port. A comma is what
# joins two fields of one name, so it is not taken for a part of a name.
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?")
ABSOLUTE_FORM = re.compile(rb"(?:https?|wss?)://", re.IGNORECASE)


class BadTarget(Exception):
    """A head that does not say where the request goes; the message says what is wrong."""


def check_host(http_version: str, headers: Sequence[Header]) -> None:
    """Check version and Host field of a request of HTTP/`http_version`. Raises BadTarget (RFC 9112 section 3.2)."""
    if http_version not in {"1.0", "1.1"}:
        raise BadTarget("This is not an HTTP/1.1 request.")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1:
        raise BadTarget("A request has one Host field, not several.")
    if not hosts and http_version != "1.0":
        raise BadTarget("A request of HTTP/1.1 needs a Host field.")
    if hosts and not HOST.fullmatch(hosts[0]):
        raise BadTarget("The Host field is not a host name or an address, perhaps with a port.")


def split_absolute_form(target: bytes) -> tuple[bytes, bytes] | None:
    """Return host and path with query of a target in absolute form; None for a target of another form.

    Raises BadTarget for an address without a usable host, and for one of another scheme.
    """
    if target.startswith(b"/") or target == b"*":
        return None
    if not ABSOLUTE_FORM.match(target):
        raise BadTarget("The request line has no path, and no address that begins with http:// or https://.")
    try:
        parts = urlsplit(target.decode("ascii"))
    except ValueError:
        raise BadTarget("The address in the request line cannot be read.") from None
    host = parts.netloc.encode()
    if not parts.hostname or not HOST.fullmatch(host):
        raise BadTarget("The address in the request line has no usable host.")
    query = f"?{parts.query}" if parts.query else ""
    return host, f"{parts.path or '/'}{query}".encode()


def replace_host(headers: Sequence[Header], host: bytes) -> list[Header]:
    """Return `headers` with `host` as their Host field: that of an absolute form counts (RFC 9112 section 3.2.2)."""
    return [(b"host", host), *(header for header in headers if header[0] != b"host")]


def normal_target(http_version: str, target: bytes, headers: list[Header]) -> bytes:
    """Check the Host field, and return a target in absolute form in the form that endpoints know. Raises BadTarget."""
    check_host(http_version, headers)
    absolute = split_absolute_form(target)
    if absolute is None:
        return target
    host, target = absolute
    headers[:] = replace_host(headers, host)
    return target
