"""Write the answer of a model that speaks Anthropic's event format into a stream, and how many tokens it took."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2

import starling


async def events(question: str) -> AsyncIterator[dict[str, Any]]:
    """The events of a message: `content_block_delta` has text, `message_delta` the tokens that were used."""
    body = {"model": "claude", "max_tokens": 1024, "stream": True, "messages": [{"role": "user", "content": question}]}
    headers = {"X-API-Key": os.environ["MODEL_KEY"], "Anthropic-Version": "2023-06-01"}
    async with (
        httpx2.AsyncClient(base_url=os.environ["MODEL_URL"], headers=headers, timeout=60) as client,
        client.stream("POST", "/v1/messages", json=body) as answer,
    ):
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def answer(channel: str, question: str) -> None:
    """Write the answer, and close its stream with the number of tokens."""
    url, key = os.environ["STARLING_API_URL"], os.environ["STARLING_API_KEY"]
    async with starling.open_stream(channel, url=url, key=key) as stream:
        used = 0
        async for event in events(question):
            match event["type"]:
                case "content_block_delta" if event["delta"]["type"] == "text_delta":
                    await stream.write(event["delta"]["text"])
                case "message_delta":
                    used = event["usage"]["output_tokens"]
                case "error":
                    raise RuntimeError(event["error"]["message"])
        await stream.close("complete", final={"tokens": used})


if __name__ == "__main__":
    asyncio.run(answer(sys.argv[1], sys.argv[2]))
