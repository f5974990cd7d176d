"""A shop's own FastAPI application with Starling in it, as docs/embed.md shows it."""

from fastapi import Depends, FastAPI, WebSocket

from starling import CurrentUser, Starling, require

realtime = Starling()
app = FastAPI(lifespan=realtime.lifespan)
app.include_router(realtime.router)


@app.post("/orders")
async def order(number: int, user: CurrentUser) -> dict[str, str]:
    """Take an order, and publish it to everyone who watches."""
    await realtime.publish("orders", {"number": number})
    return {"ordered_by": user}


@app.get("/orders/{order_id}", dependencies=[Depends(require("subscribe", "orders:{order_id}"))])
async def show(order_id: int) -> dict[str, int]:
    """Show an order to users who may subscribe to its channel."""
    return {"number": order_id}


@app.websocket("/my/ws")
async def mine(websocket: WebSocket, user: CurrentUser) -> None:
    """A WebSocket route of your own."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(f"{user}: {text}")
