"""A process receives, or it knows that it does not and says so: lost subscriptions, and links that will not come up."""

import asyncio

import pytest
import redis.asyncio

from starling.brokers.probe import receives_own_message
from starling.brokers.redis.address import parse_address
from starling.brokers.redis.backend import RedisBackend
from starling.brokers.redis.calls import RedisCalls
from starling.engine.broker import LinkState
from tests.brokers.conftest import Opener
from tests.brokers.party import Party
from tests.support.services import PostgresServer, RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import DEADLINE, until


def unsubscribe(channel: str) -> bytes:
    name = f"starling:{channel}".encode()
    return b"*2\r\n$11\r\nUNSUBSCRIBE\r\n$%d\r\n%s\r\n" % (len(name), name)


def take_away(proxy: TcpProxy, channel: str) -> None:
    """Let the server end a subscription that the process goes on counting on."""
    listening = [connection for connection in proxy.connections if b"SUBSCRIBE" in connection.sent]
    assert len(listening) == 1
    listening[0].server.write(unsubscribe(channel))


async def receives(here: Party, channel: str, data: bytes) -> None:
    await here.publish(channel, data)
    await until(lambda: data in here.received(channel), f"{channel} is heard")


async def test_a_subscription_that_only_the_server_lost_is_noticed_by_the_count(
    redis_server: RedisServer, opener: Opener
) -> None:
    async with TcpProxy(redis_server.port) as proxy:
        here = await opener(proxy.url)
        await here.broker.subscribe("room")
        await receives(here, "room", b'"before"')
        proxy.swallow = lambda piece: b"unsubscribe" in piece
        take_away(proxy, "room")

        await until(lambda: here.links[-2:] == [LinkState.DOWN, LinkState.UP], "the link is swapped")

        await receives(here, "room", b'"after"')
        assert here.broker.stats.reconnects == 1
        await here.broker.stop()


async def test_a_subscription_that_the_server_ends_by_itself_is_noticed_at_once(
    redis_server: RedisServer, opener: Opener
) -> None:
    async with TcpProxy(redis_server.port) as proxy:
        here = await opener(proxy.url)
        await here.broker.subscribe("room")
        take_away(proxy, "room")

        await until(lambda: here.links[-2:] == [LinkState.DOWN, LinkState.UP], "the link is swapped")

        await receives(here, "room", b'"after"')
        await here.broker.stop()


async def test_a_listener_that_only_postgresql_lost_is_noticed_by_the_count(
    postgres_server: PostgresServer, opener: Opener
) -> None:
    async with TcpProxy(postgres_server.port) as proxy:
        here = await opener(f"postgresql://starling@127.0.0.1:{proxy.port}/postgres")
        await here.broker.subscribe("room")
        proxy.swallow = lambda piece: b"UNLISTEN" in piece
        listening = [connection for connection in proxy.connections if b"starling-listener" in connection.sent]
        query = b"UNLISTEN *\0"
        listening[0].server.write(b"Q" + (len(query) + 4).to_bytes(4, "big") + query)

        await until(lambda: here.links[-2:] == [LinkState.DOWN, LinkState.UP], "the link is swapped")

        await receives(here, "room", b'"after"')
        await here.broker.stop()


async def test_links_that_fail_while_a_probe_works_are_reported_as_unresponsive(
    redis_server: RedisServer, opener: Opener
) -> None:
    async with TcpProxy(redis_server.port) as proxy:
        here = await opener(proxy.url)
        await here.broker.subscribe("room")
        # The way is barred to every link that asks for the room, and to nothing else.
        proxy.refuse = lambda said: b"starling:room" in said
        proxy.cut()

        await until(lambda: LinkState.UNRESPONSIVE in here.links, "the link is reported as unresponsive")

        stats = here.broker.stats
        assert stats.failed_swaps >= 3
        assert stats.probes["received"] >= 3
        proxy.refuse = lambda said: False
        await until(lambda: here.up, "the link returns")
        await receives(here, "room", b'"after"')
        assert stats.failed_swaps == 0
        await here.broker.stop()


@pytest.mark.parametrize("fault", ["kill", pytest.param("freeze", marks=pytest.mark.long)])
async def test_while_the_server_is_away_no_link_counts_as_unresponsive(
    redis_server: RedisServer, opener: Opener, fault: str
) -> None:
    here = await opener(redis_server.url, timeout=0.5)
    await asyncio.to_thread(getattr(redis_server, fault))

    stats = here.broker.stats
    await until(lambda: stats.probes["silent"] >= (3 if fault == "kill" else 2), "links and probes fail")

    assert stats.probes["received"] == 0
    assert stats.failed_swaps > stats.probes["silent"]
    assert LinkState.UNRESPONSIVE not in here.links
    await asyncio.to_thread(redis_server.thaw)


async def nobody_is_connected(server: RedisServer) -> None:
    async with redis.asyncio.from_url(server.url, client_name="test") as plain, asyncio.timeout(DEADLINE):
        while {entry["name"] for entry in await plain.client_list()} != {"test"}:
            await asyncio.sleep(0.05)


async def test_a_probe_gives_its_connections_back_at_whatever_step_it_is_given_up(redis_server: RedisServer) -> None:
    backend = RedisBackend(parse_address(redis_server.url), prefix="starling", timeout=2)
    steps = 0
    done = False
    while not done:
        steps += 1
        probe = asyncio.create_task(
            receives_own_message(backend.make_link(), backend.publish_apart, ":probe:x", seconds=5)
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        done = probe.done()
        probe.cancel()
        await asyncio.wait((probe,))

    assert probe.result() is True
    assert steps > 10
    await nobody_is_connected(redis_server)


async def test_calls_give_their_connection_back_though_their_end_is_given_up(redis_server: RedisServer) -> None:
    connection = RedisBackend(parse_address(redis_server.url), prefix="starling", timeout=2).make_link().connection
    calls = RedisCalls(connection, timeout=2)
    calls.start()
    assert await calls.execute("PING") == b"PONG"
    stopping = asyncio.create_task(calls.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    stopping.cancel()
    await asyncio.wait((stopping,))
    assert stopping.cancelled()
    await nobody_is_connected(redis_server)
