"""The same chat for clients that use an SDK: they recover what they missed, and see who is there."""

from fastapi import FastAPI
from pydantic import BaseModel, Field

from starling import Accept, Client, Refuse, Starling

app = FastAPI()
realtime = Starling()
realtime.install(app)


class Message(BaseModel):
    """What a client publishes."""

    text: str = Field(max_length=2000)


@realtime.on_subscribe("chat")
async def enter(client: Client, channel: str) -> Accept:
    """Let every signed-in user into every room."""
    if not client.user:
        raise Refuse("sign in first")
    return Accept(info={"name": client.user.title()})


@realtime.on_publish("chat")
async def say(client: Client, channel: str, data: Message) -> dict[str, str]:
    """Publish what the user wrote, with the name that the server knows."""
    return {"from": client.user, "text": data.text}


@realtime.on_unsubscribe("chat")
async def leave(client: Client, channel: str) -> None:
    """Report that a user has left the room."""
    await realtime.publish(channel, {"from": "", "text": f"{client.user} left the chat"})
