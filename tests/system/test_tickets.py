"""One-time tickets over two pods of one Redis, from the server API to a client's connection."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from starling.auth.issue import issue_connection_token
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer

KEY = "a key of this test's own"
CLIENT_ENDPOINT = "/connection/websocket"


@pytest.fixture(scope="module")
def pods() -> Iterator[tuple[Starling, Starling]]:
    with RedisServer() as redis:
        environment = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_API_KEYS": KEY,
            "STARLING_BROKER_URL": redis.url,
            "STARLING_WORKERS": "1",
            "STARLING_LOG_LEVEL": "debug",
        }
        with Starling(environment) as one, Starling(environment) as other:
            yield one, other


def call(starling: Starling, method: str, **body: Any) -> dict[str, Any]:
    answer = httpx2.post(f"{starling.http}/api/{method}", json=body, headers={"X-API-Key": KEY}, timeout=10)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ticket(starling: Starling, **body: Any) -> str:
    issued: str = call(starling, "ticket", **{"user": "alice", **body})["result"]["ticket"]
    return issued


async def connected(client: ClientConnection, token: str = "") -> dict[str, Any]:
    """The answer to the connect command; the code of the close where that comes instead."""
    await client.send(json.dumps({"id": 1, "connect": {"token": token} if token else {}}))
    try:
        answer: dict[str, Any] = json.loads(await client.recv())
    except ConnectionClosed as closed:
        return {"closed": closed.rcvd.code if closed.rcvd else None}
    return answer


async def entered(starling: Starling, token: str, query: str = "") -> dict[str, Any]:
    async with connect(f"{starling.url}{CLIENT_ENDPOINT}{query}", proxy=None) as client:
        return await connected(client, token)


async def test_a_ticket_is_spent_once_whatever_pod_gets_it(pods: tuple[Starling, Starling]) -> None:
    one, other = pods
    given = ticket(one, channels=["news"], info={"a": 1})

    reply = (await entered(other, given))["connect"]
    assert list(reply["subs"]) == ["news"]
    for pod in pods:
        # The error of an expired token: an SDK fetches another one and goes on.
        assert (await entered(pod, given))["error"]["code"] == 109


async def test_of_all_clients_that_race_for_a_ticket_one_connects(pods: tuple[Starling, Starling]) -> None:
    given = ticket(pods[0])

    replies = await asyncio.gather(*(entered(pods[number % 2], given) for number in range(20)))

    assert Counter(next(name for name in reply if name != "id") for reply in replies) == {"connect": 1, "error": 19}


async def test_a_ticket_in_the_address_opens_the_client_endpoint(pods: tuple[Starling, Starling]) -> None:
    given = ticket(pods[0])

    assert "connect" in await entered(pods[1], "", f"?ticket={given}")
    assert (await entered(pods[1], "", f"?ticket={given}"))["error"]["code"] == 109
    assert "connect" not in await entered(pods[1], "", "?ticket=eyJhbGciOiJIUzI1NiJ9.e30.x")


async def test_a_ticket_opens_a_tutorial_endpoint_once_and_then_gets_401(pods: tuple[Starling, Starling]) -> None:
    address = f"{pods[1].url}/ws?ticket={ticket(pods[0])}"

    async with connect(address, proxy=None) as client:
        await client.send("hello")
        assert await client.recv() == "Message text was: hello"
    with pytest.raises(InvalidStatus) as refused:
        await connect(address, proxy=None)
    assert refused.value.response.status_code == 401


async def test_the_session_of_a_ticket_is_resumed_on_any_pod_until_it_is_revoked(
    pods: tuple[Starling, Starling],
) -> None:
    one, other = pods
    first = (await entered(one, ticket(one, channels=["news"])))["connect"]

    for pod in (other, one):
        again = (await entered(pod, first["resume"]))["connect"]
        assert (again["session"], again["resume"], list(again["subs"])) == (
            first["session"],
            first["resume"],
            ["news"],
        )
    in_address = (await entered(other, "", f"?ticket={first['resume']}"))["connect"]
    assert in_address["session"] == first["session"]

    call(one, "revoke_session", session=first["session"])
    assert (await entered(one, first["resume"]))["closed"] == 3500


async def test_a_token_brings_no_right_to_resume(pods: tuple[Starling, Starling]) -> None:
    assert "resume" not in (await entered(pods[0], issue_connection_token(SECRET, "alice", 60)))["connect"]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, "user"),
        ({"user": "alice", "ttl": 61}, "ttl"),
        ({"user": "alice", "ttl": 0}, "ttl"),
        ({"user": "alice", "channels": ["nowhere:1"]}, "nowhere"),
        ({"user": "alice", "channels": ["a{b"]}, "channel"),
        ({"user": "alice", "expire_at": 1}, "expire_at"),
    ],
)
def test_a_request_that_cannot_be_meant_names_the_field(
    pods: tuple[Starling, Starling], body: dict[str, Any], complaint: str
) -> None:
    answer = httpx2.post(f"{pods[0].http}/api/ticket", json=body, headers={"X-API-Key": KEY}, timeout=10)

    assert complaint in answer.json()["error"]["message"]


async def test_no_log_line_holds_a_ticket_or_a_right(pods: tuple[Starling, Starling]) -> None:
    one, other = pods
    given = ticket(one)
    right = (await entered(one, "", f"?ticket={given}"))["connect"]["resume"]
    await entered(other, given)
    await entered(other, right)
    with pytest.raises(InvalidStatus):
        await connect(f"{other.url}/ws?ticket={given}", proxy=None)
    other.reported("token_refused", 2)

    for pod in pods:
        assert "client_connected" in pod.output
        assert given not in pod.output
        assert right not in pod.output
        assert right.partition(".")[0] not in pod.output
