"""Redis behind Sentinel: the master is found, left when it is deposed, and anyone who lost something is notified."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog

from starling.engine.broker import BrokerUnavailable, LinkState
from tests.brokers.conftest import Opener
from tests.brokers.party import Party
from tests.support.configured_redis import ConfiguredServer
from tests.support.redis_sentinels import SERVICE, SentinelGroup
from tests.support.waiting import StepClock, until

pytestmark = pytest.mark.processes

BACK_WITHIN = 5.0


@pytest.fixture
def group() -> Iterator[SentinelGroup]:
    with SentinelGroup() as made:
        yield made


async def receive_again(here: Party, there: Party) -> None:
    """Publish until `here` receives it; the promise is 5 s from the promotion."""
    before = len(here.received("room"))
    with StepClock() as clock:
        while len(here.received("room")) == before:
            assert clock.seconds < BACK_WITHIN, f"nothing is received {BACK_WITHIN:g} s after the promotion"
            with suppress(BrokerUnavailable):
                await there.publish("room", b'"again"')
            await asyncio.sleep(0.05)


def connected(server: ConfiguredServer) -> list[str]:
    """Names of the brokers' connections to `server`."""
    with server.client() as client:
        return [entry["name"] for entry in client.client_list() if entry["name"].startswith("starling-")]


async def test_the_master_is_found_and_its_death_survived(group: SentinelGroup, opener: Opener) -> None:
    here, there = await opener(group.url), await opener(group.url)
    await here.broker.subscribe("room")
    await there.publish("room", b"1")
    await until(lambda: here.received("room") == [b"1"], "the message arrives")
    former = group.master
    await until(lambda: len(connected(former)) == 4, "both are connected twice, and no probe runs")

    former.kill()
    refused = await asyncio.gather(*(there.publish("room", b"2") for _ in range(20)), return_exceptions=True)
    await asyncio.to_thread(group.until_promoted, former)
    await receive_again(here, there)
    await until(lambda: here.up and there.up, "the links are up")

    assert {type(outcome) for outcome in refused} == {BrokerUnavailable}
    assert b"2" not in here.received("room")
    assert here.links[-3:] == [LinkState.UP, LinkState.DOWN, LinkState.UP]
    await until(lambda: len(connected(group.master)) == 4, "both are connected twice, and no probe runs")


async def test_a_frozen_master_that_returns_is_left_alone(group: SentinelGroup, opener: Opener) -> None:
    here, there = await opener(group.url, timeout=2), await opener(group.url, timeout=2)
    await here.broker.subscribe("room")
    former = group.master
    await asyncio.to_thread(former.freeze)
    await asyncio.to_thread(group.until_promoted, former)
    await receive_again(here, there)
    await asyncio.to_thread(former.thaw)
    await receive_again(here, there)
    await until(lambda: connected(former) == [], "nobody is connected to the former master")
    await until(lambda: len(connected(group.master)) == 4, "both are connected twice, and no probe runs")


async def test_a_master_that_was_deposed_but_goes_on_serving_is_left(group: SentinelGroup, opener: Opener) -> None:
    here, there = await opener(group.url), await opener(group.url)
    await here.broker.subscribe("room")
    former = group.master
    with former.client() as client:
        # So that no sentinel can depose it in fact, nor end its connections.
        client.acl_setuser("default", enabled=True, commands=["-replicaof", "-slaveof", "-multi"])
    await asyncio.to_thread(former.freeze)
    await asyncio.to_thread(group.until_promoted, former)
    await asyncio.to_thread(former.thaw)

    await until(lambda: connected(former) == [], "the former master is left")

    await receive_again(here, there)
    with former.client() as client:
        assert client.execute_command("ROLE")[0] == "master"


async def test_the_word_of_the_latest_election_counts(group: SentinelGroup, opener: Opener) -> None:
    """A sentinel that was away during the election names the former master until it learns of it."""
    behind, former = group.sentinels[0], group.master
    await asyncio.to_thread(behind.freeze)
    await asyncio.to_thread(former.kill)
    await asyncio.to_thread(group.until_promoted, former)
    here = await opener(group.url)
    await here.broker.subscribe("room")
    await receive_again(here, here)
    await asyncio.to_thread(behind.thaw)


async def test_sentinels_and_servers_each_have_their_own_password(opener: Opener) -> None:
    with SentinelGroup(password="sesame", sentinel_password="open") as group:
        here = await opener(group.url)
        await here.broker.subscribe("room")
        await here.publish("room", b"1")
        await until(lambda: here.received("room") == [b"1"], "the message arrives")
        with structlog.testing.capture_logs() as logs:
            shut_out = await opener(group.url.replace("=open", "=wrong"), up=False)
            await until(lambda: shut_out.down, "the wrong password is reported")
            lost = await opener(group.url.replace(f"/{SERVICE}", "/other"), up=False)
            await until(lambda: lost.down, "the unknown name is reported")
        reasons = [line["reason"] for line in logs if line["event"] == "broker_link_down"]
        assert "password" in reasons[0]
        assert "'other': it is not among those they watch" in reasons[1]
        assert "sesame" not in str(logs)
        await here.broker.stop()
