"""`WS /ws/{client_id}`: one room for everyone on every worker."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, WebSocket
from msgspec import Raw

from starling.auth.tokens import Credentials
from starling.client.sequential import SequentialConnection
from starling.engine.broker import BrokerUnavailable, PublicationTooLarge, PublishOptions
from starling.engine.engine import Engine
from starling.engine.token_facts import TokenFacts
from starling.engine.transport import Frame
from starling.protocol.messages import Publication, Push
from starling.web.dependencies import WebContext, token_of
from starling.web.handoff import hand_off

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.chat")

# In the empty namespace, which no client of the real-time protocol can name.
ROOM = ":chat"
UNSUPPORTED_DATA = 1003


class Sentences:
    """Encodes publications as text frames of their data alone."""

    def encode_push(self, push: Push) -> Frame:
        """The sentence itself."""
        return Frame(bytes(push.pub.data) if push.pub else b"", text=True)


class ChatConnection(SequentialConnection):
    """A member of the room: what it writes is said to everyone, itself included, in one order for all."""

    __slots__ = ("_client_id",)

    kind = "chat"
    encoder = Sentences()

    def __init__(self, engine: Engine, user: str, token: TokenFacts | None, client_id: int) -> None:
        super().__init__(engine, user, token)
        self._client_id = client_id

    def describe(self) -> dict[str, object]:
        """The member's number."""
        return {"client_id": self._client_id}

    async def begin(self) -> None:
        """Enter the room; while the broker is away the member waits in it, and hears again when the link returns."""
        try:
            await self.engine.subscriptions.wait_in(self, ROOM)
        except BrokerUnavailable:
            log.warning("chat_waits_for_broker", connection_id=self.id)

    async def receive(self, message: str | bytes) -> None:
        """Say a text to the room."""
        if isinstance(message, bytes):
            self.close(UNSUPPORTED_DATA, "the chat takes text")
            return
        self.reply_text(f"You wrote: {message}")
        try:
            await self._say(f"Client #{self._client_id} says: {message}")
        except BrokerUnavailable:
            self.reply_text("Your message was not delivered: the broker does not answer. Try again in a moment.")
        except PublicationTooLarge as too_large:
            self.reply_text(f"Your message was not delivered: {too_large}")

    async def end(self) -> None:
        """Leave the room, and tell the others."""
        await self.engine.subscriptions.leave(self, ROOM)
        try:
            await self._say(f"Client #{self._client_id} left the chat")
        except BrokerUnavailable:
            log.warning("chat_leave_not_published", connection_id=self.id)

    async def _say(self, sentence: str) -> None:
        await self.engine.publisher.publish(ROOM, Publication(data=Raw(sentence.encode())), PublishOptions())


def build_router(context: WebContext) -> APIRouter:
    """Build the endpoint, as the FastAPI tutorial declares it."""
    router = APIRouter(dependencies=[Depends(context.admit)])

    @router.websocket("/ws/{client_id}")
    async def chat(
        websocket: WebSocket,
        client_id: int,
        credentials: Annotated[Credentials | None, Depends(context.authenticate)],
    ) -> None:
        """The chat endpoint."""
        user = credentials.user if credentials else ""
        connection = ChatConnection(context.engine, user, token_of(credentials), client_id)
        await hand_off(websocket, connection, context)

    return router
