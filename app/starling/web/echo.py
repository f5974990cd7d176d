"""`WS /ws`: every message comes back, text with a sentence around it."""

from fastapi import APIRouter, Depends, WebSocket

from starling.client.sequential import SequentialConnection
from starling.engine.transport import Frame
from starling.web.dependencies import CredentialsDependency, WebContextDependency, admit, token_of
from starling.web.handoff import hand_off

router = APIRouter(dependencies=[Depends(admit)])


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


@router.websocket("/ws")
async def echo(websocket: WebSocket, web_context: WebContextDependency, credentials: CredentialsDependency) -> None:
    """The echo door."""
    user = credentials.user if credentials else ""
    await hand_off(websocket, EchoConnection(web_context.engine, user, token_of(credentials)), web_context)
