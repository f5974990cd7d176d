"""A bare ASGI handler and a bare FastAPI POST route on Starling's own server, to compare the server API with.

`python -m tests.bench.bare_route '{"port": …}'`: the options are those of starling.server.options.ServerOptions.
"""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
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


def main() -> None:
    """Serve until SIGTERM."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    options["runtime_dir"] = Path(options["runtime_dir"])
    metrics = options["runtime_dir"] / "metrics"
    metrics.mkdir(parents=True, exist_ok=True)
    # prometheus_client chooses at its first import where numbers live.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    from starling.engine.readiness import Readiness, Unready
    from starling.server.application import serve
    from starling.server.options import ServerOptions
    from starling.server.service import Service
    from starling.telemetry.logging import configure_logging

    configure_logging("info", "json")
    readiness = Readiness()

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        readiness.release(Unready.STARTING)
        yield

    application = FastAPI(lifespan=lifespan)

    @application.post("/bare")
    async def bare(request: PublishRequest) -> dict[str, dict[str, str]]:
        return {"result": {}}

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/handler":
            await handle(receive, send)
        else:
            await application(scope, receive, send)

    serve(ServerOptions(**options), Service(asgi=asgi, readiness=readiness))


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


if __name__ == "__main__":
    main()
