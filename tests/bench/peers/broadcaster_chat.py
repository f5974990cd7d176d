"""The chat of broadcaster's documentation: for each client a subscription, and a task that reads next to it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from broadcaster import Broadcast
from fastapi import FastAPI, WebSocket

broadcast = Broadcast(os.environ["BROADCAST_URL"])


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Hold the link to the backend while the application runs."""
    async with broadcast:
        yield


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws/{channel}")
async def room(websocket: WebSocket, channel: str) -> None:
    """Say to all in a channel what one says, until either side has ended."""
    await websocket.accept()
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            async for text in websocket.iter_text():
                await broadcast.publish(channel=channel, message=text)
            tasks.cancel_scope.cancel()

        tasks.start_soon(listen)
        async with broadcast.subscribe(channel=channel) as subscriber:
            async for event in subscriber:  # type: ignore[union-attr]  # its annotations are loose
                await websocket.send_text(event.message)  # type: ignore[union-attr]
