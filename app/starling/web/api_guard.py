"""Who may use the server API: which addresses, with which keys, and from which pages."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from typing import Any

from starling.engine.peer_address import trusted_networks
from starling.engine.upgrade import Upgrade
from starling.protocol import codes
from starling.protocol.codes import Error
from starling.variables import DEVELOPER_KEY
from starling.web.options import ApiOptions

_DEVELOPER_KEY = DEVELOPER_KEY.encode()


class ApiGuard:
    """Checks a request before its body is read."""

    def __init__(self, options: ApiOptions, allows_origin: Callable[[Upgrade], bool]) -> None:
        """`allows_origin`: whether a request comes from no page, or from one that may connect."""
        self._keys = [key.encode() for key in options.accepted_keys]
        self._networks = [ip_network(network) for network in options.api_allowed_networks]
        self._proxies = trusted_networks(options.trusted_proxies)
        self._allows_origin = allows_origin

    def replace_keys(self, keys: Sequence[str]) -> None:
        """Let these keys open the API from now on."""
        self._keys = [key.encode() for key in keys]

    def has_key(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request, also one to another endpoint, brings a key, from a network and a page that may use it."""
        return self.refusal(scope) is None

    def refusal(self, scope: Mapping[str, Any]) -> tuple[HTTPStatus, Error] | None:
        """How a request is answered that may not use the API; None for one that may."""
        if self._networks and not self._in_networks(scope):
            return HTTPStatus.FORBIDDEN, Error(
                codes.ERROR_PERMISSION_DENIED.code,
                "permission denied: this address may not use the API, or is a trusted proxy that named no client: "
                "see STARLING_API_ALLOWED_NETWORKS and STARLING_TRUSTED_PROXIES",
            )
        number = self.key_number(scope)
        if not number:
            return HTTPStatus.UNAUTHORIZED, Error(
                codes.ERROR_UNAUTHORIZED.code,
                "unauthorized: send one of STARLING_API_KEYS in the header X-API-Key"
                if self._keys
                else "unauthorized: no key opens this API until STARLING_API_KEYS holds one",
            )
        # Everybody knows that key, and so do the pages that a developer visits.
        is_page = self._keys[number - 1] == _DEVELOPER_KEY and header_of(scope, b"origin")
        if is_page and not self._allows_origin(Upgrade(b"", scope["headers"], (), "", "")):
            return HTTPStatus.FORBIDDEN, Error(
                codes.ERROR_PERMISSION_DENIED.code,
                "permission denied: pages of this origin may not use the key of developer mode: "
                "see STARLING_ALLOWED_ORIGINS",
            )
        return None

    def _in_networks(self, scope: Mapping[str, Any]) -> bool:
        try:
            address = ip_address(scope["client"][0])
        except (TypeError, ValueError):
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        if not any(address in network for network in self._networks):
            return False
        # From a proxy without a client's name anybody may come, with an address that is allowed.
        nameless = not address.is_loopback and not header_of(scope, b"x-forwarded-for")
        return not (nameless and any(address in proxy for proxy in self._proxies))

    def key_number(self, scope: Mapping[str, Any]) -> int:
        """Which of the keys opens it, counted from 1; 0: none does."""
        given = b""
        for header, value in scope["headers"]:
            if header == b"x-api-key":
                given = value
                break
            if header == b"authorization" and value[:7].lower() == b"apikey ":
                given = value[7:].strip()
        # Every key is compared, so that the time reveals nothing.
        fits = [hmac.compare_digest(given, key) for key in self._keys]
        return fits.index(True) + 1 if any(fits) else 0


def header_of(scope: Mapping[str, Any], name: bytes) -> str:
    """A header's values, joined as RFC 9110 section 5.3 has it."""
    return ",".join(value.decode("latin-1") for header, value in scope["headers"] if header == name)
