"""Decide in Python: who connects, by the web application's own session cookie, and who enters which room."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starling.hooks import Accept, Client, Refuse, Request


@asynccontextmanager
async def lifespan() -> AsyncIterator[sqlite3.Connection]:
    """Open what the hooks need, once in each worker; they get it as `state`."""
    database = sqlite3.connect(os.environ["APP_DATABASE"], check_same_thread=False)
    yield database
    database.close()


async def on_connect(client: Client, request: Request, state: sqlite3.Connection) -> Accept | None:
    """Authenticate a client without a token by its session cookie, or by the API key of a device."""
    if client.user:
        return None  # it has a valid token
    if key := request.headers.get("x-device-key"):
        found = await one(state, "SELECT name FROM devices WHERE key = ?", key)
    else:
        found = await one(state, "SELECT user FROM sessions WHERE id = ?", request.cookies.get("sid", ""))
    if found is None:
        raise Refuse("sign in first", 4501)  # from 4500 on, the client does not reconnect by itself
    (user,) = found
    return Accept(user, info={"name": user.title()}, channels=[f"inbox:{user}"], data={"welcome": user})


async def on_subscribe(client: Client, channel: str, state: sqlite3.Connection) -> Accept | None:
    """Grant a room to its members; guests get the messages tagged as public only."""
    room = channel.partition(":")[2]
    found = await one(state, "SELECT role FROM members WHERE room = ? AND user = ?", room, client.user)
    if found is None:
        return None  # nothing is granted, so the client gets error 103
    (role,) = found
    only_public = {"key": "visibility", "cmp": "eq", "val": "public"}
    return Accept(info={"role": role}, tags_filter=only_public if role == "guest" else None)


async def on_disconnect(client: Client, code: int, state: sqlite3.Connection) -> None:
    """Note when a user was here last."""
    await one(state, "INSERT INTO seen VALUES (?, ?) RETURNING user", client.user, code)
    await asyncio.to_thread(state.commit)


async def one(database: sqlite3.Connection, query: str, *values: str | int) -> tuple[str] | None:
    """The first row, without a stop of the event loop."""
    row: tuple[str] | None = await asyncio.to_thread(lambda: database.execute(query, values).fetchone())
    return row
