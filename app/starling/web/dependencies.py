"""What every door asks before it opens: is there room, may this page connect, and who is it?"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

import structlog
from fastapi import Depends, HTTPException, WebSocket, WebSocketException, status
from fastapi.requests import HTTPConnection

from starling.auth.handshake import PresentedToken, find_token
from starling.auth.tokens import Credentials, KeyNotLoaded, RefusalReason, TokenRefused, TokenVerifier
from starling.client.dispatcher import Dispatcher
from starling.engine.engine import Engine
from starling.engine.rejection import Rejection
from starling.engine.token_facts import TokenFacts
from starling.engine.transport import EXTENSION
from starling.web.authority import TokenAuthority
from starling.web.revocation import connection_facts

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.doors")


@dataclass(frozen=True, slots=True)
class WebContext:
    """What the doors share. `developer` lets everyone in; `write_limit` is in bytes."""

    engine: Engine
    verifier: TokenVerifier
    authority: TokenAuthority
    dispatcher: Dispatcher
    developer: bool
    token_in_query: bool
    allowed_origins: Sequence[str]
    write_limit: int


def web_context_of(connection: HTTPConnection) -> WebContext:
    """The doors' parts, put there by `main`."""
    web_context: WebContext = connection.app.state.web_context
    return web_context


async def get_web_context(connection: HTTPConnection) -> WebContext:
    """`web_context_of` as a dependency: a coroutine, because FastAPI runs plain functions in a thread."""
    return web_context_of(connection)


WebContextDependency = Annotated[WebContext, Depends(get_web_context)]


async def admit(websocket: WebSocket, web_context: WebContextDependency) -> None:
    """Turn the client away with 503 where this worker wants no new ones, with 403 when its page is foreign.

    Our own server has asked admission before it came to this.
    """
    if own_socket(websocket) is None and (refusal := web_context.engine.admission.refusal()):
        raise turn_away(web_context, refusal)
    origin = header_of(websocket, b"origin")
    if web_context.developer or origin is None:
        return
    if not origin_allowed(origin, header_of(websocket, b"host") or "", web_context.allowed_origins):
        web_context.engine.metrics.refuse("origin")
        raise HTTPException(
            status.HTTP_403_FORBIDDEN, "pages of this origin may not connect: see STARLING_ALLOWED_ORIGINS"
        )


def header_of(websocket: WebSocket, name: bytes) -> str | None:
    """The first header field of a lower-case `name`, as `websocket.headers` has it, which each client would pay for."""
    for key, value in websocket.scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def own_socket(websocket: WebSocket) -> Any:
    """What our own server offers in the ASGI scope to take the socket over by; None on any other."""
    return (websocket.scope.get("extensions") or {}).get(EXTENSION)


def turn_away(web_context: WebContext, refusal: Rejection) -> HTTPException:
    """Count a client that admission refuses; returns its answer."""
    web_context.engine.metrics.refuse(refusal.reason)
    return HTTPException(
        status.HTTP_503_SERVICE_UNAVAILABLE, refusal.message, {"Retry-After": str(refusal.retry_after)}
    )


def origin_allowed(origin: str, host: str, allowed: Sequence[str]) -> bool:
    """Whether a page of `origin` may connect: it fits one of `allowed` (`*` a wildcard); where none is set, `host`."""
    if not allowed:
        # An Origin ends with its host and port (RFC 6454 section 6.2).
        return host != "" and origin.partition("://")[2].lower() == host.lower()
    # A bracket is one of an IPv6 address.
    return any(fnmatchcase(origin.lower(), pattern.lower().replace("[", "[[]")) for pattern in allowed)


async def authenticate(websocket: WebSocket, web_context: WebContextDependency) -> Credentials | None:
    """Whose connection this is; None in developer mode. No token: 1008, which is 403 before the upgrade. Bad: 401."""
    if web_context.developer:
        return None
    presented = presented_token(websocket, web_context)
    if presented is None:
        web_context.engine.metrics.refuse("no_token")
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION, "a token is needed")
    try:
        return await web_context.verifier.connection(presented.token)
    except KeyNotLoaded as unknown:
        web_context.engine.metrics.refuse("issuer_unavailable")
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE, "the token cannot be checked now; try again", {"Retry-After": "5"}
        ) from unknown
    except TokenRefused as refused:
        web_context.engine.metrics.refuse("invalid_token")
        log.info("token_refused", reason=refused.reason.value, claim=refused.claim, source=presented.source.value)
        detail = "the token has expired" if refused.reason is RefusalReason.EXPIRED else "the token is not valid"
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED, detail, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        ) from refused


def presented_token(websocket: WebSocket, web_context: WebContext) -> PresentedToken | None:
    """The token that the handshake brings, not verified yet."""
    presented = find_token(authorization=header_of(websocket, b"authorization"))
    return presented or find_token(
        subprotocols=websocket.scope["subprotocols"],
        cookie=websocket.cookies.get("session"),
        query=websocket.query_params.get("token") if web_context.token_in_query else None,
        allow_query=web_context.token_in_query,
    )


def token_of(credentials: Credentials | None) -> TokenFacts | None:
    """The token that a connection depends on: it ends when that is revoked."""
    return connection_facts(credentials) if credentials is not None else None


CredentialsDependency = Annotated[Credentials | None, Depends(authenticate)]
