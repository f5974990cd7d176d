"""`WS /ws/{client_id}`: one room for everyone on every worker."""

from contextlib import suppress
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, WebSocket
from msgspec import Raw

from starling.auth.tokens import Credentials
from starling.client.sequential import POLICY, UNSUPPORTED_DATA, SequentialConnection
from starling.engine.broker import BrokerUnavailable, PublicationTooLarge, PublishOptions
from starling.engine.channels import ChannelOptions
from starling.engine.engine import Engine
from starling.engine.receiver import TokenFacts
from starling.protocol.messages import ClientInfo, Frame, Publication, Push
from starling.web.dependencies import WebContext, token_of
from starling.web.handoff import hand_off

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.chat")

# In the empty namespace, which no client of the real-time protocol can name.
ROOM = ":chat"
# Behind ROOM, the connections that speak under one id, where all processes see them.
SPEAKERS = ChannelOptions(presence=True)


class Sentences:
    """Encodes publications as text frames of their data alone."""

    def encode_push(self, push: Push) -> Frame:
        """The sentence itself."""
        return Frame(bytes(push.pub.data) if push.pub else b"", text=True)


class ChatConnection(SequentialConnection):
    """A member of the room: what it writes goes to everyone, itself included, in one order for all.

    `exclusive` keeps an id to one user at a time: while a user's connection holds it, others' are closed with 1008.
    """

    __slots__ = ("_client_id", "_exclusive", "_speaks")

    kind = "chat"
    encoder = Sentences()

    def __init__(self, engine: Engine, user: str, token: TokenFacts | None, client_id: int, *, exclusive: bool) -> None:
        super().__init__(engine, user, token)
        self._client_id = client_id
        self._exclusive = exclusive
        self._speaks = not exclusive

    def describe(self) -> dict[str, object]:
        """The member's number."""
        return {"client_id": self._client_id}

    async def begin(self) -> None:
        """Enter the room; while the broker is away the member waits in it, and receives when the link returns."""
        try:
            if await self._claim_id():
                await self.engine.subscriptions.wait_in(self, ROOM)
        except BrokerUnavailable:
            log.warning("chat_waits_for_broker", connection_id=self.id)
            if not self._speaks:
                with suppress(BrokerUnavailable):
                    await self.engine.subscriptions.wait_in(self, ROOM)

    async def receive(self, message: str | bytes) -> None:
        """Send a text to the room."""
        if self.close_code is not None:
            return
        if isinstance(message, bytes):
            self.close(UNSUPPORTED_DATA, "the chat takes text")
            return
        try:
            if not await self._claim_id():
                return
            self.reply_text(f"You wrote: {message}")
            await self._say(f"Client #{self._client_id} says: {message}")
        except BrokerUnavailable:
            self.reply_text("Your message was not delivered: the broker does not answer. Try again in a moment.")
        except PublicationTooLarge as too_large:
            self.reply_text(f"Your message was not delivered: {too_large}")

    async def end(self) -> None:
        """Leave the room, and announce it to the others."""
        await self.engine.subscriptions.leave(self, ROOM)
        if not self._speaks:
            return
        if self._exclusive:
            self.engine.presence.depart(self._speakers, self.id)
        try:
            await self._say(f"Client #{self._client_id} left the chat")
        except BrokerUnavailable:
            log.warning("chat_leave_not_published", connection_id=self.id)

    async def _say(self, sentence: str) -> None:
        await self.engine.publisher.publish(ROOM, Publication(data=Raw(sentence.encode())), PublishOptions())

    @property
    def _speakers(self) -> str:
        return f"{ROOM}:{self._client_id}"

    async def _claim_id(self) -> bool:
        """Whether this connection speaks under its id; else closes it. Raises BrokerUnavailable."""
        if self._speaks:
            return True
        if self._held_here() or not await self._enter_speakers():
            self.engine.metrics.refusal_log.write_as(
                "connection_cut",
                "id_in_use",
                client_id=self._client_id,
                user=self.user,
                remedy="choose another id",
            )
            self.close(POLICY, "another user has this id")
            return False
        self._speaks = True
        return True

    def _held_here(self) -> bool:
        return any(
            isinstance(other, ChatConnection)
            and other._speaks
            and other._client_id == self._client_id
            and other.user != self.user
            for other in self.engine.hub.subscribers.of(ROOM)
        )

    async def _enter_speakers(self) -> bool:
        """Hold the id before all processes; of two users at the very same moment, neither gets it."""
        presence = self.engine.presence
        if not presence.keeps(SPEAKERS):
            return True
        # Looked at before, so that one who tries in vain is never in another's way.
        if await self._others_speak():
            return False
        await presence.arrive(self._speakers, ClientInfo(self.user, self.id), SPEAKERS)
        try:
            held = await self._others_speak()
        except BaseException:
            presence.depart(self._speakers, self.id)
            raise
        if held:
            presence.depart(self._speakers, self.id)
        return not held

    async def _others_speak(self) -> bool:
        speakers = await self.engine.presence.members(self._speakers, SPEAKERS)
        return any(speaker.user != self.user for speaker in speakers.values())


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
        connection = ChatConnection(
            context.engine, user, token_of(credentials), client_id, exclusive=not context.options.dev
        )
        await hand_off(websocket, connection, context)

    return router
