"""Entering and leaving channels, from both sides, in the order it was asked for."""

import pytest
from msgspec import Raw

from starling.protocol import codes
from starling.protocol.commands import SubscribeRequest
from starling.protocol.decisions import EndSubscription, Presence, Publish, Subscribe
from starling.protocol.messages import PresenceResult, Publication, PublishResult, SubscribeResult
from starling.protocol.options import SessionLimits
from tests.protocol.talk import Talk


def test_entering_a_channel_is_answered_with_its_position_and_what_was_missed() -> None:
    talk = Talk().connect()
    assert talk.send(
        {"id": 2, "subscribe": {"channel": "news", "recover": True, "epoch": "e", "offset": 5, "flag": 2}}
    ) == ["Subscribe"]
    action = talk.action(Subscribe)
    assert (action.request.recover, action.request.epoch, action.request.offset) == (True, "e", 5)
    assert action.request.flag == 2
    assert not action.server_side

    result = SubscribeResult(
        recoverable=True,
        positioned=True,
        epoch="e",
        offset=7,
        was_recovering=True,
        recovered=True,
        publications=[Publication(Raw(b'"six"'), offset=6), Publication(Raw(b'"seven"'), offset=7)],
    )
    assert talk.then(talk.session.subscribed(action, result, talk.now)) == [
        {
            "id": 2,
            "subscribe": {
                "recoverable": True,
                "positioned": True,
                "epoch": "e",
                "offset": 7,
                "was_recovering": True,
                "recovered": True,
                "publications": [{"data": "six", "offset": 6}, {"data": "seven", "offset": 7}],
            },
        }
    ]
    news = talk.session.subscriptions["news"]
    assert (news.server_side, news.epoch, news.offset) == (False, "e", 7)


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 99])
@pytest.mark.parametrize("command", ["subscribe", "publish"])
def test_a_kind_of_subscription_that_there_is_not_is_108_and_no_plain_one(command: str, kind: int) -> None:
    talk = Talk().connect()
    asked = {"channel": "news", "type": kind, **({"data": 1} if command == "publish" else {})}
    assert talk.send({"id": 2, command: asked}) == [{"id": 2, "error": {"code": 108, "message": "not available"}}]
    assert not talk.session.subscriptions
    assert talk.send({"id": 3, "subscribe": {"channel": "news", "type": 0}}) == ["Subscribe"]


def test_a_refused_subscription_is_answered_and_leaves_nothing() -> None:
    talk = Talk().connect()
    talk.send({"id": 2, "subscribe": {"channel": "news"}})

    said = talk.then(talk.session.refused(talk.action(Subscribe), codes.ERROR_UNKNOWN_CHANNEL, talk.now))

    assert said == [{"id": 2, "error": {"code": 102, "message": "unknown channel"}}]
    assert talk.send({"id": 3, "subscribe": {"channel": "news"}}) == ["Subscribe"]


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 2**31 - 1, -1])
@pytest.mark.parametrize("command", ["subscribe", "publish"])
def test_kinds_of_subscriptions_that_are_not_there_are_refused_with_108(command: str, kind: int) -> None:
    talk = Talk().connect()
    said = talk.send({"id": 2, command: {"channel": "news", "data": 1, "type": kind}})
    assert said == [{"id": 2, "error": {"code": 108, "message": "not available"}}]
    assert talk.send({"id": 3, "subscribe": {"channel": "news", "type": 0}}) == ["Subscribe"]


@pytest.mark.parametrize("command", ["subscribe", "publish", "history", "presence", "unsubscribe", "presence_stats"])
def test_a_channel_that_is_null_is_a_bad_request_and_ends_nothing(command: str) -> None:
    talk = Talk().connect()
    said = talk.send({"id": 2, command: {"channel": None, "data": 1}})
    assert said == [{"id": 2, "error": {"code": 107, "message": "bad request"}}]


def test_entering_twice_is_answered_105() -> None:
    talk = Talk().connect().subscribe("news")

    assert talk.send({"id": 3, "subscribe": {"channel": "news"}}) == [
        {"id": 3, "error": {"code": 105, "message": "already subscribed"}}
    ]


def test_entering_twice_at_once_is_answered_105_once_the_first_is_in() -> None:
    talk = Talk().connect()
    assert talk.send({"id": 2, "subscribe": {"channel": "news"}}, {"id": 3, "subscribe": {"channel": "news"}}) == [
        "Subscribe"
    ]

    assert talk.then(talk.session.subscribed(talk.action(Subscribe), SubscribeResult(), talk.now)) == [
        {"id": 2, "subscribe": {}},
        {"id": 3, "error": {"code": 105, "message": "already subscribed"}},
    ]


def test_one_channel_too_many_is_answered_106_and_counts_those_on_their_way() -> None:
    talk = Talk(SessionLimits(max_channels=2)).connect(own=SubscribeResult())
    talk.send({"id": 2, "subscribe": {"channel": "one"}})
    one = talk.action(Subscribe)
    too_many = [{"id": 3, "error": {"code": 106, "message": "limit exceeded"}}]

    assert talk.send({"id": 3, "subscribe": {"channel": "two"}}) == too_many
    talk.then(talk.session.refused(one, codes.ERROR_PERMISSION_DENIED, talk.now))
    assert talk.send({"id": 3, "subscribe": {"channel": "two"}}) == ["Subscribe"]
    assert talk.send({"id": 3, "subscribe": {"channel": "three"}}) == too_many


def test_a_channel_that_was_left_makes_room_for_another() -> None:
    talk = Talk(SessionLimits(max_channels=1)).connect()

    for channel in ("one", "two", "three"):
        talk.subscribe(channel)
        assert talk.said == [{"id": 2, "subscribe": {}}]
        talk.send({"id": 3, "unsubscribe": {"channel": channel}})
        talk.then(talk.session.ended(talk.action(EndSubscription), talk.now))


def test_leaving_ends_the_subscription_before_it_is_answered() -> None:
    talk = Talk().connect().subscribe("news")

    assert talk.send({"id": 3, "unsubscribe": {"channel": "news"}}) == ["end news", {"id": 3, "unsubscribe": {}}]
    assert talk.action(EndSubscription).reason is None
    assert talk.session.subscriptions == {}


def test_leaving_where_one_is_not_is_answered_all_the_same() -> None:
    assert Talk().connect().send({"id": 3, "unsubscribe": {"channel": "news"}}) == [{"id": 3, "unsubscribe": {}}]


def test_leaving_and_entering_again_happen_one_after_the_other() -> None:
    talk = Talk().connect()

    assert talk.send(
        {"id": 2, "subscribe": {"channel": "news"}},
        {"id": 3, "unsubscribe": {"channel": "news"}},
        {"id": 4, "subscribe": {"channel": "news"}},
    ) == ["Subscribe"]
    first = talk.action(Subscribe)

    assert talk.then(talk.session.subscribed(first, SubscribeResult(), talk.now)) == [
        {"id": 2, "subscribe": {}},
        "end news",
        {"id": 3, "unsubscribe": {}},
    ]
    assert talk.then(talk.session.ended(talk.action(EndSubscription), talk.now)) == ["Subscribe"]
    second = talk.action(Subscribe)
    assert talk.then(talk.session.subscribed(second, SubscribeResult(), talk.now)) == [{"id": 4, "subscribe": {}}]


def test_channels_do_not_wait_for_each_other() -> None:
    talk = Talk().connect()

    assert talk.send({"id": 2, "subscribe": {"channel": "slow"}}, {"id": 3, "subscribe": {"channel": "fast"}}) == [
        "Subscribe",
        "Subscribe",
    ]


def test_publications_of_one_client_set_out_in_their_order_and_wait_for_nothing_but_its_other_commands() -> None:
    talk = Talk().connect().subscribe("news")
    assert talk.send(
        {"id": 3, "publish": {"channel": "news", "data": 1}},
        {"id": 4, "publish": {"channel": "news", "data": 2}},
        {"id": 5, "presence": {"channel": "news"}},
        {"id": 6, "publish": {"channel": "news", "data": 3}},
        {"id": 7, "publish": {"channel": "news", "data": 4}},
    ) == ["Publish", "Publish"]
    first, second = talk.decisions
    assert isinstance(first, Publish)
    assert isinstance(second, Publish)
    assert [bytes(first.request.data), bytes(second.request.data)] == [b"1", b"2"]

    assert talk.then(talk.session.answered(second, PublishResult(), talk.now)) == [{"id": 4, "publish": {}}]
    assert talk.then(talk.session.answered(first, PublishResult(), talk.now)) == [{"id": 3, "publish": {}}, "Presence"]
    presence = talk.action(Presence)
    assert talk.then(talk.session.answered(presence, PresenceResult({}), talk.now))[1:] == ["Publish", "Publish"]
    third, fourth = (decision for decision in talk.decisions if isinstance(decision, Publish))
    assert [bytes(third.request.data), bytes(fourth.request.data)] == [b"3", b"4"]
    # Nothing is left behind that a later command would wait for.
    for publish in (third, fourth):
        talk.then(talk.session.answered(publish, PublishResult(), talk.now))
    assert talk.send({"id": 8, "presence": {"channel": "news"}}) == ["Presence"]


def test_a_channel_is_not_left_before_what_was_published_there_has_its_outcome() -> None:
    talk = Talk().connect().subscribe("news")
    assert talk.send(
        {"id": 3, "publish": {"channel": "news", "data": 1}},
        {"id": 4, "publish": {"channel": "news", "data": 2}},
        {"id": 5, "unsubscribe": {"channel": "news"}},
    ) == ["Publish", "Publish"]
    first, second = talk.decisions
    assert isinstance(first, Publish)
    assert isinstance(second, Publish)

    talk.then(talk.session.answered(first, PublishResult(), talk.now))
    assert talk.then(talk.session.answered(second, PublishResult(), talk.now)) == [
        {"id": 4, "publish": {}},
        "end news",
        {"id": 5, "unsubscribe": {}},
    ]


def test_where_a_hook_sees_them_publications_of_one_client_in_one_channel_take_turns() -> None:
    talk = Talk(publish_in_turn=True).connect()
    assert talk.send(
        {"id": 2, "publish": {"channel": "news", "data": 1}},
        {"id": 3, "publish": {"channel": "news", "data": 2}},
        {"id": 4, "publish": {"channel": "else", "data": 3}},
    ) == ["Publish", "Publish"]
    first = talk.decisions[0]
    assert isinstance(first, Publish)

    assert talk.then(talk.session.answered(first, PublishResult(), talk.now)) == [{"id": 2, "publish": {}}, "Publish"]
    assert bytes(talk.action(Publish).request.data) == b"2"


def test_the_server_takes_a_client_out_and_says_why() -> None:
    talk = Talk().connect().subscribe("news")

    assert talk.then(talk.session.unsubscribe("news", codes.UNSUBSCRIBE_SERVER, talk.now)) == [
        "end news",
        {"push": {"channel": "news", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}},
    ]
    assert talk.action(EndSubscription).reason == codes.UNSUBSCRIBE_SERVER
    assert talk.session.unsubscribe("news", codes.UNSUBSCRIBE_SERVER, talk.now) == []


def test_a_gap_in_the_stream_ends_the_subscription_at_once_whatever_is_on_its_way() -> None:
    talk = Talk().connect().subscribe("news")
    talk.send({"id": 3, "publish": {"channel": "news", "data": 1}}, {"id": 4, "subscribe": {"channel": "news"}})
    publish = talk.action(Publish)

    assert talk.then(talk.session.unsubscribe("news", codes.UNSUBSCRIBE_INSUFFICIENT_STATE, talk.now)) == [
        "end news",
        {"push": {"channel": "news", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}},
    ]
    ending = talk.action(EndSubscription)

    assert talk.then(talk.session.answered(publish, PublishResult(), talk.now)) == [{"id": 3, "publish": {}}]
    assert talk.then(talk.session.ended(ending, talk.now)) == ["Subscribe"]


def test_a_client_on_its_way_in_is_taken_out_once_it_is_in() -> None:
    talk = Talk().connect()
    talk.send({"id": 2, "subscribe": {"channel": "news"}})
    action = talk.action(Subscribe)
    assert talk.then(talk.session.unsubscribe("news", codes.UNSUBSCRIBE_SERVER, talk.now)) == []

    assert talk.then(talk.session.subscribed(action, SubscribeResult(), talk.now)) == [
        {"id": 2, "subscribe": {}},
        "end news",
        {"push": {"channel": "news", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}},
    ]


def test_the_server_subscribes_a_client_and_a_push_reports_it() -> None:
    talk = Talk().connect()
    assert talk.then(talk.session.subscribe(SubscribeRequest("news"), talk.now)) == ["Subscribe"]
    action = talk.action(Subscribe)
    assert action.server_side

    result = SubscribeResult(recoverable=True, positioned=True, epoch="e", offset=5, data=Raw(b"{}"))
    assert talk.then(talk.session.subscribed(action, result, talk.now)) == [
        {
            "push": {
                "channel": "news",
                "subscribe": {"recoverable": True, "positioned": True, "epoch": "e", "offset": 5, "data": {}},
            }
        }
    ]
    assert talk.session.subscriptions["news"].server_side
    assert talk.session.subscribe(SubscribeRequest("news"), talk.now) == []


def test_a_server_side_subscription_that_fails_is_nobodys_error() -> None:
    talk = Talk().connect()
    talk.then(talk.session.subscribe(SubscribeRequest("news"), talk.now))

    assert talk.then(talk.session.refused(talk.action(Subscribe), codes.ERROR_INTERNAL, talk.now)) == []
    assert talk.send({"id": 2, "subscribe": {"channel": "news"}}) == ["Subscribe"]


def test_one_channel_too_many_from_the_server_closes_with_3505() -> None:
    talk = Talk(SessionLimits(max_channels=1)).connect().subscribe("one")

    assert talk.then(talk.session.subscribe(SubscribeRequest("two"), talk.now)) == ["end one", 3505]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (codes.UNSUBSCRIBE_INSUFFICIENT_STATE, 3010),
        (codes.UNSUBSCRIBE_EXPIRED, 3006),
        (codes.UNSUBSCRIBE_STATE_INVALIDATED, 3014),
        (codes.Unsubscribe(2700, "the application's own"), 3010),
    ],
)
def test_a_server_side_subscription_is_renewed_by_returning(reason: codes.Unsubscribe, code: int) -> None:
    talk = Talk().connect(news=SubscribeResult())

    assert talk.then(talk.session.unsubscribe("news", reason, talk.now)) == ["end news", code]


def test_a_server_side_subscription_that_cannot_be_renewed_ends_without_the_connection() -> None:
    talk = Talk().connect(news=SubscribeResult())
    reason = codes.UNSUBSCRIBE_INSUFFICIENT_STATE

    said = talk.then(talk.session.unsubscribe("news", reason, talk.now, may_disconnect=False))

    push = {"channel": "news", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
    assert said == ["end news", {"push": push}]
    assert "news" not in talk.session.subscriptions
    assert talk.send({"id": 2, "ping": {}}) == [{"id": 2, "ping": {}}]


def test_a_client_may_leave_a_server_side_subscription() -> None:
    talk = Talk().connect(news=SubscribeResult())

    assert talk.send({"id": 2, "unsubscribe": {"channel": "news"}}) == ["end news", {"id": 2, "unsubscribe": {}}]


def test_a_disconnect_from_permission_ends_everything() -> None:
    talk = Talk().connect().subscribe("news")
    talk.send({"id": 3, "subscribe": {"channel": "secret"}})

    said = talk.then(talk.session.refused(talk.action(Subscribe), codes.DISCONNECT_PERMISSION_DENIED, talk.now))

    assert said == ["end news", 3507]


def test_a_subscription_that_is_over_before_it_began_is_answered_110_and_left_again() -> None:
    talk = Talk().connect().subscribe("news", ttl=0)

    assert talk.said == ["end news", {"id": 2, "error": {"code": 110, "message": "expired"}}]
    ending = talk.action(EndSubscription)
    assert talk.send({"id": 3, "subscribe": {"channel": "news"}}) == []
    assert talk.then(talk.session.ended(ending, talk.now)) == ["Subscribe"]
