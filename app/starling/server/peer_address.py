"""Addresses of peers in one form: IPv4 peers of a dual-stack socket have IPv4 addresses (RFC 4291 section 2.5.5.2)."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

_MAPPED_PREFIX_BITS = 96
_MAPPED = ip_network("::ffff:0:0/96")


def unmapped(address: str) -> str:
    """Return the IPv4 address of `::ffff:192.0.2.7`; any other text as it is."""
    if address[:7].lower() != "::ffff:":
        return address
    try:
        mapped = getattr(ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return str(mapped) if mapped is not None else address


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
