"""The backend of a page with useChat of the Vercel AI SDK: answers that go on after a reload, and in a second tab."""

import asyncio
import secrets
from collections.abc import AsyncIterator

from fastapi import FastAPI, Response
from pydantic import BaseModel

from starling import Starling

realtime = Starling()
app = FastAPI(lifespan=realtime.lifespan)
app.include_router(realtime.router)

# The channel of each chat's last answer, and who writes it. The channels belong into your database.
channels: dict[str, str] = {}
writing: set[asyncio.Task[None]] = set()


class Question(BaseModel):
    """What useChat sends; the last message is the question."""

    id: str
    messages: list[dict[str, object]]


async def tokens(question: Question) -> AsyncIterator[str]:
    """Stands in for your model."""
    for number in range(100):
        yield f"{number} "
        await asyncio.sleep(0.05)


async def write(channel: str, question: Question, opened: asyncio.Event) -> None:
    """Write the answer as parts of a UI message stream: one item of JSON each."""
    async with realtime.open_stream(channel) as answer:
        opened.set()
        await answer.write({"type": "start"})
        await answer.write({"type": "text-start", "id": "text"})
        async for token in tokens(question):
            await answer.write({"type": "text-delta", "id": "text", "delta": token})
        await answer.write({"type": "text-end", "id": "text"})
        await answer.write({"type": "finish"})


@app.post("/chat")
async def ask(question: Question) -> Response:
    """Begin an answer, and return where it is read."""
    channel = channels[question.id] = f"messages:{secrets.token_hex(8)}"
    opened = asyncio.Event()
    task = asyncio.create_task(write(channel, question, opened))
    writing.add(task)
    task.add_done_callback(writing.discard)
    # Returns the error of a stream that could not be opened.
    await asyncio.wait((task, waiting := asyncio.create_task(opened.wait())), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()
    return Response(status_code=201, headers={"Location": f"/streams/{channel}"})


@app.get("/chat/{chat}/stream")
async def resume(chat: str) -> Response:
    """Where the last answer is read; 204 without one. One that is complete is read to its end."""
    if chat not in channels:
        return Response(status_code=204)
    return Response(headers={"Location": f"/streams/{channels[chat]}"})
