"""`WS /items/{item_id}/ws`: an endpoint whose dependency requires a cookie or a token before the upgrade."""

from typing import Annotated

from fastapi import APIRouter, Cookie, Depends, Query, WebSocket, WebSocketException, status

from starling.auth.tokens import Credentials
from starling.client.sequential import UNSUPPORTED_DATA, SequentialConnection
from starling.engine.engine import Engine
from starling.engine.receiver import TokenFacts
from starling.web.dependencies import WebContext, token_of, upgrade_of
from starling.web.handoff import hand_off


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
            self.close(UNSUPPORTED_DATA, "this endpoint takes text")
            return
        self.reply_text(f"Session cookie or query token value is: {self._asker}")
        if self._q is not None:
            self.reply_text(f"Query parameter q is: {self._q}")
        self.reply_text(f"Message text was: {message}, for item ID: {self._item_id}")


def build_router(context: WebContext) -> APIRouter:
    """Build the endpoint, as the FastAPI tutorial declares it."""
    router = APIRouter(dependencies=[Depends(context.admit)])

    async def get_cookie_or_token(
        websocket: WebSocket,
        credentials: Annotated[Credentials | None, Depends(context.authenticate)],
        session: Annotated[str | None, Cookie()] = None,
        token: Annotated[str | None, Query()] = None,
    ) -> str:
        """The token's user; in developer mode the value of the cookie or the token as it came, the cookie first."""
        if credentials is not None:
            return credentials.user
        if session is not None or token is not None:
            return session or token or ""
        if presented := context.presented_token(upgrade_of(websocket)):
            return presented.token
        context.engine.metrics.refuse("no_token", path=websocket.scope["path"])
        raise WebSocketException(code=status.WS_1008_POLICY_VIOLATION)

    @router.websocket("/items/{item_id}/ws")
    async def items(
        websocket: WebSocket,
        item_id: str,
        credentials: Annotated[Credentials | None, Depends(context.authenticate)],
        cookie_or_token: Annotated[str, Depends(get_cookie_or_token)],
        q: int | None = None,
    ) -> None:
        """The items endpoint."""
        user = credentials.user if credentials else ""
        connection = ItemsConnection(context.engine, user, token_of(credentials), cookie_or_token, item_id, q)
        await hand_off(websocket, connection, context)

    return router
