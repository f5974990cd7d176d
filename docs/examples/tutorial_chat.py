"""The tutorial's third program: a channel of any number of workers in place of its ConnectionManager."""

from fastapi import FastAPI, WebSocket

from starling import Starling

app = FastAPI()
realtime = Starling()
realtime.install(app)


@app.websocket("/ws/{client_id}")
async def chat(websocket: WebSocket, client_id: int) -> None:
    """Let a client talk with all others."""
    await websocket.accept()
    async with realtime.join("chat", websocket):
        async for text in websocket.iter_text():
            await websocket.send_text(f"You wrote: {text}")
            await realtime.publish("chat", f"Client #{client_id} says: {text}")
    await realtime.publish("chat", f"Client #{client_id} left the chat")
