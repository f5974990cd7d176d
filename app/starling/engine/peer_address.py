"""Addresses of peers in one form: IPv4 peers of a dual-stack socket have IPv4 addresses (RFC 4291 section 2.5.5.2)."""

import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starling.engine.upgrade import Header

_MAPPED_PREFIX_BITS = 96
# What a host or a household gets at least (RFC 6177): it has as many addresses there as it likes.
_NETWORK_BITS = 64
# IPv4 hosts as IPv6 hosts see them (RFC 6052).
_TRANSLATED = IPv6Network("64:ff9b::/96")
_REMEMBERED = 4096
_MAPPED = ip_network("::ffff:0:0/96")
# An address of X-Forwarded-For, which may be in brackets, with a port after them.
_FORWARDED = re.compile(r"\[?([0-9A-Fa-f:.]+)(?:\](:[0-9]{1,5})?)?")


def unmapped(address: str) -> str:
    """Return the IPv4 address of `::ffff:192.0.2.7`, however it is written; any other text as it is."""
    if "ffff:" not in address.lower():
        return address
    try:
        mapped = getattr(ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return str(mapped) if mapped is not None else address


@lru_cache(maxsize=_REMEMBERED)
def network_of(address: str) -> str:
    """What limits of an address count: of IPv6 the network of its first 64 bits; any other text as it is.

    Addresses of this link and this machine have their first bits in common, and so have translated ones of IPv4.
    """
    if ":" not in address:
        return address
    try:
        found = IPv6Address(unmapped(address))
    except ValueError:
        return unmapped(address)
    if found.is_link_local or found.is_loopback or found in _TRANSLATED:
        return str(found)
    return str(IPv6Network((int(found), _NETWORK_BITS), strict=False))


def unmapped_forwarded(value: bytes) -> bytes:
    """Return the value of an X-Forwarded-For field with the IPv4 address of each mapped one in its list."""
    if b"ffff:" not in value.lower():
        return value
    return ",".join([_unmapped_item(item) for item in value.decode("latin-1").split(",")]).encode("latin-1")


def unmap_forwarded(headers: list[Header]) -> None:
    """Bring the addresses that proxies report into the form of a peer's address, before they are compared."""
    for index, (name, value) in enumerate(headers):
        if name == b"x-forwarded-for":
            headers[index] = (name, unmapped_forwarded(value))


def _unmapped_item(item: str) -> str:
    found = _FORWARDED.fullmatch(item.strip())
    if found is None:
        return item
    address = unmapped(found[1])
    return item if address == found[1] else item.replace(found[0], f"{address}{found[2] or ''}")


def unmapped_network(text: str) -> str:
    """Return an address or network of mapped addresses as one of IPv4; any other text as it is."""
    if "/" not in text:
        return unmapped(text)
    try:
        network: IPv4Network | IPv6Network = ip_network(text)
    except ValueError:
        return text
    if not isinstance(network, IPv6Network) or not network.subnet_of(_MAPPED):  # type: ignore[arg-type]
        return text
    first = network.network_address.ipv4_mapped
    return f"{first}/{network.prefixlen - _MAPPED_PREFIX_BITS}"


def trusted_networks(proxies: Iterable[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the networks of the option `trusted_proxies`, where `*` is every address and a name is none."""
    networks: list[IPv4Network | IPv6Network] = []
    for proxy in proxies:
        if proxy == "*":
            networks += [ip_network("0.0.0.0/0"), ip_network("::/0")]
        with suppress(ValueError):
            networks.append(ip_network(unmapped_network(proxy), strict=False))
    return tuple(networks)
