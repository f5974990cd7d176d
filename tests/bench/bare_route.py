"""What the server API is compared with: a bare ASGI handler, and a FastAPI route at `/bare`, as uvicorn serves them.

`uvicorn tests.bench.bare_route:application`
"""

import json
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel


class PublishRequest(BaseModel):
    """What a publish carries, as a FastAPI application would declare it."""

    channel: str
    data: Any
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""


fastapi = FastAPI()


@fastapi.post("/bare")
async def bare(request: PublishRequest) -> dict[str, dict[str, str]]:
    """Answer as a publish does."""
    return {"result": {}}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The handler at `/handler`, and the route."""
    if scope["type"] == "http" and scope["path"] == "/handler":
        await handle(receive, send)
    else:
        await fastapi(scope, receive, send)


async def handle(receive: Any, send: Any) -> None:
    """Read the body and answer with JSON: the least that an ASGI application does."""
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    json.loads(body)
    content = b'{"result":{}}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
