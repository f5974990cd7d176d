"""Where a token may come from in the request that opens a WebSocket, and in which order."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

from starling.auth.tickets import TICKET_MARK, is_ticket

SUBPROTOCOL = "starling.v1"
_BEARER_SUBPROTOCOL = "bearer."
# A browser keeps the first for the very host that set it, over TLS.
_COOKIES = ("__Host-session", "session")


class TokenSource(StrEnum):
    """The place a token came from: a bounded set, fit for a log line or a metric's label."""

    HEADER = "header"
    SUBPROTOCOL = "subprotocol"
    COOKIE = "cookie"
    TICKET = "ticket"
    QUERY = "query"


class PresentedToken(Struct, frozen=True):
    """A token as a client presented it, not verified yet. Its `repr` does not show it."""

    token: str
    source: TokenSource

    def __repr__(self) -> str:
        return f"PresentedToken(source={self.source.value!r})"


def find_token(
    *,
    authorization: str | None = None,
    subprotocols: Sequence[str] = (),
    cookie: str | None = None,
    ticket: str | None = None,
    query: str | None = None,
    allow_query: bool = False,
) -> PresentedToken | None:
    """Return the token of a handshake, or None; the first of these that is present counts.

    1. `authorization`: the header `Authorization: Bearer TOKEN` (RFC 6750 section 2.1); other schemes are passed over.
    2. `subprotocols`: the entries of `Sec-WebSocket-Protocol`, one of them `bearer.TOKEN`, for browsers.
    3. `ticket`: the query parameter `ticket`; what is no ticket by its form is one that nobody can have.
    4. `cookie`: see `session_cookie`. The caller must have checked the Origin, or any page could use it.
    5. `query`: the query parameter `token`, only if `allow_query` is set, because proxies log query strings.
    """
    for token, source in (
        (_bearer(authorization), TokenSource.HEADER),
        (_from_subprotocols(subprotocols), TokenSource.SUBPROTOCOL),
        (_ticket(ticket), TokenSource.TICKET),
        (cookie, TokenSource.COOKIE),
        (query if allow_query else None, TokenSource.QUERY),
    ):
        if token:
            return PresentedToken(token, source)
    return None


def session_cookie(headers: Iterable[str]) -> str | None:
    """Return the cookie `__Host-session`, or `session` where there is none, of all header fields `Cookie`.

    Pages of a sibling domain can add a `session` of their own, which comes before or after the real one (RFC 6265
    section 8.6). Nothing says which is which, so different ones are returned together: no verifier takes that.
    """
    found: dict[str, dict[str, None]] = {}
    for header in headers:
        for pair in header.split(";"):
            name, separator, value = pair.strip().partition("=")
            if separator and name.strip() in _COOKIES:
                found.setdefault(name.strip(), {})[value.strip().removeprefix('"').removesuffix('"')] = None
    return next((", ".join(found[name]) for name in _COOKIES if name in found), None)


def select_subprotocol(offered: Sequence[str]) -> str | None:
    """Return what the server echoes of the subprotocols `offered`: `starling.v1` or nothing, never the token."""
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def _bearer(authorization: str | None) -> str | None:
    scheme, _, credentials = (authorization or "").strip().partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


def _ticket(value: str | None) -> str | None:
    """A ticket of the query. A token must not come this way, where STARLING_TOKEN_IN_QUERY may forbid it."""
    if not value:
        return None
    return value if is_ticket(value) else TICKET_MARK


def _from_subprotocols(subprotocols: Sequence[str]) -> str | None:
    for entry in subprotocols:
        if entry.startswith(_BEARER_SUBPROTOCOL):
            return entry.removeprefix(_BEARER_SUBPROTOCOL)
    return None
