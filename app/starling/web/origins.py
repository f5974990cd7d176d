"""Origins of web pages: the grammar of STARLING_ALLOWED_ORIGINS, and which pages may connect."""

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from starling.engine.local_names import is_local_name, without_port

ANY = "*"
GRAMMAR = "write it as SCHEME://HOST, SCHEME://*.HOST, with :PORT or :* at the end where it is not the scheme's own"

# RFC 6454 section 6.2: a browser leaves the port of the scheme out.
_OWN_PORTS = {"http": "80", "https": "443"}
_PARTS = re.compile(r"(?P<scheme>[^:/]*)://(?P<host>\[[^\]]*\]|[^/:]*)(?::(?P<port>[^/]*))?(?P<rest>/?.*)", re.DOTALL)
# Schemes of WebSockets, and those of the pages that open them.
_OF_SOCKETS = {"ws": "http", "wss": "https"}
# IDNA 2003 maps these to other letters, and so to another name than browsers do (UTS #46 section 4.1.2).
_DEVIATING = re.compile("[ßẞς\u200c\u200d]")
# A name whose last label is a number is an address (WHATWG URL, "ends in a number").
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?!$)|$)){4}")
# RFC 1035 section 2.3.4.
_NAME_LENGTH, _LABEL_LENGTH = 253, 63
# Domains under which strangers have names: of one label, of a country, and of the best known hosts of pages.
_SHARED = re.compile(
    r"[^.]*|(?:ac|co|com|edu|gob|gov|gv|ne|net|or|org)\.[a-z]{2}"
    r"|(?:github|gitlab|glitch)\.(?:io|me)|(?:pages|workers|deno)\.dev|(?:vercel|netlify|web|firebase|fly)\.(?:app|dev)"
    r"|(?:herokuapp|azurewebsites|cloudfront|amazonaws|blogspot|appspot|onrender|ngrok|firebaseapp)\.(?:com|net|io)"
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.?")


class _Origin(NamedTuple):
    """An origin, or a pattern of some: its host may begin with `*.`, and its port may be `*`."""

    scheme: str
    host: str
    port: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.port and ':'}{self.port}"


def normal_pattern(pattern: str) -> str:
    """`pattern` as browsers write origins. Raises ValueError for one that no origin, or more than it seems, fits.

    A pattern is `*`, or an origin whose host may begin with `*.` (one label or more in its place) and whose port may be
    `*` (any, or none).
    """
    if pattern == ANY:
        return pattern
    found = _PARTS.fullmatch(pattern)
    if found is None:
        raise ValueError(f"{pattern!r} has no scheme: {GRAMMAR}")
    if found["rest"] not in ("", "/"):
        raise ValueError(f"{pattern!r} has a path or a query, which no Origin has: {GRAMMAR}")
    scheme, port = found["scheme"].lower(), found["port"] or ""
    if not _SCHEME.fullmatch(scheme):
        raise ValueError(f"{pattern!r} has no scheme that browsers send: {GRAMMAR}")
    if port not in ("", "*") and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        raise ValueError(f"{pattern!r} has a port that is no number from 1 to 65535: {GRAMMAR}")
    if scheme in _OF_SOCKETS:
        raise ValueError(f"{pattern!r} is no page's: write {_OF_SOCKETS[scheme]}:// in place of {scheme}://")
    port = port.lstrip("0")
    port = "" if port == _OWN_PORTS.get(scheme) else port
    return str(_Origin(scheme, _normal_host(found["host"], pattern), port))


def _normal_host(host: str, pattern: str) -> str:
    if host.startswith("["):
        try:
            if "%" in host:
                raise ValueError  # noqa: TRY301 - a zone, which browsers take in no address
            return f"[{IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            raise ValueError(f"{pattern!r} has no IPv6 address in its brackets: {GRAMMAR}") from None
    wildcard, bare = ("*.", host[2:]) if host.startswith("*.") else ("", host)
    if not bare.isascii():
        if _DEVIATING.search(bare):
            raise ValueError(f"{pattern!r} is written by browsers in another way: write its host in ASCII, as xn--…")
        try:
            # Browsers send names in ASCII.
            bare = bare.encode("idna").decode()
        except UnicodeError:
            raise ValueError(f"{pattern!r} has no name of a host: {GRAMMAR}") from None
    bare = bare.lower()
    if not _HOST.fullmatch(bare):
        what = "a * that is not the whole first label" if "*" in bare else "no name of a host"
        raise ValueError(f"{pattern!r} has {what}: {GRAMMAR}")
    if _NUMBER.fullmatch(bare.rstrip(".").rpartition(".")[2]) and (wildcard or not _IPV4.fullmatch(bare)):
        raise ValueError(f"{pattern!r} has no IPv4 address as browsers write it, such as 127.0.0.1: {GRAMMAR}")
    if len(bare) > _NAME_LENGTH or any(len(label) > _LABEL_LENGTH for label in bare.split(".")):
        raise ValueError(f"{pattern!r} has a name that is longer than names of hosts are: {GRAMMAR}")
    return wildcard + bare


def surprises(patterns: Sequence[str]) -> list[str]:
    """What may surprise about normal `patterns`: those that pages of strangers fit."""
    warnings = []
    for pattern in patterns:
        host = "" if pattern == ANY else _PARTS.fullmatch(pattern)["host"]  # type: ignore[index]  # a normal pattern fits
        if pattern == ANY:
            warnings.append(f"{pattern} lets pages of every origin connect, with the user's cookies: name the origins")
        elif host.startswith("*.") and _SHARED.fullmatch(host[2:].rstrip(".")):
            warnings.append(f"{pattern} lets pages of every host in {host[2:]} connect: name a domain of your own")
    return warnings


def origin_allowed(origin: str, host: str, allowed: Sequence[str], *, secure: bool = False) -> bool:
    """Whether a page of `origin` may connect: one of the normal patterns `allowed` fits.

    Where there are none, it must be a page of `host`, the request's Host, and come over TLS where the request did, as
    far as is known (`secure`).
    """
    if allowed == (ANY,):
        return True
    found = _PARTS.fullmatch(origin.lower())
    if found is None or found["rest"]:
        return ANY in allowed
    page = _Origin(found["scheme"], found["host"], found["port"] or "")
    if not allowed:
        if secure and page.scheme == "http":
            return False
        own_port = _OWN_PORTS.get(page.scheme)
        host_of_page = page.host if page.port in ("", own_port) else f"{page.host}:{page.port}"
        return bool(host) and host.lower().removesuffix(f":{own_port}") == host_of_page
    return any(_fits(page, pattern) for pattern in allowed)


def developer_origin_allowed(origin: str, host: str) -> bool:
    """Whether a page of `origin` may connect in developer mode, to the request's Host `host`.

    Pages of this machine may, on any port, and those of `host` where that is an address or a name of the local network:
    any other name could be one that the owner of a foreign page lets point here (DNS rebinding).
    """
    found = _PARTS.fullmatch(origin.lower())
    if found is None or found["rest"]:
        return False
    return _is_loopback(found["host"]) or (is_local_name(found["host"]) and origin_allowed(origin, host, ()))


def host_allowed(host: str, allowed: Sequence[str]) -> bool:
    """Whether a request of a page of `host` itself, the request's Host, may be answered in developer mode.

    Browsers send no Origin with such a GET, so the page could be a foreign one whose name points here.
    """
    pages = [f"{scheme}://{host}" for scheme in _OWN_PORTS]
    return is_local_name(without_port(host)) or (bool(allowed) and any(origin_allowed(p, host, allowed) for p in pages))


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _fits(page: _Origin, pattern: str) -> bool:
    if pattern == ANY:
        return True
    wanted = _PARTS.fullmatch(pattern)
    if wanted is None or page.scheme != wanted["scheme"]:
        return False
    if wanted["port"] != "*" and page.port != (wanted["port"] or ""):
        return False
    host: str = wanted["host"]
    if not host.startswith("*."):
        return page.host == host
    return page.host.endswith(host[1:]) and bool(_HOST.fullmatch(page.host[: -len(host) + 1]))
