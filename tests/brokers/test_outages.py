"""A link that was lost returns by itself, says that it was away, and lies to nobody meanwhile."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import pytest
import redis.asyncio
import structlog
import uvloop

from starling.brokers.open import open_broker
from starling.engine.broker import BrokerUnavailable, LinkState
from tests.brokers.conftest import Opener
from tests.brokers.party import Party
from tests.support.services import PostgresServer, RedisServer, Server
from tests.support.waiting import StepClock, until

BACK_WITHIN = 5.0


async def receives_again(here: Party, there: Party, channel: str = "room") -> None:
    """Publish until `here` receives it; the promise is 5 s from the server's return."""
    before = len(here.received(channel))
    with StepClock() as clock:
        while len(here.received(channel)) == before:
            assert clock.seconds < BACK_WITHIN, f"{channel} is not received {BACK_WITHIN:g} s after the return"
            with suppress(BrokerUnavailable):
                await there.publish(channel, b'"again"')
            await asyncio.sleep(0.05)


async def cut_connections(server: Server, names: str = "starling-") -> None:
    """Let the server end the brokers' connections whose names begin so."""
    if isinstance(server, RedisServer):
        async with redis.asyncio.from_url(server.url, client_name="test") as client:
            for entry in await client.client_list():
                if entry["name"].startswith(names):
                    await client.client_kill_filter(_id=entry["id"])
    else:
        connection = await asyncpg.connect(server.url)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, $1)", names
        )
        await connection.close()


async def test_delivery_is_back_after_a_kill_and_restart(server: Server, opener: Opener) -> None:
    here, there = await opener(server.url), await opener(server.url)
    await here.broker.subscribe("room")
    await there.publish("room", b'"before"')
    await until(lambda: here.received("room"), "the first message arrives")
    await asyncio.to_thread(server.kill)
    await until(lambda: here.down and there.down, "the loss is noticed")
    assert not here.broker.stats.up
    await asyncio.to_thread(server.start)
    await receives_again(here, there)
    await until(lambda: here.up, "the link is reported to be up")
    assert here.links[-3:] == [LinkState.UP, LinkState.DOWN, LinkState.UP]
    assert here.broker.stats.up
    assert here.broker.stats.reconnects == 1


async def test_the_loss_is_reported_between_the_messages_around_it(server: Server, opener: Opener) -> None:
    here, there = await opener(server.url), await opener(server.url)
    await here.broker.subscribe("room")
    await there.publish("room", b"1")
    await there.publish("room", b"2")
    await until(lambda: len(here.entries) == 2, "both messages arrive")
    await cut_connections(server)
    await until(lambda: here.down, "the loss is noticed")
    await until(lambda: here.up and there.up, "the links are back")
    await receives_again(here, there)
    reported = here.reported[here.reported.index("up") :]
    assert reported[:5] == ["up", "publication", "publication", "down", "up"]
    assert set(reported[5:]) == {"publication"}


async def test_connections_cut_by_the_server_are_replaced(server: Server, opener: Opener) -> None:
    here, there = await opener(server.url), await opener(server.url)
    await here.broker.subscribe("room")
    for _ in range(3):
        here.links.clear()
        await cut_connections(server)
        await until(lambda: LinkState.DOWN in here.links, "the loss is noticed")
        await receives_again(here, there)
        await until(lambda: here.up and there.up, "the links are back")


async def test_a_lost_publishing_connection_is_replaced_before_anybody_notices(server: Server, opener: Opener) -> None:
    here = await opener(server.url)
    await here.broker.subscribe("room")
    for number in range(3):
        await here.publish("room", b"%d" % number)
        await cut_connections(server, "starling-publisher")
        await asyncio.sleep(0.1)
    await here.publish("room", b"3")
    await until(lambda: len(here.entries) >= 4, "all messages arrive")
    assert here.received("room") == [b"0", b"1", b"2", b"3"]
    assert LinkState.DOWN not in here.links


async def test_a_frozen_server_is_noticed_and_delivery_is_back_after_the_thaw(server: Server, opener: Opener) -> None:
    here, there = await opener(server.url, timeout=0.5), await opener(server.url, timeout=0.5)
    await here.broker.subscribe("room")
    await asyncio.to_thread(server.freeze)
    await until(lambda: here.down, "the canary is missed")
    with pytest.raises(BrokerUnavailable):
        await there.publish("room", b'"into the ice"')
    with pytest.raises(BrokerUnavailable):
        await here.broker.subscribe("asked for while frozen")
    await asyncio.to_thread(server.thaw)
    await receives_again(here, there)
    await receives_again(here, there, "asked for while frozen")


async def test_a_publish_while_the_server_is_away_is_refused(server: Server, opener: Opener) -> None:
    here = await opener(server.url)
    await here.broker.subscribe("room")
    await asyncio.to_thread(server.kill)
    for _ in range(3):
        outcomes = await asyncio.gather(*(here.publish("room", b'"lost"') for _ in range(100)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable] * 100
    await asyncio.to_thread(server.start)
    await receives_again(here, here)
    assert b'"lost"' not in here.received("room")


async def test_a_subscription_asked_for_during_an_outage_is_made_good(server: Server, opener: Opener) -> None:
    here, there = await opener(server.url, timeout=0.5), await opener(server.url)
    await asyncio.to_thread(server.kill)
    await until(lambda: here.down, "the loss is noticed")
    with pytest.raises(BrokerUnavailable, match="made good"):
        await here.broker.subscribe("wanted")
    with pytest.raises(BrokerUnavailable):
        await here.broker.subscribe("given up")
    await here.broker.unsubscribe("given up")
    await asyncio.to_thread(server.start)
    await receives_again(here, there, "wanted")
    await there.publish("given up", b"1")
    await receives_again(here, there, "wanted")
    assert here.received("given up") == []
    await here.broker.subscribe("wanted")


async def test_a_subscription_waiting_when_the_link_returns_is_acknowledged(server: Server, opener: Opener) -> None:
    here, there = await opener(server.url, timeout=30), await opener(server.url)
    await asyncio.to_thread(server.kill)
    await until(lambda: here.down, "the loss is noticed")
    subscribing = asyncio.ensure_future(here.broker.subscribe("room"))
    await asyncio.to_thread(server.start)
    await subscribing
    await until(lambda: there.up, "the other link is back")
    await there.publish("room", b"1")
    await until(lambda: here.received("room") == [b"1"], "the message arrives")


async def test_every_channel_is_subscribed_again(server: Server, opener: Opener) -> None:
    here, there = await opener(server.url, timeout=30), await opener(server.url, timeout=30)
    channels = [f"room:{number}" for number in range(3000 if isinstance(server, RedisServer) else 300)]
    await asyncio.gather(*map(here.broker.subscribe, channels))
    await asyncio.to_thread(server.kill)
    await until(lambda: here.down and there.down, "the loss is noticed")
    await asyncio.to_thread(server.start)
    await until(lambda: here.up and there.up, "the links are back")
    await asyncio.gather(*(there.publish(channel, b"1") for channel in channels))
    await until(lambda: len(here.entries) >= len(channels), "every channel hears")
    assert sorted(name for name, _ in here.entries) == sorted(channels)


async def test_a_broker_started_before_its_server_connects_when_it_comes(server: Server, opener: Opener) -> None:
    await asyncio.to_thread(server.kill)
    with structlog.testing.capture_logs() as logs:
        here = await opener(server.url, up=False)
        await until(lambda: here.down, "the first try fails")
        assert here.links == [LinkState.CONNECTING, LinkState.DOWN]
        await asyncio.to_thread(server.start)
        await until(lambda: here.up, "the link comes up")
    downs = [line for line in logs if line["event"] == "broker_link_down"]
    assert downs[0]["address"].endswith(f"://127.0.0.1:{server.port}")
    assert "refused" in downs[0]["reason"].lower()
    assert [line["log_level"] for line in logs if line["event"] == "broker_link_up"] == ["info"]
    assert here.broker.stats.reconnects == 0


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_stop_is_clean_while_the_server_is_away(server: Server, opener: Opener, fault: str) -> None:
    here = await opener(server.url)
    await here.broker.subscribe("room")
    await asyncio.to_thread(getattr(server, fault))
    publishing = asyncio.ensure_future(here.publish("room", b"1"))
    await here.broker.stop()
    with pytest.raises(BrokerUnavailable):
        await publishing
    await asyncio.to_thread(server.thaw)


async def test_stop_is_clean_while_the_link_is_being_lost(server: Server, opener: Opener) -> None:
    for delay in (0, 0.01, 0.05):
        here = await opener(server.url)
        await here.broker.subscribe("room")
        await cut_connections(server)
        await asyncio.sleep(delay)
        await here.broker.stop()


@pytest.mark.parametrize(
    "make_loop", [pytest.param(asyncio.new_event_loop, marks=pytest.mark.long), uvloop.new_event_loop]
)
def test_a_process_that_stood_still_keeps_its_link(
    redis_server: RedisServer, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def stand_still() -> None:
        here = Party(open_broker(redis_server.url))
        await here.broker.start(here)
        await until(lambda: here.up, "the link comes up")
        await here.broker.subscribe("room")
        # Frozen for a moment, so that a canary is certainly under way when the process stands still.
        redis_server.freeze()
        await asyncio.sleep(1.3)
        redis_server.thaw()
        time.sleep(4.5)
        await here.publish("room", b"1")
        await until(lambda: here.received("room") == [b"1"], "the message arrives")
        assert LinkState.DOWN not in here.links
        await here.broker.stop()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(stand_still())


# On the event loop of the standard library, and on uvloop in tests/system: the tests above and those of outages there.
@pytest.mark.processes
@pytest.mark.long
@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_on_uvloop_delivery_is_back_too(kind: str, request: pytest.FixtureRequest) -> None:
    server: RedisServer | PostgresServer = request.getfixturevalue(f"{kind}_server")

    async def outage() -> Party:
        here = Party(open_broker(server.url))
        await here.broker.start(here)
        await until(lambda: here.up, "the link comes up")
        await here.broker.subscribe("room")
        await here.publish("room", b"1")
        await until(lambda: here.received("room") == [b"1"], "the message arrives")
        await asyncio.to_thread(server.kill)
        await until(lambda: here.down, "the loss is noticed")
        await asyncio.to_thread(server.start)
        await receives_again(here, here)
        await asyncio.to_thread(server.freeze)
        await until(lambda: here.down, "the canary is missed")
        await asyncio.to_thread(server.thaw)
        await receives_again(here, here)
        await here.broker.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return here

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(outage()).broker.stats.reconnects >= 1
