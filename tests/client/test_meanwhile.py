"""What happens to a client while one of its commands is under way, and what is left of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from starling.auth.issue import issue_subscription_token
from starling.client.authority import Grant, Identity
from starling.client.node_commands import SubscribeCommand, UnsubscribeCommand
from starling.engine.append_store import StreamKind
from starling.engine.hooks import RefreshDecision
from starling.engine.receiver import TokenFacts
from starling.engine.stream_chunks import text_chunk
from starling.main import Application
from starling.protocol.decisions import RenewSubscription
from starling.protocol.messages import Frame
from tests.support.frame_clients import SECRET, FrameClient, Reports, publish, subscribe, unsubscribe
from tests.support.json_transport import JsonTransport
from tests.support.waiting import until

HISTORY = {"history_size": 10, "history_ttl": "60s", "allow_history_for_subscriber": True}
PRESENCE = {"presence": True, "join_leave": True}
OPEN = {"allow_subscribe_for_client": True, "allow_channel_compaction": True}
CHANNELS: dict[str, Any] = {
    "plain": OPEN,
    "kept": OPEN | HISTORY,
    "watched": OPEN | PRESENCE,
    "both": OPEN | HISTORY | PRESENCE,
    "log": {"allow_subscribe_for_client": True, "stream": "text", "stream_max_bytes": 4 * 2**20},
}
RED = {"key": "color", "cmp": "eq", "val": "red"}
# A recovery from no position of the stream, which the client wants refused (112).
UNRECOVERABLE: dict[str, Any] = {"recover": True, "epoch": "other", "offset": 7, "flag": 2}


def counted(service: Application) -> int:
    """The subscriptions in the metric."""
    return sum(service.engine.metrics.subscriptions.values())


def named_by_token(service: Application, *channels: str) -> Identity:
    """A client whose token names channels."""
    grants = {channel: Grant(service.engine.channels.options(channel)) for channel in channels}
    return Identity("alice", token=TokenFacts("alice"), subscriptions=grants)


async def left_by_all(service: Application, *channels: str) -> None:
    """Wait until nothing of these channels is left in this process."""
    engine = service.engine
    await until(lambda: not set(channels) & set(engine.hub.subscribers.channels), "nobody is in the channels")
    await until(lambda: not counted(service) and not engine.presence.clients, "nobody is counted")


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("channel", ["kept:a", "both:a"])
async def test_refused_recoveries_with_subscriptions_behind_them_count_as_none(
    service: Application, reports: Reports, channel: str, others: bool
) -> None:
    bob, alice = FrameClient(service, "bob"), FrameClient(service, "alice")
    if others:
        await bob.carry_out(subscribe(channel))
    refused = subscribe(channel, **UNRECOVERABLE)
    replies = await alice.answered(alice.send(refused, refused, subscribe(channel)))
    assert [reply.get("error", {}).get("code") for reply in replies] == [112, 112, None]
    assert counted(service) == 1 + others
    await alice.carry_out(unsubscribe(channel))
    await alice.answered(alice.send(refused, refused))
    await bob.carry_out(unsubscribe(channel))
    await left_by_all(service, channel)
    assert reports.of[channel] == [True, False]


@pytest.mark.parametrize("channel", ["kept:a", "both:a"])
async def test_nothing_is_left_of_a_subscription_that_is_refused_while_the_options_are_renewed(
    service: Application, channel: str
) -> None:
    alice = FrameClient(service, "alice")
    ids = alice.send(subscribe(channel, **UNRECOVERABLE))
    while not list(alice.connection.memberships) and not alice.received[1:]:
        await asyncio.sleep(0)
    alice.connection.renew_options(service.engine.channels)
    assert "error" in (await alice.answered(ids))[0]
    await left_by_all(service, channel)
    assert list(alice.connection.memberships) == []


@pytest.mark.parametrize("channel", ["plain:a", "kept:a", "watched:a", "both:a"])
async def test_subscriptions_in_the_frame_of_a_connect_command_are_reported_once_and_after_it(
    service: Application, reports: Reports, channel: str
) -> None:
    alice = FrameClient(
        service,
        "alice",
        *[subscribe(channel), unsubscribe(channel)] * 2,
        subscribe(channel),
        unsubscribe("kept:named"),
        identity=named_by_token(service, "kept:named", "both:named"),
    )
    await alice.answered([1, 2, 3, 4, 5, 6, 7])
    assert reports.of == {channel: [True, False, True, False, True], "kept:named": [True, False], "both:named": [True]}
    await publish(service, channel, "once")
    await until(lambda: alice.got("once"), "the publication is received")
    assert alice.got("once") == 1
    alice.connection.on_close(1000, "")
    assert {name: begins[-1] for name, begins in reports.of.items()} == dict.fromkeys(reports.of, False)
    await left_by_all(service, channel, "kept:named", "both:named")


@pytest.mark.parametrize("channel", ["plain:a", "kept:a", "both:a"])
async def test_what_a_backend_asks_of_a_client_that_is_connecting_is_done_once_it_is_connected(
    service: Application, reports: Reports, channel: str
) -> None:
    proceed = asyncio.Event()

    async def on_connect(client: Any) -> None:
        await proceed.wait()

    service.registered_hooks.add("on_connect", on_connect)
    alice = FrameClient(service, "alice", identity=named_by_token(service, "kept:named", "both:named"))
    control = service.engine.control
    await control.send(SubscribeCommand(user="alice", channel=channel))
    await control.send(UnsubscribeCommand(user="alice", channel="kept:named"))
    await control.send(SubscribeCommand(user="alice", channel="plain:z"))
    await control.send(UnsubscribeCommand(user="alice", channel="plain:z"))
    other = FrameClient(service, "bob", subscribe("plain:last"))
    await until(lambda: len(alice.connection.session._held or ()) == 4, "the commands have come")
    proceed.set()
    await other.answered([1])
    await until(lambda: reports.of.get("plain:z") == [True, False], "the commands are carried out")
    entered = {channel, "both:named"}
    await until(lambda: set(alice.connection.session.subscriptions) == entered, "it is in these channels alone")
    assert set(alice.connection.memberships) == entered
    assert alice.received[0]["connect"]["subs"].keys() == {"kept:named", "both:named"}


async def test_a_client_whose_stream_broke_off_while_it_was_connecting_is_disconnected_to_recover(
    service: Application, reports: Reports
) -> None:
    alice = FrameClient(service, "alice", identity=named_by_token(service, "kept:a", "both:a"))
    alice.connection.lose_state("kept:a")
    await until(lambda: alice.transport.closed_with, "the client is disconnected")
    assert alice.transport.closed_with == (3010, "insufficient state")
    alice.connection.on_close(3010, "")
    await left_by_all(service, "kept:a", "both:a")
    assert not reports.connected_clients


class AnsweredTransport(JsonTransport):
    """Calls `then` once it has the answer to a subscription."""

    then: Callable[[], object] | None = None

    def send_frame(self, frame: Frame) -> None:
        super().send_frame(frame)
        if b'"subscribe"' in frame.payload and (then := self.then) is not None:
            self.then = None
            then()


@pytest.mark.parametrize("following", [[], [unsubscribe("kept:a")], [unsubscribe("kept:a"), subscribe("kept:a")]])
async def test_a_subscription_whose_answer_ends_the_connection_is_not_reported(
    service: Application, reports: Reports, following: list[dict[str, Any]]
) -> None:
    transport = AnsweredTransport()
    alice = FrameClient(service, "alice", transport=transport)
    # More than may wait for a client that reads nothing.
    transport.then = alice.connection.on_overflow
    # A recovery is answered by the stream, be it live or not.
    alice.send(subscribe("kept:a", recover=True), *following)
    await until(lambda: transport.closed_with, "the client is disconnected")
    alice.connection.on_close(3008, "")
    await left_by_all(service, "kept:a")
    assert reports.of.get("kept:a", []) in ([], [True, False])
    assert not reports.connected_clients


async def test_the_answer_of_a_backend_about_a_subscription_ends_no_later_one(
    service: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = FrameClient(service, "alice")
    await alice.carry_out(subscribe("plain:a"))
    asked, proceed = asyncio.Event(), asyncio.Event()

    async def sub_refresh(client: Any, channel: str) -> RefreshDecision:
        asked.set()
        await proceed.wait()
        return RefreshDecision(expired=True)

    # A proxy, which another process would have to be.
    monkeypatch.setattr(service.engine.hooks, "sub_refresh", sub_refresh)
    connection = alice.connection
    connection.carry_out([RenewSubscription(0, connection.session.subscriptions["plain:a"])])
    await asked.wait()
    await alice.carry_out(unsubscribe("plain:a"), subscribe("plain:a"))
    proceed.set()
    await publish(service, "plain:a", "received")
    await until(lambda: alice.got("received"), "the later subscription receives")
    assert not any("unsubscribe" in push for push in alice.transport.pushes)


async def test_a_token_that_forces_another_filter_ends_no_later_subscription(service: Application) -> None:
    tokens = [
        issue_subscription_token(SECRET, "alice", "plain:a", 600, server_tags_filter=RED | {"val": color})
        for color in ("red", "blue")
    ]
    alice = FrameClient(service, "alice")
    await alice.carry_out(subscribe("plain:a", token=tokens[0]))
    renewal = {"sub_refresh": {"channel": "plain:a", "token": tokens[1]}}
    await alice.carry_out(renewal, unsubscribe("plain:a"), subscribe("plain:a", token=tokens[1]))
    await publish(service, "plain:a", "received", color="blue")
    await until(lambda: alice.got("received"), "the later subscription receives")
    assert not any("unsubscribe" in push for push in alice.transport.pushes)
    # Without a later one, the client subscribes again.
    await alice.carry_out({"sub_refresh": {"channel": "plain:a", "token": tokens[0]}})
    assert alice.transport.pushes[-1]["unsubscribe"]["code"] == 2500


async def test_a_reader_of_a_stream_that_left_gets_nothing_more_of_it(service: Application) -> None:
    streams, options, channel = service.engine.append_streams, service.engine.channels.options("log:a"), "log:a"
    await streams.open(channel, options, StreamKind.TEXT, watched=False)
    # Twice as much as an answer holds: the rest follows as fast as the client reads.
    for _ in range(4):
        await streams.append(channel, options, text_chunk("x" * 500_000), StreamKind.TEXT, watched=False)
    transport = AnsweredTransport()
    alice = FrameClient(service, "alice", transport=transport)

    def wait() -> None:
        transport.replies_wait = True

    transport.then = wait
    await alice.carry_out(subscribe(channel))
    await until(lambda: alice.connection.gates.reading._turn.locked(), "the rest waits")
    await alice.carry_out(unsubscribe(channel))
    transport.replies_wait = False
    alice.connection.on_drained()
    await left_by_all(service, channel)
    await until(lambda: not service.engine.subscriptions._streams, "the stream is left")
    assert not any("pub" in push for push in transport.pushes)
