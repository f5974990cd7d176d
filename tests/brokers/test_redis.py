"""What is particular to Redis: names on the wire, its warnings, and strangers on its channels."""

import asyncio

import pytest
import redis.asyncio
import structlog
from msgspec import Raw
from structlog.typing import EventDict

from starling.brokers.redis.address import parse_address
from starling.brokers.redis.backend import RedisBackend
from starling.engine.broker import BrokerUnavailable, LinkState, PublishOptions
from starling.protocol.messages import Publication
from tests.brokers.conftest import Opener
from tests.support.services import RedisServer, free_port
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until


def events(logs: list[EventDict], name: str) -> list[EventDict]:
    return [line for line in logs if line["event"] == name]


async def test_a_channel_is_its_name_after_the_prefix_on_the_wire(redis_server: RedisServer, opener: Opener) -> None:
    here = await opener(redis_server.url, prefix="acme")
    await here.broker.subscribe("chat:room")
    async with redis.asyncio.from_url(redis_server.url, decode_responses=True) as client:
        canary, room = sorted(str(name) for name in await client.pubsub_channels())
        assert room == "acme:chat:room"
        assert canary.startswith("acme::canary:")
        assert await client.publish("acme:chat:room", b'p - 0 0\n1700000000000 0\n{"from":"a script"}') == 1
    await until(lambda: here.entries, "the message arrives")
    assert here.received("chat:room") == [b'{"from":"a script"}']
    assert here.entries[0][1].publication.time == 1700000000000


async def test_the_server_is_notified_of_subscriptions_that_ended(redis_server: RedisServer, opener: Opener) -> None:
    here = await opener(redis_server.url)
    channels = [f"room:{number}" for number in range(2500)]
    await asyncio.gather(*map(here.broker.subscribe, channels))
    await asyncio.gather(*map(here.broker.unsubscribe, channels))
    await here.broker.subscribe("last")
    async with redis.asyncio.from_url(redis_server.url) as client:
        end = asyncio.get_running_loop().time() + 10
        while len(left := await client.pubsub_channels("starling:[a-z]*")) > 1:
            assert asyncio.get_running_loop().time() < end, f"{len(left)} channels stay subscribed"
            await asyncio.sleep(0.05)
    assert left == [b"starling:last"]


async def test_hostile_bytes_are_dropped_counted_and_logged_once(redis_server: RedisServer, opener: Opener) -> None:
    here = await opener(redis_server.url)
    await here.broker.subscribe("room")
    hostile = [b"", b"\xff\xfe\x00", b"p", b"p - 0 0\n1 9\nx", b"j\n{", b"l\n" + b"[" * 50_000, b"hello " * 1000]
    with structlog.testing.capture_logs() as logs:
        async with redis.asyncio.from_url(redis_server.url) as client:
            for data in hostile:
                await client.publish("starling:room", data)
        await here.publish("room", b'"honest"')
        await until(lambda: here.entries, "the honest message arrives")
    assert here.received("room") == [b'"honest"']
    assert here.joins == here.leaves == []
    assert here.broker.stats.dropped == {"malformed": len(hostile)}
    (line,) = events(logs, "broker_message_malformed")
    assert line["channel"] == "room"
    assert "hello" not in str(logs)


async def test_a_forged_canary_neither_raises_nor_counts(redis_server: RedisServer, opener: Opener) -> None:
    here = await opener(redis_server.url)
    async with redis.asyncio.from_url(redis_server.url) as client:
        (name,) = await client.pubsub_channels("starling::canary:*")
        for data in (b"", b"999999", b"\xff", b"-1"):
            await client.publish(name, data)
    await here.broker.subscribe("room")
    await here.publish("room", b"1")
    await until(lambda: here.received("room"), "the link goes on")
    assert sum(here.broker.stats.dropped.values()) == 0


async def test_connections_carry_names_and_the_chosen_database(redis_server: RedisServer, opener: Opener) -> None:
    await opener(f"redis://127.0.0.1:{redis_server.port}/3")
    async with redis.asyncio.from_url(redis_server.url) as client:
        ours = {entry["name"].split("-")[1]: entry for entry in await client.client_list() if entry["name"]}
    assert sorted(ours) == ["publisher", "subscriber"]
    assert {entry["db"] for entry in ours.values()} == {"3"}


@pytest.mark.processes
async def test_a_server_that_may_evict_is_warned_of_once(opener: Opener) -> None:
    with RedisServer(maxmemory_policy="allkeys-lru") as server, structlog.testing.capture_logs() as logs:
        here = await opener(server.url)
        await until(lambda: events(logs, "redis_may_evict"), "the warning comes")
        await asyncio.to_thread(server.restart)
        await until(lambda: here.broker.stats.reconnects == 1, "the link is back")
        await here.broker.subscribe("room")
        await here.broker.stop()
    (line,) = events(logs, "redis_may_evict")
    assert line["maxmemory_policy"] == "allkeys-lru"
    assert "noeviction" in line["remedy"]


async def test_a_fit_server_is_not_warned_of(redis_server: RedisServer, opener: Opener) -> None:
    with structlog.testing.capture_logs() as logs:
        here = await opener(redis_server.url)
        async with redis.asyncio.from_url(redis_server.url) as client:
            asked = 0
            # The inspection asks three times, and this loop counts itself.
            while (await client.info("commandstats")).get("cmdstat_info", {"calls": 0})["calls"] < asked + 3:
                asked += 1
                await asyncio.sleep(0.01)
        await here.broker.subscribe("room")
        await here.publish("room", b"1")
        await until(lambda: here.received("room"), "what was asked later is answered")
        await here.broker.stop()
    assert [line["event"] for line in logs if line["log_level"] != "info"] == []


async def test_an_old_server_is_warned_of(opener: Opener) -> None:
    """A fake: no Redis older than 7.0 is at hand, so this server only says what an old one says."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subscribed: dict[bytes, asyncio.StreamWriter] = subscriptions
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:-2])
            verb = words[0].upper()
            if verb == b"SUBSCRIBE":
                for number, name in enumerate(words[1:], 1):
                    subscribed[name] = writer
                    writer.write(b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:%d\r\n" % (len(name), name, number))
            elif verb == b"PUBLISH":
                name, data = words[1:]
                message = b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(data), data)
                subscribed[name].write(message)
                writer.write(b":1\r\n")
            elif verb == b"INFO":
                text = b"# Server\r\nredis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\n"
                writer.write(b"$%d\r\n%b\r\n" % (len(text), text))
            else:
                writer.write(b"+OK\r\n")
        writer.close()

    subscriptions: dict[bytes, asyncio.StreamWriter] = {}
    server = await asyncio.start_server(answer, "127.0.0.1", free_port())
    port = server.sockets[0].getsockname()[1]
    with structlog.testing.capture_logs() as logs:
        here = await opener(f"redis://127.0.0.1:{port}/0")
        await until(lambda: events(logs, "redis_too_old"), "the warning comes")
        await here.broker.stop()
    server.close()
    await server.wait_closed()
    (line,) = events(logs, "redis_too_old")
    assert line["version"] == "6.2.14"
    assert "7.0" in line["remedy"]


async def test_a_cancelled_command_does_not_cross_replies(redis_server: RedisServer) -> None:
    backend = RedisBackend(parse_address(redis_server.url), prefix="starling", timeout=2)
    await backend.open_publishing()
    try:
        for _ in range(50):
            doomed = asyncio.ensure_future(backend.calls.execute("ECHO", "doomed"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            doomed.cancel()
            others = [backend.calls.execute("ECHO", f"{number}") for number in range(5)]
            assert await asyncio.gather(*others) == [b"0", b"1", b"2", b"3", b"4"]
    finally:
        await backend.close_publishing()


async def test_a_command_that_ran_out_of_time_does_not_cross_replies(redis_server: RedisServer) -> None:
    backend = RedisBackend(parse_address(redis_server.url), prefix="starling", timeout=0.3)
    await backend.open_publishing()
    try:
        assert await backend.calls.execute("ECHO", "warm") == b"warm"
        redis_server.freeze()
        with pytest.raises(BrokerUnavailable, match=r"0\.3 s"):
            await backend.calls.execute("ECHO", "late")
        redis_server.thaw()
        for number in range(20):
            assert await backend.calls.execute("ECHO", f"{number}") == b"%d" % number
    finally:
        await backend.close_publishing()


async def test_a_refused_command_fails_alone(redis_server: RedisServer) -> None:
    backend = RedisBackend(parse_address(redis_server.url), prefix="starling", timeout=2)
    await backend.open_publishing()
    try:
        outcomes = await asyncio.gather(
            backend.calls.execute("ECHO", "before"),
            backend.calls.execute("NOSUCHCOMMAND"),
            backend.calls.execute("ECHO", "after"),
            return_exceptions=True,
        )
    finally:
        await backend.close_publishing()
    assert (outcomes[0], outcomes[2]) == (b"before", b"after")
    assert isinstance(outcomes[1], redis.exceptions.ResponseError)


@pytest.mark.processes
async def test_a_server_that_became_a_replica_is_left_for_what_its_address_leads_to(
    redis_server: RedisServer, opener: Opener
) -> None:
    """As behind the one name of a managed Redis, whose old connections may live on."""
    kept = PublishOptions(history_size=10, history_ttl=60, history_meta_ttl=60)
    with RedisServer() as other:
        async with TcpProxy(redis_server.port) as proxy, redis.asyncio.from_url(redis_server.url) as admin:
            here, elsewhere = await opener(proxy.url), await opener(other.url)
            await here.broker.subscribe("room")
            proxy.upstream = other.port
            await admin.replicaof("127.0.0.1", other.port)
            with pytest.raises(BrokerUnavailable, match="read only replica"):
                await here.broker.publish("room", Publication(Raw(b"1")), kept)
            await here.broker.publish("room", Publication(Raw(b"2")), kept)

            await until(lambda: here.links[-2:] == [LinkState.DOWN, LinkState.UP], "the link is swapped")

            await elsewhere.publish("room", b"3")
            await until(lambda: b"3" in here.received("room"), "the master is heard")
            async with redis.asyncio.from_url(other.url) as client:
                names = {entry["name"].split("-")[1] for entry in await client.client_list() if entry["name"]}
            assert {"publisher", "subscriber"} <= names
            await here.broker.stop()
