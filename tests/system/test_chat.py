"""The chat over several workers: everyone receives everything, once, in one same order, through outages too."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.running import Starling
from tests.support.services import PostgresServer, RedisServer
from tests.support.waiting import DEADLINE

CLIENTS = 50
MESSAGES = 200


@pytest.fixture
def starling(redis_server: RedisServer) -> Iterator[Starling]:
    """Two workers over a real Redis."""
    environment = {"STARLING_DEV": "true", "STARLING_BROKER_URL": redis_server.url, "STARLING_WORKERS": "2"}
    with Starling(environment) as running:
        yield running


async def enter(starling: Starling, first: int, count: int) -> list[ClientConnection]:
    """Connect this many clients, each in the room when this returns: it has received a word of its own."""
    clients = []
    for number in range(first, first + count):
        client = await connect(f"{starling.url}/ws/{number}", max_queue=None)
        await client.send("in")
        while await client.recv() != f"Client #{number} says: in":
            pass
        clients.append(client)
    return clients


async def received(client: ClientConnection, wanted: int, timeout: float) -> list[str]:
    """The sentences said in the room, until `wanted` of the counted kind came."""
    sentences: list[str] = []
    async with asyncio.timeout(timeout):
        while len(sentences) < wanted:
            text = await client.recv()
            assert isinstance(text, str)
            if " says: m" in text:
                sentences.append(text)
    return sentences


async def test_every_client_on_both_workers_receives_every_message_once_in_one_order(starling: Starling) -> None:
    clients = await enter(starling, 0, CLIENTS)
    readers = [asyncio.create_task(received(client, CLIENTS * MESSAGES, 90)) for client in clients]
    for message in range(MESSAGES):
        await asyncio.gather(*(client.send(f"m{message}") for client in clients))
    logs = await asyncio.gather(*readers)

    expected = {f"Client #{number} says: m{message}" for number in range(CLIENTS) for message in range(MESSAGES)}
    assert len(logs[0]) == CLIENTS * MESSAGES
    assert set(logs[0]) == expected
    assert all(log == logs[0] for log in logs)
    for number in range(CLIENTS):
        own = [text for text in logs[0] if text.startswith(f"Client #{number} says")]
        assert own == [f"Client #{number} says: m{message}" for message in range(MESSAGES)]
    await asyncio.gather(*(client.close() for client in clients))


async def test_the_clients_of_that_room_are_spread_over_both_workers(starling: Starling) -> None:
    clients = await enter(starling, 0, 40)

    served = {line["pid"] for line in starling.reported("client_connected", 40)}

    assert served == set(starling.workers)
    await asyncio.gather(*(client.close() for client in clients))


async def delivery_returns(starling: Starling, clients: list[ClientConnection]) -> None:
    """Wait until a word of the first client reaches all; a socket that closes meanwhile fails the test."""
    end = time.monotonic() + DEADLINE
    attempt = 0
    waiting = set(range(len(clients)))
    while waiting:
        assert time.monotonic() < end, f"still nothing for {waiting}\n{starling.output[-3000:]}"
        attempt += 1
        await clients[0].send(f"probe {attempt}")
        for index in sorted(waiting):
            try:
                async with asyncio.timeout(0.2):
                    while True:
                        text = await clients[index].recv()
                        if isinstance(text, str) and " says: probe" in text:
                            waiting.discard(index)
                            break
            except TimeoutError:
                pass
            except ConnectionClosed as closed:
                pytest.fail(f"client {index} was closed: {closed}")


async def test_redis_killed_and_restarted_is_survived_by_every_socket(
    starling: Starling, redis_server: RedisServer
) -> None:
    clients = await enter(starling, 0, 10)

    redis_server.kill()
    await asyncio.to_thread(starling.reported, "broker_link_down", 2)
    await clients[0].send("into the void")
    async with asyncio.timeout(DEADLINE):
        while not str(await clients[0].recv()).startswith("Your message was not delivered"):
            pass
    redis_server.start()

    await delivery_returns(starling, clients)
    await asyncio.gather(*(client.close() for client in clients))


async def test_postgresql_killed_and_restarted_is_survived_by_every_socket(postgres_server: PostgresServer) -> None:
    environment = {"STARLING_DEV": "true", "STARLING_BROKER_URL": postgres_server.url, "STARLING_WORKERS": "2"}
    with Starling(environment) as starling:
        clients = await enter(starling, 0, 10)

        postgres_server.kill()
        await asyncio.to_thread(starling.reported, "broker_link_down", 2)
        postgres_server.start()

        await delivery_returns(starling, clients)
        await asyncio.gather(*(client.close() for client in clients))


async def test_a_message_too_large_for_postgresql_is_answered_in_words(postgres_server: PostgresServer) -> None:
    environment = {"STARLING_DEV": "true", "STARLING_BROKER_URL": postgres_server.url, "STARLING_WORKERS": "2"}
    with Starling(environment) as starling:
        (client,) = await enter(starling, 1, 1)
        await client.send("x" * 9000)
        async with asyncio.timeout(DEADLINE):
            answers = [await client.recv(), await client.recv()]

        assert str(answers[1]).startswith("Your message was not delivered: ")
        assert "bytes" in str(answers[1])
        await client.send("m still here")
        assert "Client #1 says: m still here" in [await client.recv(), await client.recv()]
        await client.close()


async def test_without_redis_at_the_start_it_serves_says_so_and_gets_ready_when_redis_comes(
    redis_server: RedisServer,
) -> None:
    redis_server.kill()
    environment = {"STARLING_DEV": "true", "STARLING_BROKER_URL": redis_server.url, "STARLING_WORKERS": "2"}
    starling = Starling(environment, wait_ready=False)
    with starling:
        deadline = time.monotonic() + DEADLINE
        status, body = starling.get(f"{starling.internal}/readyz")
        while not (body.get("workers") and all(worker["broker"] == "down" for worker in body["workers"])):
            assert time.monotonic() < deadline, starling.output
            status, body = starling.get(f"{starling.internal}/readyz")
            await asyncio.sleep(0.1)
        assert status == 503
        assert all("broker_never_reached" in worker["reasons"] for worker in body["workers"])
        assert starling.get(f"{starling.internal}/livez")[0] == 200
        async with connect(f"{starling.url}/ws") as echo:
            await echo.send("alive")
            assert await echo.recv() == "Message text was: alive"
        assert starling.reported("broker_link_down")

        redis_server.start()

        starling.until_ready(2, timeout=10)
        (client,) = await enter(starling, 1, 1)
        await client.close()
