"""What a link's supervisor does, second by second: on a server in this process and a clock that jumps.

Faults that a real server shows are in test_outages.py and test_link_recovery.py, over Redis and PostgreSQL; here are
their times, and those that a real server cannot be made to show at a given moment.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from starling.brokers import supervised
from starling.brokers.broadcast import BroadcastBroker
from starling.brokers.link import LinkLost
from starling.brokers.supervised import in_words
from starling.engine.broker import BrokerUnavailable, LinkState
from tests.brokers.party import Party
from tests.support.local_server import LocalBackend, LocalServer
from tests.support.virtual_time import VirtualTimeLoop, run_in_virtual_time
from tests.support.waiting import until

Test = Callable[[LocalServer], Coroutine[Any, Any, None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Test], None]:
    """Run a test in virtual time, with a server of its own."""
    monkeypatch.setattr(supervised, "time", SimpleNamespace(monotonic=now))

    async def with_server(test: Test) -> None:
        await test(LocalServer())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    return lambda test: run_in_virtual_time(with_server(test))


def now() -> float:
    return asyncio.get_running_loop().time()


def stand_still(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.stand_still(seconds)


@asynccontextmanager
async def started(broker: BroadcastBroker, *, up: bool = True) -> AsyncIterator[Party]:
    party = Party(broker)
    await broker.start(party)
    if up:
        await until(lambda: party.up, "the link comes up")
    yield party
    await broker.stop()


async def is_received(here: Party, channel: str, data: bytes) -> None:
    await here.publish(channel, data)
    await until(lambda: data in here.received(channel), f"{channel} receives")


def reasons(logs: list[Any]) -> list[str]:
    return [line["reason"] for line in logs if line["event"] == "broker_link_down"]


def test_a_link_that_is_cut_is_replaced_at_once_and_every_channel_is_subscribed_again(
    run: Callable[[Test], None],
) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker()) as here:
            for number in range(250):
                await here.broker.subscribe(f"room:{number}")
            await asyncio.sleep(10)
            cut_at = now()
            server.cut(LinkLost("the server closed the connection"))
            await until(lambda: here.links[-2:] == [LinkState.DOWN, LinkState.UP], "the link is swapped")
            assert now() - cut_at < 0.2
            for number in (0, 249):
                await is_received(here, f"room:{number}", b"1")
            assert here.broker.stats.reconnects == 1
            assert here.broker.stats.failed_swaps == 0

    run(test)


def test_a_server_that_is_away_is_asked_once_a_second_and_never_taken_for_a_fault_of_this_process(
    run: Callable[[Test], None],
) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker()) as here:
            server.stop()
            await until(lambda: here.down, "the loss is noticed")
            await asyncio.sleep(30)
            before = server.opened
            await asyncio.sleep(60)
            # A link and a probe for each attempt, 0.5 to 1 s apart.
            assert 60 <= (server.opened - before) / 2 <= 121
            assert here.broker.stats.probes["silent"] > 60
            assert here.links[-1] is LinkState.DOWN
            server.start()
            back_at = now()
            await until(lambda: here.up, "the link is back")
            assert now() - back_at < 1.5
            assert LinkState.UNRESPONSIVE not in here.links

    run(test)


def test_a_frozen_server_is_noticed_when_the_canary_is_late(run: Callable[[Test], None]) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker(timeout=0.5)) as here:
            await here.broker.subscribe("room")
            server.freeze()
            frozen_at = now()
            with structlog.testing.capture_logs() as logs:
                await until(lambda: here.down, "the canary is missed")
            # The canary goes each second, and is late after three.
            assert 2 <= now() - frozen_at <= 4.5
            assert reasons(logs) == [
                "no canary received within 3 s: the broker did not answer within 0.5 s",
            ]
            with pytest.raises(BrokerUnavailable, match="made good when the link returns"):
                await here.broker.subscribe("asked for while frozen")
            server.thaw()
            await until(lambda: here.up, "the link is back")
            await is_received(here, "room", b"1")
            await is_received(here, "asked for while frozen", b"2")

    run(test)


def test_a_server_that_does_not_answer_at_all_is_given_up_step_by_step(run: Callable[[Test], None]) -> None:
    async def test(server: LocalServer) -> None:
        server.freeze()
        with structlog.testing.capture_logs() as logs:
            async with started(server.broker(), up=False) as here:
                await until(lambda: here.down, "the attempt is given up")
                assert 3 <= now() <= 3.1
        assert reasons(logs) == ["no answer within 3 s while connecting"]

    run(test)


def test_links_that_fail_while_probes_receive_are_reported_as_unresponsive_each_third_time(
    run: Callable[[Test], None],
) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker()) as here:
            await here.broker.subscribe("room")
            # The way is barred to every link that asks for the room, and to nothing else.
            server.refuses = lambda channels: "room" in channels
            with structlog.testing.capture_logs() as logs:
                server.cut(LinkLost("cut"))
                await until(lambda: here.links.count(LinkState.UNRESPONSIVE) == 2, "it is reported again")
            assert here.broker.stats.probes == {"received": 6}
            assert [line["log_level"] for line in logs if line["event"] == "broker_link_unresponsive"] == ["error"] * 2
            server.refuses = lambda channels: False
            await until(lambda: here.up, "the link returns")
            await is_received(here, "room", b"1")

    run(test)


def test_a_subscription_that_only_the_server_lost_is_noticed_by_the_count(run: Callable[[Test], None]) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker()) as here:
            await here.broker.subscribe("room")
            lost_at = now()
            with structlog.testing.capture_logs() as logs:
                server.links[0].channels.discard("room")
                await until(lambda: here.links[-2:] == [LinkState.DOWN, LinkState.UP], "the link is swapped")
            assert now() - lost_at < 3
            assert reasons(logs) == ["the server counts 1 subscriptions of 2"]
            await is_received(here, "room", b"1")

    run(test)


def test_a_process_that_stood_still_counts_neither_a_late_canary_nor_a_late_count_against_its_link(
    run: Callable[[Test], None],
) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker()) as here:
            await here.broker.subscribe("room")
            server.freeze()
            # By now a canary and a count are certainly under way.
            await asyncio.sleep(2.5)
            stand_still(5)
            await asyncio.sleep(0)
            server.thaw()
            await is_received(here, "room", b"1")
            await asyncio.sleep(10)
            assert LinkState.DOWN not in here.links
            assert here.broker.stats.up

    run(test)


def test_what_is_unsubscribed_is_unsubscribed_at_the_server_too(run: Callable[[Test], None]) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker()) as here:
            for channel in ("left", "kept"):
                await here.broker.subscribe(channel)
            await here.broker.unsubscribe("left")
            await until(lambda: "left" not in server.links[0].channels, "the server knows")
            assert "kept" in server.links[0].channels

    run(test)


@pytest.mark.parametrize(
    ("why", "reason"), [(None, "the link ended without a reason"), (ZeroDivisionError(), "ZeroDivisionError")]
)
def test_a_link_that_ends_in_a_way_that_none_should_is_replaced_too(
    run: Callable[[Test], None], why: Exception | None, reason: str
) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker()) as here:
            with structlog.testing.capture_logs() as logs:
                server.cut(why)
                await until(lambda: here.links[-2:] == [LinkState.DOWN, LinkState.UP], "the link is swapped")
            assert reasons(logs) == [reason]
            failed = [line for line in logs if line["event"] == "broker_link_failed"]
            assert len(failed) == (why is not None)

    run(test)


def test_a_probe_that_fails_as_none_should_is_logged_and_counts_as_silent(run: Callable[[Test], None]) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker()) as here:
            with structlog.testing.capture_logs() as logs:
                server.fault = ZeroDivisionError()
                server.cut(LinkLost("cut"))
                await until(lambda: here.broker.stats.probes["silent"] == 4, "probes fail")
            assert LinkState.UNRESPONSIVE not in here.links
            assert "broker_probe_failed" in {line["event"] for line in logs}
            # One line for one reason, however often it comes.
            assert reasons(logs) == ["cut", "ZeroDivisionError"]

    run(test)


class InspectedBackend(LocalBackend):
    """Looks at its server, as PostgreSQL's and Redis's do; the test sets what it finds."""

    first: BrokerUnavailable | None = None
    later: LinkLost | None = None

    async def first_up(self) -> None:
        if self.first is not None:
            raise self.first

    async def check_server(self) -> None:
        if self.later is not None:
            raise self.later

    def remedy(self, reason: str) -> str:
        return "ask the primary" if "replica" in reason else ""


def test_a_server_that_cannot_be_inspected_is_used_all_the_same(run: Callable[[Test], None]) -> None:
    async def test(server: LocalServer) -> None:
        backend = InspectedBackend(server, timeout=2)
        backend.first = BrokerUnavailable("no answer to INFO")
        with structlog.testing.capture_logs() as logs:
            async with started(BroadcastBroker(backend)) as here:
                await here.broker.subscribe("room")
                await is_received(here, "room", b"1")
        assert [line["reason"] for line in logs if line["event"] == "broker_not_inspected"] == ["no answer to INFO"]

    run(test)


def test_a_server_that_is_no_longer_the_right_one_is_left_with_a_remedy(run: Callable[[Test], None]) -> None:
    async def test(server: LocalServer) -> None:
        backend = InspectedBackend(server, timeout=2)
        async with started(BroadcastBroker(backend)) as here:
            with structlog.testing.capture_logs() as logs:
                backend.later = LinkLost("the server is a replica now")
                await until(lambda: here.down, "the link is given up")
                backend.later = None
                await until(lambda: here.up, "the link is back")
        (line,) = [line for line in logs if line["event"] == "broker_link_down"]
        assert (line["reason"], line["remedy"]) == ("the server is a replica now", "ask the primary")

    run(test)


def test_more_than_a_process_can_deliver_is_a_gap_between_what_it_delivers(run: Callable[[Test], None]) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker(max_events=50)) as here, started(server.broker()) as there:
            await here.broker.subscribe("room")
            here.reported.clear()
            with structlog.testing.capture_logs() as logs:
                await asyncio.gather(*(there.publish("room", b"%d" % number) for number in range(200)))
                await until(lambda: len(here.entries) == 50, "what had room arrives")
                await is_received(here, "room", b'"end"')
            assert here.reported == ["publication"] * 50 + ["down", "up", "publication"]
            assert here.received("room") == [*(b"%d" % number for number in range(50)), b'"end"']
            assert here.broker.stats.dropped["queue_full"] == here.broker.take_overflowed()["room"] == 150
            names = [line["event"] for line in logs]
            assert names == ["broker_queue_full", "broker_queue_has_room"]

    run(test)


def test_a_message_that_no_process_of_this_service_sent_is_dropped_counted_and_logged_once(
    run: Callable[[Test], None],
) -> None:
    async def test(server: LocalServer) -> None:
        async with started(server.broker()) as here:
            await here.broker.subscribe("room")
            with structlog.testing.capture_logs() as logs:
                for message in (b"", b"no envelope", b"p x y z\n"):
                    server.publish("room", message)
                await is_received(here, "room", b"1")
            assert here.received("room") == [b"1"]
            assert here.broker.stats.dropped["malformed"] == 3
            assert [line["event"] for line in logs] == ["broker_message_malformed"]

    run(test)


async def test_a_broker_may_be_stopped_that_was_never_started() -> None:
    await LocalServer().broker().stop()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "[Errno -2] Name or service not known"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "certificate verify failed"),
        (LinkLost("the server closed the connection"), "the server closed the connection"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_failure_is_logged_in_the_words_of_the_system_and_without_an_address(error: Exception, words: str) -> None:
    assert in_words(error) == words


def test_a_failure_that_a_library_wraps_is_logged_as_what_the_system_said() -> None:
    def fail() -> None:
        try:
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        except OSError:
            raise RuntimeError("the library says nothing of use")  # noqa: B904 - libraries do so

    with pytest.raises(RuntimeError) as failed:
        fail()
    assert in_words(failed.value) == os.strerror(errno.ECONNRESET)
