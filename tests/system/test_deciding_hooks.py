"""The program of docs/hooks.md, "Decide in Python": it authenticates, grants and takes note of who goes."""

import json
import sqlite3
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from starling.auth.issue import issue_connection_token
from tests.support.running import SECRET, Starling
from tests.support.waiting import until

DOCS = Path(__file__).parents[2] / "docs"
PROGRAM = DOCS / "examples" / "decide.py"
API_KEY = "a key of these tests"
OWN_PAGE = {"Origin": "https://app.example.com"}
TABLES = """
CREATE TABLE sessions (id, user); CREATE TABLE devices (key, name); CREATE TABLE members (room, user, role);
CREATE TABLE seen (user, code);
INSERT INTO sessions VALUES ('s-alice', 'alice'), ('s-bob', 'bob');
INSERT INTO devices VALUES ('k-1', 'lamp');
INSERT INTO members VALUES ('red', 'alice', 'member'), ('red', 'bob', 'guest');
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("application") / "app.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(TABLES)
    connection.close()
    return path


@pytest.fixture(scope="module")
def starling(database: Path) -> Iterator[Starling]:
    channels = database.with_name("channels.yaml")
    channels.write_text(
        "namespaces:\n"
        "  room: {subscribe_by_hook: true, allow_user_limited_channels: true, presence: true,\n"
        "         allow_presence_for_subscriber: true, allow_publish_for_subscriber: true, allow_tags_filter: true}\n"
        "  inbox: {}\n"
        "  closed: {}\n"
    )
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_ALLOWED_ORIGINS": "https://app.example.com",
        "STARLING_CHANNELS_FILE": str(channels),
        "STARLING_API_KEYS": API_KEY,
        "STARLING_HOOKS": "decide",
        "STARLING_HOOKS_PATH": str(PROGRAM.parent),
        "APP_DATABASE": str(database),
    }
    with Starling(environment) as running:
        yield running


async def opened(starling: Starling, **headers: str) -> ClientConnection:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await connect(f"{starling.url}/connection/websocket", additional_headers=named, proxy=None)


async def ask(client: ClientConnection, command_id: int, **command: Any) -> dict[str, Any]:
    await client.send(json.dumps({"id": command_id, **command}))
    while True:
        for line in str(await client.recv()).splitlines():
            reply: dict[str, Any] = json.loads(line)
            if reply.get("id") == command_id:
                return reply


def call_api(starling: Starling, method: str, body: dict[str, Any]) -> None:
    headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
    request = urllib.request.Request(f"{starling.http}/api/{method}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        assert "result" in json.loads(response.read())


async def entered(starling: Starling, cookie: str) -> ClientConnection:
    client = await opened(starling, Cookie=cookie, **OWN_PAGE)
    assert "connect" in await ask(client, 1, connect={})
    return client


def test_the_page_prints_the_program_as_it_is() -> None:
    assert f"```python\n{PROGRAM.read_text()}```\n" in (DOCS / "hooks.md").read_text()


async def test_a_session_cookie_of_an_allowed_page_authenticates(starling: Starling) -> None:
    async with await opened(starling, Cookie="theme=dark; sid=s-alice", **OWN_PAGE) as client:
        reply = (await ask(client, 1, connect={}))["connect"]

    assert reply["data"] == {"welcome": "alice"}
    assert list(reply["subs"]) == ["inbox:alice"]
    assert not reply.get("expires")


async def test_a_header_authenticates_a_client_that_is_no_browser(starling: Starling) -> None:
    async with await opened(starling, X_Device_Key="k-1") as client:
        assert (await ask(client, 1, connect={}))["connect"]["data"] == {"welcome": "lamp"}


async def test_a_cookie_called_session_that_is_no_token_leaves_it_to_the_hook(starling: Starling) -> None:
    session = "eyJ1c2VyIjoiYWxpY2UifQ.aSpX0g.Zk1lYtZ8Pq0bJm3n5o7c9d1e2f4"
    async with await opened(starling, Cookie=f"session={session}; sid=s-alice", **OWN_PAGE) as client:
        assert (await ask(client, 1, connect={}))["connect"]["data"] == {"welcome": "alice"}


@pytest.mark.parametrize("cookie", ["", "sid=unknown", "sid=s-alice; sid=s-bob"])
async def test_who_is_not_recognised_is_refused_in_the_words_of_the_hook(starling: Starling, cookie: str) -> None:
    async with await opened(starling, **({"Cookie": cookie} if cookie else {}), **OWN_PAGE) as client:
        with pytest.raises(ConnectionClosed) as closed:
            await ask(client, 1, connect={})

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4501, "sign in first")


async def test_a_foreign_page_never_reaches_the_hook(starling: Starling) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await opened(starling, Cookie="sid=s-alice", Origin="https://evil.example.net")

    assert refused.value.response.status_code == 403


async def test_an_invalid_token_is_refused_whatever_the_hook_would_say(starling: Starling) -> None:
    async with await opened(starling, Cookie="sid=s-alice", **OWN_PAGE) as client:
        with pytest.raises(ConnectionClosed) as closed:
            await ask(client, 1, connect={"token": "not.a.token"})

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 3500


async def test_a_valid_token_is_enough(starling: Starling) -> None:
    async with await opened(starling) as client:
        token = issue_connection_token(SECRET, "carol", 60)
        assert "connect" in await ask(client, 1, connect={"token": token})


@pytest.mark.parametrize(
    ("channel", "answer"),
    [
        ("room:red", "subscribe"),
        ("room:blue", 103),
        ("closed:red", 103),
        ("$room:red", 103),
        ("room:red#bob", 103),
        ("nowhere:red", 102),
    ],
)
async def test_the_hook_grants_what_its_namespace_lets_it_grant(
    starling: Starling, channel: str, answer: str | int
) -> None:
    async with await entered(starling, "sid=s-alice") as alice:
        reply = await ask(alice, 2, subscribe={"channel": channel})

        assert answer == (reply["error"]["code"] if "error" in reply else next(name for name in reply if name != "id"))


async def test_what_the_hook_says_of_a_member_is_seen_by_others(starling: Starling) -> None:
    async with await entered(starling, "sid=s-alice") as alice:
        await ask(alice, 2, subscribe={"channel": "room:red"})
        (found,) = (await ask(alice, 3, presence={"channel": "room:red"}))["presence"]["presence"].values()

    assert (found["conn_info"], found["chan_info"]) == ({"name": "Alice"}, {"role": "member"})


async def test_a_filter_that_the_hook_forces_cannot_be_widened(starling: Starling) -> None:
    wide = {"op": "or", "nodes": [{"key": "visibility", "cmp": "ex"}, {"key": "visibility", "cmp": "nex"}]}
    async with await entered(starling, "sid=s-bob") as bob:
        await ask(bob, 2, subscribe={"channel": "room:red", "tf": wide})
        for number, tags in enumerate(({"visibility": "staff"}, {}, {"visibility": "public"})):
            body = {"channel": "room:red", "data": {"number": number}, "tags": tags}
            call_api(starling, "publish", body)
        push = json.loads(await bob.recv())["push"]

    assert push["pub"]["data"] == {"number": 2}


async def test_the_end_of_a_client_is_noted(starling: Starling, database: Path) -> None:
    async with await entered(starling, "sid=s-bob") as bob:
        await bob.close(4242)

    def noted() -> bool:
        with sqlite3.connect(database) as connection:
            found = connection.execute("SELECT 1 FROM seen WHERE user = 'bob' AND code = 4242").fetchone()
        connection.close()
        return found is not None

    await until(noted)
