"""The table: what a client with such a handshake asks, and what it gets from each of the deciding applications."""

from dataclasses import dataclass, field
from typing import Any

ANN = {"cookie": "theme=dark; sid=s-ann"}
BOB = {"cookie": "sid=s-bob"}
LAMP = {"x-device-key": "k-1"}


def error(code: int, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **more}}


INTERNAL = error(100, "internal server error", temporary=True)


@dataclass(frozen=True)
class Case:
    """`expected` is the reply to the last command: its fields that must be there, or the code that closes.

    `headers` are those of the handshake; `token` names the user of a token. Without `command` the last is the connect.
    `published` is the history of the command's channel afterwards.
    """

    name: str
    expected: dict[str, Any] | int
    headers: dict[str, str] = field(default_factory=lambda: ANN)
    data: Any = None
    token: str | None = None
    command: dict[str, Any] | None = None
    published: list[Any] | None = None


def subscribing(channel: str, **fields: Any) -> dict[str, Any]:
    return {"subscribe": {"channel": channel, **fields}}


def publishing(text: str) -> dict[str, Any]:
    return {"publish": {"channel": "board:1", "data": {"text": text}}}


def calling(method: str, data: Any = None) -> dict[str, Any]:
    return {"rpc": {"method": method, "data": data}}


CASES = [
    # Who connects
    Case("a session cookie", {"connect": {"data": {"hello": "ann"}, "subs": {"inbox:ann": {}}}}),
    Case("a user beyond ASCII", {"connect": {"data": {"hello": "zoë"}}}, {"cookie": "sid=s-zoe"}),
    Case("a header", {"connect": {"subs": {"room:lamps": {"data": {"lit": True}}}}}, LAMP),
    Case("an anonymous client", {"connect": {"data": {"hello": "you"}}}, {}, {"as": "anonymous"}),
    Case("nobody", error(401, "sign in first"), {}),
    Case("an unknown session", error(401, "sign in first"), {"cookie": "sid=guessed"}),
    Case("a cookie that comes twice", error(401, "sign in first"), {"cookie": "sid=s-ann; sid=s-bob"}),
    Case("a permanent disconnect", 4501, {}, {"as": "banned"}),
    Case("a disconnect that reconnects", 4001, {}, {"as": "later"}),
    Case("a namespace that does not exist", error(102, "unknown channel"), {}, {"as": "nowhere"}),
    Case("an end that has passed", error(110, "expired"), {}, {"as": "expired"}),
    Case("a fault at connect", INTERNAL, {}, {"as": "crash"}),
    Case("a good token needs no decision", {"connect": {}}, {}, None, "carol"),
    Case("a bad token is not asked about", 3500, ANN, None, ""),
    # Who enters a channel
    Case("a member", {"subscribe": {"data": {"members": ["ann", "ann"]}}}, command=subscribing("room:red")),
    Case(
        "a user of a token",
        {"subscribe": {"data": {"members": ["ann", "carol"]}}},
        {},
        None,
        "carol",
        subscribing("room:red"),
    ),
    Case("no member", error(404, "not a member"), command=subscribing("room:blue")),
    Case(
        "the right data", {"subscribe": {"data": {"key": "good"}}}, command=subscribing("room:keyed", data={"key": 7})
    ),
    Case("the wrong data", error(403, "wrong key"), command=subscribing("room:keyed", data={"key": 8})),
    Case("a disconnect by a subscription", 4502, command=subscribing("room:kick")),
    Case("a subscription that has expired", error(110, "expired"), command=subscribing("room:expired")),
    Case("a fault at a subscription", INTERNAL, command=subscribing("room:crash")),
    Case("a channel of another user", error(103, "permission denied"), command=subscribing("room:red#bob")),
    Case("a channel that needs a token", error(103, "permission denied"), command=subscribing("$room:red")),
    Case("a channel that nobody may decide about", error(103, "permission denied"), command=subscribing("closed:red")),
    Case("an unknown namespace", error(102, "unknown channel"), command=subscribing("nowhere:red")),
    # What is published
    Case("a publication", {"publish": {}}, command=publishing("hello"), published=[{"text": "hello"}]),
    Case(
        "a replaced publication",
        {"publish": {}},
        BOB,
        command=publishing("shout"),
        published=[{"text": "SHOUT", "by": "bob"}],
    ),
    Case("a refused publication", error(413, "be polite"), command=publishing("rude"), published=[]),
    Case("a disconnect by a publication", 4503, command=publishing("spam"), published=[]),
    Case("a fault at a publication", INTERNAL, command=publishing("crash"), published=[]),
    # What is called
    Case(
        "a method that reads what the connect left",
        {"rpc": {"data": {"user": "ann", "meta": '{"seat":7}'}}},
        command=calling("seat"),
    ),
    Case("a method with data", {"rpc": {"data": 5}}, command=calling("add", [2, 3])),
    Case("a method that refuses", error(422, "no"), command=calling("refuse")),
    Case("a method that fails", INTERNAL, command=calling("crash")),
    Case("a method that does not exist", error(104, "method not found"), command=calling("nothing")),
]
