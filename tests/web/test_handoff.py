"""A conversation over plain ASGI, on servers that cannot hand a socket off."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import WebSocket

from starling.web.handoff import LoopTransport


async def test_a_conversation_that_the_server_gives_up_is_reported_as_1006() -> None:
    """A fake of a server: none of the real ones gives up at a moment that a test can choose."""

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("nothing comes")

    async def send(_message: Any) -> None: ...

    reported: list[tuple[int, str]] = []
    handler: Any = SimpleNamespace(on_close=lambda code, reason: reported.append((code, reason)))
    transport = LoopTransport(WebSocket({"type": "websocket"}, receive, send), handler, write_limit=1000)
    serving = asyncio.create_task(transport.run())
    await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving

    assert reported == [(1006, "")]
