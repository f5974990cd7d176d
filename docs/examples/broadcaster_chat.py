"""A chat on the package broadcaster whose processes share a room; Starling carries its messages.

Run two: `uvicorn broadcaster_chat:app --port 8001` and `uvicorn broadcaster_chat:app --port 8002`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from broadcaster import Broadcast
from fastapi import FastAPI, WebSocket

from starling.broadcast import backend_for

broadcast = Broadcast(backend=backend_for(os.environ.get("BROADCAST_URL", "redis://localhost:6379")))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the link to the broker while the application runs."""
    async with broadcast:
        yield


app = FastAPI(lifespan=lifespan)


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    """Send the room's messages to the client, and the client's to the room."""
    await websocket.accept()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_messages, websocket)
        async for text in websocket.iter_text():
            await broadcast.publish(channel="room", message=text)
        tasks.cancel_scope.cancel()


async def send_messages(websocket: WebSocket) -> None:
    """Send what anybody publishes to the room."""
    async with broadcast.subscribe(channel="room") as subscriber:
        async for event in subscriber:
            await websocket.send_text(event.message)
