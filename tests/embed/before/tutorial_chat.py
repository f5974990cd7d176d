"""A room whose members stand in a list of this process."""

from fastapi import FastAPI, WebSocket

app = FastAPI()


class ConnectionManager:
    """The members."""

    def __init__(self) -> None:
        self.members: list[WebSocket] = []

    async def enter(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.members.append(websocket)

    def leave(self, websocket: WebSocket) -> None:
        self.members.remove(websocket)

    async def send_to_all(self, text: str) -> None:
        for member in self.members:
            await member.send_text(text)


manager = ConnectionManager()


@app.websocket("/ws/{client_id}")
async def chat(websocket: WebSocket, client_id: int) -> None:
    """Let a client talk with all others."""
    await manager.enter(websocket)
    async for text in websocket.iter_text():
        await websocket.send_text(f"You wrote: {text}")
        await manager.send_to_all(f"Client #{client_id} says: {text}")
    manager.leave(websocket)
    await manager.send_to_all(f"Client #{client_id} left the chat")
