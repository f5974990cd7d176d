"""What every door asks before it opens: is there room, may this page connect, and who is it?"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, WebSocket, WebSocketException, status
from fastapi.requests import HTTPConnection

from app.auth.handshake import PROTOCOL, PresentedToken, find_token
from app.auth.tokens import Credentials, TokenRefused, TokenVerifier
from app.core.node import Node


@dataclass(frozen=True, slots=True)
class Doors:
    """What the doors share. `write_limit` in bytes; `verifier` None lets everyone in (developer mode)."""

    node: Node
    verifier: TokenVerifier | None
    token_in_query: bool
    allowed_origins: Sequence[str]
    write_limit: int


def get_doors(connection: HTTPConnection) -> Doors:
    """The doors' parts, put there by `main`."""
    doors: Doors = connection.app.state.doors
    return doors


DoorsDependency = Annotated[Doors, Depends(get_doors)]


async def admit(websocket: WebSocket, doors: DoorsDependency) -> None:
    """Turn the client away with 503 while this worker drains or is full, with 403 when its page is foreign."""
    if refusal := doors.node.admission.refusal():
        doors.node.metrics.refuse(refusal.reason)
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE, refusal.message, {"Retry-After": str(refusal.retry_after)}
        )
    origin = websocket.headers.get("origin")
    if origin is not None and doors.verifier is not None:
        if not origin_allowed(origin, websocket.headers.get("host", ""), doors.allowed_origins):
            doors.node.metrics.refuse("origin")
            raise HTTPException(
                status.HTTP_403_FORBIDDEN, "pages of this origin may not connect: see STARLING_ALLOWED_ORIGINS"
            )


def origin_allowed(origin: str, host: str, allowed: Sequence[str]) -> bool:
    """Whether a page of `origin` may connect: one of `allowed` (`*` a wildcard), or none set and the page's own host."""
    if not allowed:
        return urlsplit(origin).netloc.lower() == host.lower()
    return any(fnmatchcase(origin.lower(), pattern.lower()) for pattern in allowed)


async def authenticate(websocket: WebSocket, doors: DoorsDependency) -> Credentials | None:
    """Whose connection this is; None in developer mode. No token: 1008, which is 403 before the upgrade. Bad: 401."""
    if doors.verifier is None:
        return None
    presented = presented_token(websocket, doors)
    if presented is None:
        doors.node.metrics.refuse("no_token")
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION, "a token is needed")
    try:
        return await doors.verifier.connection(presented.token)
    except TokenRefused as refused:
        doors.node.metrics.refuse("bad_token")
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED, str(refused), {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        ) from refused


def presented_token(websocket: WebSocket, doors: Doors) -> PresentedToken | None:
    """The token of the handshake and where it stood, if there is one."""
    return find_token(
        websocket.headers,
        websocket.cookies,
        websocket.scope["subprotocols"],
        websocket.query_params if doors.token_in_query else {},
    )


def chosen_subprotocol(websocket: WebSocket) -> str | None:
    """The subprotocol that the upgrade answers: ours where it was offered, and never the one that carries a token."""
    return PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None


CredentialsDependency = Annotated[Credentials | None, Depends(authenticate)]
