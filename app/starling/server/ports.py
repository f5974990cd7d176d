"""The check, before the workers start, that this process can listen on a port, and the report where it cannot."""

import errno
import socket

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")


def try_to_listen(host: str, port: int) -> None:
    """Listen there for a moment, without SO_REUSEPORT. Raises OSError where it is not possible."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)


def check_port(host: str, port: int, setting: str) -> None:
    """Exit with 1 and one line if the address cannot be bound.

    Workers bind with SO_REUSEPORT, which would succeed while another service of the same user listens, and the two
    would share the clients.
    """
    try:
        try_to_listen(host, port)
    except OSError as error:
        refuse_port(host, port, setting, error)


def refuse_port(host: str, port: int, setting: str, error: OSError) -> None:
    """Report why `port` cannot be bound, with the remedy, and exit."""
    if error.errno == errno.EADDRINUSE:
        hint = f"another process listens there: stop it, or set {setting} to a free port"
    elif error.errno == errno.EACCES:
        hint = f"this user may not listen there: set {setting} to 1024 or more"
    else:
        hint = f"this machine has no such address: set {setting.removesuffix('PORT')}HOST to one of its own"
    log.critical("port_not_available", host=host, port=port, error=error.strerror, hint=hint)
    raise SystemExit(1)
