"""Hooks of an example application: who may connect and publish, and two methods that clients call."""

from datetime import UTC, datetime

from pydantic import BaseModel

from starling.engine.hooks import Refuse
from starling.protocol.messages import ClientInfo

BANNED = {"mallory"}


class Message(BaseModel):
    """What clients publish."""

    text: str


class Sum(BaseModel):
    """What the method `add` takes."""

    a: int
    b: int


async def on_connect(client: ClientInfo) -> dict[str, str]:
    """Turn some users away, and greet the others."""
    if client.user in BANNED:
        raise Refuse("you are banned", 403)
    return {"greeting": f"hello {client.user or 'stranger'}"}


async def on_subscribe(client: ClientInfo, channel: str) -> None:
    """Keep everybody but alice out of one channel."""
    if channel == "alices-room" and client.user != "alice":
        raise Refuse


async def on_publish(client: ClientInfo, channel: str, data: Message) -> dict[str, str]:
    """Publish the message with who wrote it and when."""
    return {"text": data.text, "by": client.user, "at": datetime.now(UTC).isoformat(timespec="seconds")}


async def add(client: ClientInfo, data: Sum) -> dict[str, int]:
    """Answer the method `add`."""
    return {"sum": data.a + data.b}


async def whoami(client: ClientInfo) -> dict[str, str]:
    """Answer the method `whoami`."""
    return {"user": client.user, "client": client.client}


rpc = {"add": add, "whoami": whoami}
