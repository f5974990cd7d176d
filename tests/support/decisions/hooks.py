"""The decisions of the table as a hooks module."""

from collections.abc import Awaitable, Callable
from typing import Any

from starling.hooks import Accept, Client, Refuse, Request

SESSIONS = {"s-ann": "ann", "s-bob": "bob", "s-zoe": "zoë"}
DEVICES = {"k-1": "lamp"}


async def on_connect(client: Client, request: Request, data: Any) -> Accept | None:
    if client.user:
        return None
    data = data or {}
    if user := SESSIONS.get(request.cookies.get("sid", "")):
        return Accept(
            user, info={"name": user.title()}, channels=[f"inbox:{user}"], data={"hello": user}, meta={"seat": 7}
        )
    if device := DEVICES.get(request.headers.get("x-device-key", "")):
        return Accept(device, channels={"room:lamps": Accept(data={"lit": True})})
    match data.get("as"):
        case "anonymous":
            return Accept(data={"hello": "you"})
        case "banned":
            raise Refuse("banned", 4501)
        case "later":
            raise Refuse("later", 4001)
        case "nowhere":
            return Accept("ann", channels=["nowhere:1"])
        case "expired":
            return Accept("ann", expire_at=1000)
        case "crash":
            raise RuntimeError("a fault")
    raise Refuse("sign in first", 401)


async def on_subscribe(client: Client, channel: str, data: Any) -> Accept | None:
    match channel.partition(":")[2]:
        case "red":
            return Accept(info={"role": "member"}, data={"members": ["ann", client.user]})
        case "filtered":
            return Accept(tags_filter={"key": "team", "cmp": "eq", "val": "red"})
        case "keyed" if data == {"key": 7}:
            return Accept(data={"key": "good"})
        case "keyed":
            raise Refuse("wrong key", 403)
        case "kick":
            raise Refuse("out", 4502)
        case "expired":
            return Accept(expire_at=1000)
        case "crash":
            raise RuntimeError("a fault")
        case "lamps":
            return Accept()
    raise Refuse("not a member", 404)


async def on_publish(client: Client, channel: str, data: Any) -> Any:
    match data:
        case {"text": "rude"}:
            raise Refuse("be polite", 413)
        case {"text": "spam"}:
            raise Refuse("spam", 4503)
        case {"text": "crash"}:
            raise RuntimeError("a fault")
        case {"text": "shout"}:
            return {"text": "SHOUT", "by": client.user}
    return None


async def seat(client: Client) -> dict[str, Any]:
    return {"user": client.user, "meta": client.meta.decode()}


async def add(client: Client, data: list[int]) -> int:
    return sum(data)


async def refuse(client: Client) -> None:
    raise Refuse("no", 422)


async def crash(client: Client) -> None:
    raise RuntimeError("a fault")


rpc: dict[str, Callable[..., Awaitable[Any]]] = {"seat": seat, "add": add, "refuse": refuse, "crash": crash}
