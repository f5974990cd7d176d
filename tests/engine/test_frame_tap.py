"""Captured frames of one node: which capture sees which frame, and what is shown of it."""

import json
from typing import Any

import pytest
from msgspec import Raw

from starling.engine.frame_tap import EVENTS_WAITING, Capture, FrameTap
from starling.engine.hub import Hub
from starling.protocol.commands import Command, ConnectRequest, PublishRequest, SubscribeRequest
from starling.protocol.messages import ConnectResult, Publication, Push, Reply, SubscribeResult
from tests.support.fake_receivers import FakeReceiver

NEWS = Push("news", pub=Publication(Raw(b'"hello"')))


class Tapped:
    """A node with one capture of a user and one of a channel."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.frame_tap = FrameTap(self.hub, "node-1")
        self.of_user = self.capture("user", user="alice")
        self.of_channel = self.capture("channel", channel="news")

    def capture(self, number: str, *, user: str = "", channel: str = "", payload: bool = False) -> Capture:
        capture = Capture(user, channel, payload=payload)
        self.frame_tap.captures[number] = capture
        return capture


@pytest.fixture
def tapped() -> Tapped:
    return Tapped()


def seen(capture: Capture) -> list[dict[str, Any]]:
    """The events that wait, and none afterwards."""
    events, _ = capture.take()
    assert capture.events == []
    return [json.loads(bytes(event)) for event in events]


def frames(capture: Capture) -> list[tuple[str, dict[str, Any]]]:
    return [(event["direction"], event["frame"]) for event in seen(capture)]


def test_the_connect_of_a_user_is_shown_when_the_reply_says_whose_it_is(tapped: Tapped) -> None:
    client = FakeReceiver()
    tapped.frame_tap.received(client, [Command(1, connect=ConnectRequest(token="secret"))])
    assert seen(tapped.of_user) == []

    client.user = "alice"
    tapped.frame_tap.replied(client, Reply(1, connect=ConnectResult(client.id, "1")))

    (asked, answered) = seen(tapped.of_user)
    assert (asked["direction"], asked["frame"]) == ("in", {"id": 1, "connect": {"token": "[redacted]"}})
    assert answered["direction"] == "out"
    assert {(event["node"], event["user"], event["client"]) for event in (asked, answered)} == {
        ("node-1", "alice", client.id)
    }
    assert seen(tapped.of_channel) == []


def test_the_reply_to_a_command_belongs_to_the_channel_that_was_asked_for(tapped: Tapped) -> None:
    client = FakeReceiver("bob")
    tapped.frame_tap.received(client, [Command(7, subscribe=SubscribeRequest("news"))])
    tapped.frame_tap.received(client, [Command(8, subscribe=SubscribeRequest("other"))])
    tapped.frame_tap.replied(client, Reply(8, subscribe=SubscribeResult()))
    tapped.frame_tap.replied(client, Reply(7, subscribe=SubscribeResult()))

    assert [(direction, frame["id"]) for direction, frame in frames(tapped.of_channel)] == [("in", 7), ("out", 7)]
    assert seen(tapped.of_user) == []


def test_a_connect_with_subscriptions_and_a_push_to_one_client_belong_to_their_channels(tapped: Tapped) -> None:
    client = FakeReceiver("bob")
    tapped.frame_tap.replied(client, Reply(1, connect=ConnectResult(client.id, "1", subs={"news": SubscribeResult()})))
    tapped.frame_tap.replied(client, Reply(push=NEWS))
    tapped.frame_tap.replied(client, Reply(push=Push("other")))

    assert [direction for direction, _ in frames(tapped.of_channel)] == ["out", "out"]


def test_a_push_to_a_channel_is_one_event_with_its_clients_and_one_for_a_user_who_gets_it(tapped: Tapped) -> None:
    alice, bob = FakeReceiver("alice"), FakeReceiver("bob")
    for client in (alice, bob):
        tapped.hub.identify(client)
        tapped.hub.subscribers.add("news", client)
    tapped.hub.subscribers.add("other", bob)
    tapped.frame_tap.pushed(NEWS, tapped.hub.subscribers)
    tapped.frame_tap.pushed(Push("other"), tapped.hub.subscribers)

    (of_channel,) = seen(tapped.of_channel)
    assert of_channel["clients"] == 2
    assert of_channel["frame"]["push"]["pub"] == {"data": {"bytes": 7}}
    (of_user,) = seen(tapped.of_user)
    assert (of_user["client"], "clients" in of_user) == (alice.id, False)


def test_a_push_that_nobody_gets_here_is_no_event(tapped: Tapped) -> None:
    tapped.frame_tap.pushed(NEWS, tapped.hub.subscribers)

    assert seen(tapped.of_channel) == []


def test_payloads_are_shown_where_they_are_asked_for(tapped: Tapped) -> None:
    shown = tapped.capture("payload", channel="news", payload=True)
    tapped.frame_tap.received(FakeReceiver("bob"), [Command(1, publish=PublishRequest("news", Raw(b'{"a":1}')))])

    ((_, frame),) = frames(shown)
    assert frame["publish"]["data"] == {"a": 1}
    ((_, frame),) = frames(tapped.of_channel)
    assert frame["publish"]["data"] == {"bytes": 7}


def test_a_frame_that_is_too_large_is_shown_by_its_kind(tapped: Tapped) -> None:
    command = Command(3, subscribe=SubscribeRequest("news", epoch="e" * 5000))
    tapped.frame_tap.received(FakeReceiver("bob"), [command])

    ((_, frame),) = frames(tapped.of_channel)
    assert (frame["id"], frame["subscribe"]) == (3, "too large to show")
    assert frame["bytes"] > 5000


def test_the_end_of_a_connection_is_an_event_of_its_user_alone(tapped: Tapped) -> None:
    tapped.frame_tap.closed(FakeReceiver("alice"), 3000, "connection closed")
    tapped.frame_tap.closed(FakeReceiver("bob"), 3000, "connection closed")

    assert frames(tapped.of_user) == [("end", {"close": {"code": 3000, "reason": "connection closed"}})]
    assert seen(tapped.of_channel) == []


def test_events_beyond_those_that_may_wait_are_counted(tapped: Tapped) -> None:
    client = FakeReceiver("alice")
    for number in range(1, EVENTS_WAITING + 3):
        tapped.frame_tap.received(client, [Command(number, publish=PublishRequest("a", Raw(b"1")))])
    tapped.frame_tap.closed(client, 3000, "connection closed")

    events, dropped = tapped.of_user.take()
    assert (len(events), dropped) == (EVENTS_WAITING, 3)
    assert tapped.of_user.take() == ([], 0)


def test_what_is_remembered_of_commands_without_a_reply_is_bounded(tapped: Tapped) -> None:
    client = FakeReceiver("bob")
    tapped.frame_tap.received(client, [Command(1, subscribe=SubscribeRequest("news"))])
    seen(tapped.of_channel)
    for number in range(2, 1003):
        tapped.frame_tap.received(client, [Command(number, subscribe=SubscribeRequest("other"))])
    tapped.frame_tap.replied(client, Reply(1, subscribe=SubscribeResult()))

    assert seen(tapped.of_channel) == []
