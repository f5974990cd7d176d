"""A Socket.IO server of rooms, events and acknowledgements, as it is with Starling: see docs/from-socketio.md."""

from fastapi import FastAPI
from pydantic import BaseModel

from starling import Accept, Client, Refuse, Starling

MEMBERS = {"42": {"ann", "ben"}}  # which users may enter a room: ask your database here

realtime = Starling()
app = FastAPI()
realtime.install(app)


class Message(BaseModel):
    """What a client says in a room."""

    text: str


@realtime.on_subscribe("room")
async def enter_room(client: Client, channel: str) -> Accept | None:
    """Let members in: Socket.IO's `enter_room`."""
    room = channel.partition(":")[2]
    return Accept() if client.user in MEMBERS.get(room, set()) else None


@realtime.on_publish("room")
async def check_message(client: Client, channel: str, data: Message) -> dict[str, str]:
    """Publish a client's message with its name: Socket.IO's `@sio.on("message")` with `emit` to the room."""
    if not data.text.strip():
        raise Refuse("write something", 400)
    return {"from": client.user, "text": data.text.strip()}


@realtime.rpc("add")
async def add(client: Client, data: list[int]) -> int:
    """Answer a call: Socket.IO's acknowledgements."""
    return sum(data)


@app.post("/rooms/{room}/announcements")
async def announce(room: str, text: str) -> None:
    """Publish from the backend: `sio.emit("message", ..., room=room)`."""
    await realtime.publish(f"room:{room}", {"from": "the backend", "text": text})
