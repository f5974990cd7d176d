"""The checks of every WebSocket endpoint before the upgrade: capacity, the origin of the page, and the token."""

from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException, WebSocket, WebSocketException, status

from starling.auth.handshake import PresentedToken, TokenSource, find_token, session_cookie
from starling.auth.jws import looks_like_token
from starling.auth.tickets import is_ticket
from starling.auth.tokens import Credentials, KeyNotLoaded, RefusalReason, TokenRefused, TokenVerifier
from starling.client.authority import Handshake, PendingToken
from starling.client.dispatcher import Dispatcher
from starling.engine.engine import Engine
from starling.engine.hook_request import Request
from starling.engine.hooks import Hooks
from starling.engine.receiver import TokenFacts
from starling.engine.transport import EXTENSION
from starling.engine.upgrade import Rejection, Upgrade
from starling.protocol.codes import CommandRefused
from starling.web.asgi_stream import AsgiStreams
from starling.web.authority import TokenAuthority
from starling.web.options import ContextOptions
from starling.web.origins import ANY, developer_origin_allowed, host_allowed, origin_allowed

FAILED_TOO_OFTEN = "too many connects of this address have failed: see STARLING_FAILED_CONNECTS_PER_MINUTE"
FOREIGN_ORIGIN = "pages of this origin may not connect: see STARLING_ALLOWED_ORIGINS"


@dataclass(frozen=True, slots=True, eq=False)
class WebContext:
    """What the endpoints share; `admit` and `authenticate` are their FastAPI dependencies.

    In developer mode clients need no token.
    """

    engine: Engine
    verifier: TokenVerifier
    authority: TokenAuthority
    dispatcher: Dispatcher
    options: ContextOptions
    asgi_streams: AsgiStreams = field(default_factory=AsgiStreams)
    """The streams that are open over plain ASGI."""

    async def admit(self, websocket: WebSocket) -> None:
        """Reject the client with 503 where this worker wants no new ones, with 403 where its page is foreign.

        Our own server has asked admission before the endpoint is called.
        """
        if own_socket(websocket) is None and (rejection := self.engine.admission.refusal()):
            raise self.reject(rejection)
        upgrade = upgrade_of(websocket)
        if self.failed_too_often(upgrade):
            raise HTTPException(status.HTTP_429_TOO_MANY_REQUESTS, FAILED_TOO_OFTEN, {"Retry-After": "60"})
        if self.is_foreign(upgrade):
            raise HTTPException(status.HTTP_403_FORBIDDEN, FOREIGN_ORIGIN)

    def reject(self, rejection: Rejection) -> HTTPException:
        """Count a client that admission rejects; return its answer."""
        self.engine.metrics.refuse(rejection.reason)
        return HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE, rejection.message, {"Retry-After": str(rejection.retry_after)}
        )

    def failed_too_often(self, upgrade: Upgrade) -> bool:
        """Whether an address has tried too many connects that failed; then the client is counted."""
        if not self.engine.admission.clients.failed_connects.exhausted(upgrade.address):
            return False
        self.engine.metrics.refuse("failed_connects")
        return True

    def allows_origin(self, request: Upgrade) -> bool:
        """Whether the client is no page, or one of an origin that may connect."""
        origin, host = request.header(b"origin"), request.header(b"host") or ""
        if origin is None:
            # With an upgrade every browser sends one.
            is_upgrade = request.header(b"sec-websocket-key") is not None
            return is_upgrade or not self.options.dev or host_allowed(host, self.options.allowed_origins)
        # A browser sends one (RFC 6454 section 7.3). Of several, somebody else's may be the page's.
        if len([name for name, _ in request.headers if name == b"origin"]) > 1:
            return False
        if self.options.dev and developer_origin_allowed(origin, host):
            return True
        # Only a proxy says so. Pages of browsers cannot, or only to their own disadvantage.
        secure = request.header(b"x-forwarded-proto") in ("https", "wss")
        return bool(self.options.allowed_origins or not self.options.dev) and origin_allowed(
            origin, host, self.options.allowed_origins, secure=secure
        )

    def is_foreign(self, upgrade: Upgrade) -> bool:
        """Whether the client is a page of an origin that may not connect; then it is counted."""
        if self.allows_origin(upgrade):
            return False
        origin, host = upgrade.header(b"origin") or "", upgrade.header(b"host") or ""
        remedy = f"add {origin or f'http://{host}'} to STARLING_ALLOWED_ORIGINS"
        if origin and "://" not in origin:
            remedy = "serve the page over HTTP: pages of files and sandboxes have no origin that can be allowed"
        self.engine.metrics.refuse("origin", origin=origin, host=host, path=upgrade.path, remedy=remedy)
        return True

    async def authenticate(self, websocket: WebSocket) -> Credentials | None:
        """Whose connection this is; None in developer mode.

        No token is 1008, which is 403 before the upgrade; one that is refused is 401, one that cannot be judged 503.
        """
        if self.options.dev:
            return None
        presented = self.presented_token(upgrade_of(websocket))
        if presented is None:
            self.engine.metrics.refuse("no_token", path=websocket.scope["path"])
            raise WebSocketException(status.WS_1008_POLICY_VIOLATION, "a token is needed")
        address = websocket.client.host if websocket.client else ""
        try:
            credentials = await self.verifier.connection(presented.token)
        except KeyNotLoaded as unknown:
            self.engine.metrics.refuse("issuer_unavailable", path=websocket.scope["path"])
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE, "the token cannot be checked now; try again", {"Retry-After": "5"}
            ) from unknown
        except TokenRefused as refused:
            self.engine.admission.clients.failed_connects.spend(address)
            self.engine.metrics.refused["invalid_token"] += 1
            self.engine.metrics.refusal_log.write_as(
                "token_refused",
                "invalid_token",
                reason=refused.reason.value,
                claim=refused.claim,
                source=presented.source.value,
                path=websocket.scope["path"],
            )
            detail = "the token has expired" if refused.reason is RefusalReason.EXPIRED else "the token is not valid"
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED, detail, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            ) from refused
        if self.engine.admission.clients.connections.full(credentials.user, address):
            self.engine.metrics.refuse("user_connections")
            raise HTTPException(
                status.HTTP_429_TOO_MANY_REQUESTS, "this user has too many connections", {"Retry-After": "30"}
            )
        return credentials

    def request_for_hooks(self, upgrade: Upgrade, *, cookies: bool = True) -> Request:
        """The handshake as hooks see it, its Origin checked already. `cookies`: these may count."""
        return Request(
            upgrade.headers,
            address=upgrade.address,
            path=upgrade.path,
            query=str(upgrade.query, "latin-1"),
            cookies_checked=cookies and self.cookies_checked,
        )

    def handshake(self, upgrade: Upgrade, *, cookie: bool = True) -> Handshake:
        """The identity in the handshake's token, or why that is refused, or the token where keys must be fetched.

        `cookie`: the token of a cookie counts.
        """
        presented = self.presented_token(upgrade, cookie=cookie)
        if presented is None or (self.engine.hooks.authenticates and _is_for_hook(presented)):
            return None
        try:
            return self.authority.identify_token_now(presented.token) or PendingToken(presented.token)
        except CommandRefused as refusal:
            return refusal

    @property
    def cookies_checked(self) -> bool:
        """Whether no stranger's page can have sent a cookie: pages are named, or in developer mode of this machine."""
        return ANY not in self.options.allowed_origins and (bool(self.options.allowed_origins) or self.options.dev)

    def takes_cookie(self, request: Upgrade) -> bool:
        """Whether the cookie of an HTTP request is a credential.

        Other than a WebSocket, a request of a page need not have an Origin, as that of an image has none; browsers then
        say where it came from (W3C Fetch Metadata).
        """
        if not self.cookies_checked:
            return False
        return bool(request.header(b"origin")) or request.header(b"sec-fetch-site") in (None, "same-origin", "none")

    def presented_token(self, upgrade: Upgrade, *, cookie: bool = True) -> PresentedToken | None:
        """The token that a handshake brings, not verified yet. `cookie`: that of its cookie counts."""
        presented = find_token(authorization=upgrade.header(b"authorization"), subprotocols=upgrade.subprotocols)
        if presented is not None:
            return presented
        if not upgrade.query:
            return find_token(cookie=_session_cookie(upgrade) if cookie else None)
        return find_token(
            ticket=upgrade.parameter(b"ticket"),
            cookie=_session_cookie(upgrade) if cookie else None,
            query=upgrade.parameter(b"token") if self.options.token_in_query else None,
            allow_query=self.options.token_in_query,
        )


def _is_for_hook(presented: PresentedToken) -> bool:
    """Whether it is no token by its form, but perhaps the application's own session or key."""
    own = presented.source in (TokenSource.COOKIE, TokenSource.HEADER)
    return own and not is_ticket(presented.token) and not looks_like_token(presented.token)


def upgrade_of(websocket: WebSocket) -> Upgrade:
    """The handshake in an ASGI scope."""
    scope = websocket.scope
    address = websocket.client.host if websocket.client else ""
    return Upgrade(
        query=scope["query_string"],
        headers=scope["headers"],
        subprotocols=scope["subprotocols"],
        address=address,
        path=scope["path"],
    )


def own_socket(websocket: WebSocket) -> Any:
    """What our own server offers in the ASGI scope to take the socket over by; None on any other."""
    return (websocket.scope.get("extensions") or {}).get(EXTENSION)


def _session_cookie(upgrade: Upgrade) -> str | None:
    return session_cookie(str(value, "latin-1") for name, value in upgrade.headers if name == b"cookie")


def token_of(credentials: Credentials | None) -> TokenFacts | None:
    """The token that a connection depends on: it ends when that is revoked."""
    return credentials.token if credentials is not None else None


def keeps_requests(hooks: Hooks) -> bool:
    """Whether a hook may want to see what a connection was opened with."""
    return bool(hooks.sees_clients or hooks.authenticates or hooks.keeps_headers or hooks.keeps_client_headers)
