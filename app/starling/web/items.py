"""`WS /items/{item_id}/ws`: a dependency takes a cookie or a token before the door opens."""

from typing import Annotated

from fastapi import APIRouter, Cookie, Depends, Query, WebSocket, WebSocketException, status

from starling.client.sequential import SequentialConnection
from starling.engine.engine import Engine
from starling.engine.token_facts import TokenFacts
from starling.web.dependencies import CredentialsDependency, WebContextDependency, admit, presented_token, token_of
from starling.web.handoff import hand_off

router = APIRouter(dependencies=[Depends(admit)])

UNSUPPORTED_DATA = 1003


class ItemsConnection(SequentialConnection):
    """Answers each text with who asks, the query parameter where one was given, and the text."""

    __slots__ = ("_asker", "_item_id", "_q")

    kind = "items"

    def __init__(
        self, engine: Engine, user: str, token: TokenFacts | None, asker: str, item_id: str, q: int | None
    ) -> None:
        super().__init__(engine, user, token)
        self._asker = asker
        self._item_id = item_id
        self._q = q

    def receive(self, message: str | bytes) -> None:
        """Answer at once; binary messages have no answer here."""
        if isinstance(message, bytes):
            self.close(UNSUPPORTED_DATA, "this door takes text")
            return
        self.reply_text(f"Session cookie or query token value is: {self._asker}")
        if self._q is not None:
            self.reply_text(f"Query parameter q is: {self._q}")
        self.reply_text(f"Message text was: {message}, for item ID: {self._item_id}")


async def get_cookie_or_token(
    websocket: WebSocket,
    web_context: WebContextDependency,
    credentials: CredentialsDependency,
    session: Annotated[str | None, Cookie()] = None,
    token: Annotated[str | None, Query()] = None,
) -> str:
    """Who asks: the token's user; in developer mode the cookie's or the token's value as it came, the cookie first."""
    if credentials is not None:
        return credentials.user
    if session is not None or token is not None:
        return session or token or ""
    if presented := presented_token(websocket, web_context):
        return presented.token
    web_context.engine.metrics.refuse("no_token")
    raise WebSocketException(code=status.WS_1008_POLICY_VIOLATION)


@router.websocket("/items/{item_id}/ws")
async def items(
    websocket: WebSocket,
    web_context: WebContextDependency,
    item_id: str,
    credentials: CredentialsDependency,
    cookie_or_token: Annotated[str, Depends(get_cookie_or_token)],
    q: int | None = None,
) -> None:
    """The items door."""
    user = credentials.user if credentials else ""
    connection = ItemsConnection(web_context.engine, user, token_of(credentials), cookie_or_token, item_id, q)
    await hand_off(websocket, connection, web_context)
