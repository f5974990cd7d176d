"""Write the answer of a model that speaks OpenAI's event format into a stream: in a web application or a task queue."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import httpx2

import starling


async def tokens(question: str) -> AsyncIterator[str]:
    """The text of a chat completion as it comes: events with `choices[0].delta.content`, and `[DONE]` at the end."""
    body = {"model": "gpt", "stream": True, "messages": [{"role": "user", "content": question}]}
    headers = {"Authorization": f"Bearer {os.environ['MODEL_KEY']}"}
    async with (
        httpx2.AsyncClient(base_url=os.environ["MODEL_URL"], headers=headers, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            if data == line or data == "[DONE]":
                continue
            for choice in json.loads(data)["choices"]:
                yield choice["delta"].get("content") or ""


async def answer(channel: str, question: str) -> None:
    """Write the answer; the stream is closed when it is whole, when the model fails, and when a reader presses stop."""
    try:
        async with starling.open_stream(
            channel, url=os.environ["STARLING_API_URL"], key=os.environ["STARLING_API_KEY"]
        ) as stream:
            async for token in tokens(question):
                await stream.write(token)
    except starling.Cancelled as cancelled:
        print(f"stopped: {cancelled.reason or 'by a reader'}")


if __name__ == "__main__":
    # In a Celery task it is the same line: asyncio.run(answer(channel, question)).
    asyncio.run(answer(sys.argv[1], sys.argv[2]))
