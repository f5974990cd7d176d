"""Names of hosts that mean nothing to the public DNS, so that no page of a stranger can be called by one of them."""

from ipaddress import ip_address

# RFC 6761 section 6.3, RFC 6762 section 3, and what ICANN has reserved for private use.
_ENDINGS = (".localhost", ".local", ".internal")


def is_local_name(host: str) -> bool:
    """Whether `host`, in lower case and without a port, is an address, or a name of this machine or its network.

    The owner of any other name can let it point here, and a page of that name then has this service for its own host
    (DNS rebinding).
    """
    if "." not in host or host.endswith(_ENDINGS):
        return True
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def without_port(host: str) -> str:
    """The name or address of a Host field, in lower case; an IPv6 address keeps its brackets."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and not port.endswith("]") else host.lower()
