"""The tutorial's second program: CurrentUser in place of its dependency on a cookie or a token."""

from fastapi import FastAPI, WebSocket

from starling import CurrentUser, Starling

app = FastAPI()
realtime = Starling()
realtime.install(app)


@app.websocket("/items/{item_id}/ws")
async def item(websocket: WebSocket, item_id: str, user: CurrentUser, q: int | None = None) -> None:
    """Talk about an item with the user of the cookie `session`, of `?token=`, or of a header."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(f"You are: {user}")
        if q is not None:
            await websocket.send_text(f"Query parameter q is: {q}")
        await websocket.send_text(f"Message text was: {text}, for item ID: {item_id}")
