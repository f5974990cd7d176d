"""`WS /ws`: the endpoint that sends every message back, text within a sentence."""

from typing import Annotated

from fastapi import APIRouter, Depends, WebSocket

from starling.auth.tokens import Credentials
from starling.client.sequential import SequentialConnection
from starling.protocol.messages import Frame
from starling.web.dependencies import WebContext, token_of
from starling.web.handoff import hand_off


class EchoConnection(SequentialConnection):
    """Answers each text with `Message text was: ` and the text, each binary message with itself."""

    __slots__ = ()

    kind = "echo"

    def receive(self, message: str | bytes) -> None:
        """Answer at once."""
        if isinstance(message, str):
            self.reply_text(f"Message text was: {message}")
        else:
            self.reply(Frame(message, text=False))


def build_router(context: WebContext) -> APIRouter:
    """Build the endpoint, as the FastAPI tutorial declares it."""
    router = APIRouter(dependencies=[Depends(context.admit)])

    @router.websocket("/ws")
    async def echo(
        websocket: WebSocket, credentials: Annotated[Credentials | None, Depends(context.authenticate)]
    ) -> None:
        """The echo endpoint."""
        user = credentials.user if credentials else ""
        await hand_off(websocket, EchoConnection(context.engine, user, token_of(credentials)), context)

    return router
