"""A dependency that wants a cookie or a token, with parameters of path and query."""

from typing import Annotated

from fastapi import Cookie, Depends, FastAPI, Query, WebSocket, WebSocketException, status

app = FastAPI()


async def cookie_or_token(
    websocket: WebSocket,
    session: Annotated[str | None, Cookie()] = None,
    token: Annotated[str | None, Query()] = None,
) -> str:
    """Take any cookie or token, and refuse clients without one."""
    if session is None and token is None:
        raise WebSocketException(code=status.WS_1008_POLICY_VIOLATION)
    return session or token or ""


@app.websocket("/items/{item_id}/ws")
async def item(
    websocket: WebSocket, item_id: str, user: Annotated[str, Depends(cookie_or_token)], q: int | None = None
) -> None:
    """Talk about an item with the holder of the cookie `session` or of `?token=`."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(f"You are: {user}")
        if q is not None:
            await websocket.send_text(f"Query parameter q is: {q}")
        await websocket.send_text(f"Message text was: {text}, for item ID: {item_id}")
