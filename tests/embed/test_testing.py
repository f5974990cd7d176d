"""The test kit of the package: a service in the test's own event loop."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvloop
from fastapi import FastAPI

from starling import CurrentUser, Starling
from starling.embed.methods import MethodFailed
from starling.testing import API_KEY, ExpectationFailed, RunningService, service

ROOT = Path(__file__).parents[2]


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


async def test_published_is_what_was_published_by_anybody_with_history_or_without() -> None:
    own = Starling(environment={}, dev=True, token_hmac_secret="short")
    for _ in range(2):
        async with service(own) as running:
            ann = await running.connect("ann")
            await own.publish("demo:chat", {"text": "hi"})
            await ann.publish("demo:chat", "from a client")
            await own.broadcast(["demo:chat", "other"], [1, None])
            for _ in range(2):
                await own.publish("other", "once", idempotency_key="k")
            await running.lose_broker(1)
            with pytest.raises(MethodFailed):
                await own.publish("other", "lost")
            assert await running.published("demo:chat") == [{"text": "hi"}, "from a client", [1, None]]
            assert await running.published("other") == [[1, None], "once"]
            assert await running.published("never") == []


async def test_a_turned_clock_ends_tokens_subscriptions_and_what_is_kept_for_a_time(tmp_path: Path) -> None:
    (tmp_path / "channels.yaml").write_text("default: {history_size: 10, history_ttl: 60s, presence: true}\n")
    async with service(channels_file=tmp_path / "channels.yaml") as starling:
        short = await starling.connect(token=starling.token("ann", ttl=60, channels=["orders"]))
        long = await starling.connect(token=starling.token("bob", ttl=None, channels=["orders"]))
        ends_soon = await starling.connect("eve", subs={"orders": {"expire_at": time.time() + 30}})
        ticket = (await starling.starling.ticket("dora", ttl=30)).ticket
        await starling.starling.publish("orders", 1)
        await starling.starling.presence_set("orders", "bot", ttl=60)

        await starling.turn(29)
        assert short.closed is None
        assert (await starling.starling.history("orders", limit=-1)).publications
        assert "agent:bot" in await starling.starling.presence("orders")

        await starling.turn(61)
        assert short.closed == 3005
        assert long.closed is None
        assert ends_soon.closed == 3006
        assert (await starling.starling.history("orders", limit=-1)).publications == []
        assert "agent:bot" not in await starling.starling.presence("orders")
        with pytest.raises(ExpectationFailed, match="109"):
            await starling.connect(token=ticket)


async def test_the_clock_is_the_real_one_again_after_the_service() -> None:
    before = time.time(), time.monotonic()
    functions = time.time, time.monotonic
    async with service() as starling:
        await starling.turn(3600)
        assert time.time() - before[0] > 3600
        pause = asyncio.create_task(asyncio.sleep(0.01))
    assert (time.time, time.monotonic) == functions
    assert time.time() - before[0] < 3600
    # A timer of before does not wait for the hour that was turned.
    await pause


def test_a_loop_whose_clock_cannot_be_turned_is_refused_with_the_reason() -> None:
    async def turn() -> None:
        async with service() as starling:
            with pytest.raises(ValueError, match="turn\\(-1\\)"):
                await starling.turn(-1)
            with pytest.raises(RuntimeError, match="asyncio's own event loop"):
                await starling.turn(1)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(turn())


async def test_a_broker_that_is_lost_returns_with_its_subscriptions(tmp_path: Path) -> None:
    (tmp_path / "channels.yaml").write_text("namespaces: {kept: {history_size: 10, history_ttl: 60s}}\n")
    async with service(channels_file=tmp_path / "channels.yaml") as starling:
        ann = await starling.connect("ann", channels=["orders", "kept:1"])
        await starling.lose_broker(5)
        for work in (
            starling.starling.publish("orders", 1),
            starling.starling.history("kept:1"),
            starling.starling.ticket("bob"),
        ):
            with pytest.raises(MethodFailed, match="100"):
                await work
        assert ann.closed is None

        await starling.turn(5)
        for channel in ("orders", "kept:1"):
            await starling.starling.publish(channel, 2)
            assert await ann.expect(channel) == 2


async def test_only_the_broker_in_memory_can_be_lost() -> None:
    async with service(broker_url="redis://127.0.0.1:1") as starling:
        with pytest.raises(ValueError, match="memory://"):
            await starling.lose_broker(1)


async def test_http_clients_reach_the_application_and_the_server_api_in_the_same_loop() -> None:
    realtime = Starling(environment={}, token_hmac_secret="a secret of this test with many bytes")
    app = FastAPI()
    realtime.install(app)

    @app.post("/orders")
    async def order(number: int, user: CurrentUser) -> dict[str, Any]:
        await realtime.publish("orders", {"number": number})
        return {"user": user}

    async with service(realtime) as own, service() as other:
        ann = await own.connect("ann", channels=["orders"])
        bob = await other.connect("bob", channels=["orders"])
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://own") as client:
            headers = {"Authorization": f"Bearer {own.token('eve')}"}
            assert (await client.post("/orders?number=3", headers=headers)).json() == {"user": "eve"}
            assert (await client.post("/orders?number=3")).status_code == 401
        await ann.expect("orders", {"number": 3})

        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=other.app), base_url="http://api") as client:
            body = {"channel": "orders", "data": {"number": 4}}
            answer = await client.post("/api/publish", json=body, headers={"X-API-Key": API_KEY})
            assert answer.json() == {"result": {}}
        await bob.expect("orders", {"number": 4})


@pytest.mark.processes
def test_djangos_own_async_tests_run_with_it() -> None:
    program = (
        "import sys; from django.conf import settings; settings.configure(); import django; django.setup(); "
        "from django.test.utils import get_runner; "
        "sys.exit(get_runner(settings)().run_tests(['docs.examples.check_django']))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "Ran 1 test" in run.stderr
