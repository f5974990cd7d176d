"""The test kit of the package: a service in the test's own event loop."""

import pytest

from starling import Starling
from starling.testing import ExpectationFailed, RunningService, service


async def test_clients_receive_what_the_application_publishes(starling: RunningService) -> None:
    ann = await starling.connect("ann", channels=["orders"])
    bob = await starling.connect("bob", channels=["orders"])
    await starling.starling.publish("orders", {"number": 1})
    await starling.starling.publish("orders", {"number": 2})
    assert await ann.expect("orders", {"number": 2}) == {"number": 2}
    assert await ann.expect("orders") == {"number": 1}
    assert await bob.expect("orders", lambda order: order["number"] > 1) == {"number": 2}


async def test_a_failed_expectation_shows_the_last_events(starling: RunningService) -> None:
    ann = await starling.connect("ann", channels=["orders"])
    await starling.starling.publish("orders", {"number": 1})
    with pytest.raises(ExpectationFailed, match=r"has not come within(.|\n)*'number': 1"):
        await ann.expect("orders", {"number": 9}, within=0.05)


async def test_a_refused_command_and_a_refused_token_fail_with_what_was_answered(starling: RunningService) -> None:
    ann = await starling.connect("ann")
    with pytest.raises(ExpectationFailed, match=r"subscribe was refused(.|\n)*103"):
        await ann.subscribe("private")
    with pytest.raises(ExpectationFailed, match="closed with 3500"):
        await starling.connect(token="a.b.c")


async def test_disconnect_by_the_server_and_a_cut_both_end_the_client(starling: RunningService) -> None:
    ann = await starling.connect("ann", channels=["orders"])
    bob = await starling.connect("bob", channels=["orders"])
    starling.cut(bob)
    assert bob.closed == 1006
    await starling.starling.disconnect("ann")
    with pytest.raises(ExpectationFailed, match="closed with 3503"):
        await ann.expect("orders")


async def test_two_services_in_one_test_share_nothing() -> None:
    async with service() as one, service() as two:
        here = await one.connect("ann", channels=["a"])
        there = await two.connect("ann", channels=["a"])
        await one.starling.publish("a", 1)
        assert await here.expect("a") == 1
        with pytest.raises(ExpectationFailed):
            await there.expect("a", within=0.05)


async def test_published_reads_the_history_of_the_users_own_starling() -> None:
    own = Starling(environment={}, dev=True, token_hmac_secret="short")
    async with service(own) as running:
        await own.publish("demo:chat", {"text": "hi"})
        assert await running.published("demo:chat") == [{"text": "hi"}]
