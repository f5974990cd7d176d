"""The address of a client whose peer may be a proxy that names it."""

from collections.abc import Iterable

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from starling.server.handshake import Header


def client_address(application: object, peer: tuple[str, int] | None, headers: Iterable[Header]) -> str:
    """The address of `peer`, in the form that `unmapped` returns; of the client that it names where it is trusted.

    `application` is what uvicorn runs: its middleware knows the trusted proxies.
    """
    address = peer[0] if peer else ""
    # What uvicorn does for an ASGI application.
    if isinstance(application, ProxyHeadersMiddleware) and address in application.trusted_hosts:
        named = b", ".join([value for name, value in headers if name == b"x-forwarded-for"])
        if named:
            return application.trusted_hosts.get_trusted_client_address(named.decode("latin-1"))[0]
    return address
