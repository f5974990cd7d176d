"""Hooks of an example application: who may connect and publish, and two methods that clients call."""

from datetime import UTC, datetime

from pydantic import BaseModel

from starling.hooks import Client, Refuse

BANNED = {"mallory"}


class Message(BaseModel):
    """What clients publish."""

    text: str


class Sum(BaseModel):
    """What the method `add` takes."""

    a: int
    b: int


async def on_connect(client: Client) -> dict[str, str]:
    """Turn some users away, and greet the others."""
    if client.user in BANNED:
        raise Refuse("you are banned", 403)
    return {"greeting": f"hello {client.user or 'stranger'}"}


async def on_subscribe(client: Client, channel: str) -> None:
    """Keep everybody but alice out of one channel."""
    if channel == "alices-room" and client.user != "alice":
        raise Refuse


async def on_publish(client: Client, channel: str, data: Message) -> dict[str, str]:
    """Publish the message with who wrote it and when."""
    return {"text": data.text, "by": client.user, "at": datetime.now(UTC).isoformat(timespec="seconds")}


async def add(client: Client, data: Sum) -> dict[str, int]:
    """Answer the method `add`."""
    return {"sum": data.a + data.b}


async def whoami(client: Client) -> dict[str, str]:
    """Answer the method `whoami`."""
    return {"user": client.user, "client": client.client}


rpc = {"add": add, "whoami": whoami}
