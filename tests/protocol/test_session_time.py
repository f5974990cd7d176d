"""What time brings: pings, pongs and ends."""

from math import inf

import pytest
from msgspec import Raw

from starling.protocol import codes
from starling.protocol.commands import SubscribeRequest
from starling.protocol.decisions import (
    Authenticate,
    Call,
    Refresh,
    RenewSubscription,
    SubRefresh,
    Subscribe,
    Subscription,
)
from starling.protocol.messages import ConnectResult, RPCResult, SubscribeResult
from starling.protocol.options import SessionLimits
from tests.protocol.talk import Talk


def test_the_server_pings_every_25_seconds_and_a_client_that_answers_stays() -> None:
    talk = Talk().connect()

    for _ in range(100):
        assert talk.pass_time(25) == ["ping"]
        assert talk.send({}) == []


def test_a_client_that_does_not_answer_a_ping_is_closed_with_3012_after_8_seconds() -> None:
    talk = Talk().connect()

    assert talk.pass_time(25) == ["ping"]
    assert talk.pass_time(7.9) == []
    assert talk.send({"id": 2, "ping": {}}) == [{"id": 2, "ping": {}}]
    assert talk.pass_time(0.2) == [3012]


def test_a_later_ping_gives_no_more_time_for_the_answer_to_the_one_before() -> None:
    # Settings like these are refused; a session is right without that.
    talk = Talk(SessionLimits.model_construct(ping_seconds=5, pong_seconds=8)).connect()

    assert talk.pass_time(12.9) == ["ping", "ping"]
    assert talk.pass_time(0.2) == [3012]


def test_a_pong_nobody_asked_for_is_harmless_and_counts_for_no_later_ping() -> None:
    talk = Talk().connect()

    assert talk.send({}, {}, {}) == []
    assert talk.pass_time(33) == ["ping", 3012]


def test_the_first_ping_may_come_earlier_to_spread_those_of_many() -> None:
    talk = Talk()
    talk.send({"id": 1, "connect": {}})
    talk.then(talk.session.connected(talk.action(Authenticate), ConnectResult(), talk.now, first_ping=3))

    assert talk.pass_time(3) == ["ping"]
    talk.send({})
    assert talk.pass_time(24.9) == []
    assert talk.pass_time(0.1) == ["ping"]


def test_a_pong_that_is_not_being_read_is_waited_for() -> None:
    talk = Talk(SessionLimits(pending=1)).connect()
    talk.send({"id": 2, "rpc": {"method": "slow"}})
    call = talk.action(Call)
    assert talk.session.busy

    assert talk.pass_time(25 + 8 + 8) == ["ping"]
    talk.then(talk.session.answered(call, RPCResult(), talk.now))
    assert not talk.session.busy
    assert talk.pass_time(7.9) == []
    assert talk.pass_time(0.2) == [3012]


def test_an_expiring_connection_has_25_seconds_of_grace_and_ends_with_3005() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000)).connect(ttl=60)
    assert talk.said == [{"id": 1, "connect": {"client": "c1", "expires": True, "ttl": 60, "ping": 1000, "pong": True}}]

    assert talk.pass_time(84.9) == []
    assert talk.pass_time(0.2) == [3005]


def test_a_refreshed_connection_lives_on() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000)).connect(ttl=60)
    talk.pass_time(70)
    talk.send({"id": 2, "refresh": {"token": "T2"}})
    talk.then(talk.session.refreshed(talk.action(Refresh), talk.now, ttl=60))

    assert talk.pass_time(84.9) == []
    assert talk.pass_time(0.2) == [3005]


def test_a_refused_refresh_does_not_end_the_connection_before_its_time() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000)).connect(ttl=60)
    talk.send({"id": 2, "refresh": {"token": "bad"}})
    talk.then(talk.session.refused(talk.action(Refresh), codes.ERROR_UNAUTHORIZED, talk.now))

    assert talk.said == [{"id": 2, "error": {"code": 101, "message": "unauthorized"}}]
    assert talk.pass_time(84.9) == []
    assert talk.pass_time(0.2) == [3005]


def test_a_connection_the_client_cannot_refresh_is_not_notified_and_has_no_grace() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000))
    talk.send({"id": 1, "connect": {}})
    action = talk.action(Authenticate)

    talk.then(talk.session.connected(action, ConnectResult(), talk.now, ttl=60, refreshable=False))

    assert talk.said == [{"id": 1, "connect": {"ping": 1000, "pong": True}}]
    assert talk.pass_time(59.9) == []
    assert talk.pass_time(0.2) == [3005]


def test_the_server_may_give_the_connection_another_end() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000)).connect()

    assert talk.then(talk.session.refresh(talk.now, ttl=60)) == [{"push": {"refresh": {"expires": True, "ttl": 60}}}]
    assert talk.pass_time(84.9) == []
    assert talk.then(talk.session.refresh(talk.now, ttl=None)) == [{"push": {"refresh": {}}}]
    assert talk.pass_time(900) == []
    assert talk.then(talk.session.refresh(talk.now, ttl=0)) == [3005]


def test_an_expiring_subscription_has_25_seconds_of_grace_and_the_sdk_subscribes_again() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000)).connect().subscribe("news", ttl=60).subscribe("other", ttl=90)

    assert talk.pass_time(84.9) == []
    assert talk.pass_time(0.2) == [
        "end news",
        {"push": {"channel": "news", "unsubscribe": {"code": 2501, "reason": "expired"}}},
    ]
    assert talk.pass_time(30) == [
        "end other",
        {"push": {"channel": "other", "unsubscribe": {"code": 2501, "reason": "expired"}}},
    ]


def test_a_refreshed_subscription_lives_on() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000)).connect().subscribe("news", ttl=60)
    talk.pass_time(70)
    talk.send({"id": 3, "sub_refresh": {"channel": "news", "token": "S2"}})
    talk.then(talk.session.sub_refreshed(talk.action(SubRefresh), talk.now, ttl=60))

    assert talk.pass_time(84.9) == []
    assert len(talk.pass_time(0.2)) == 2


def test_an_expired_server_side_subscription_ends_the_connection_with_3006() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000)).connect()
    talk.then(talk.session.subscribe(SubscribeRequest("news"), talk.now))
    talk.then(talk.session.subscribed(talk.action(Subscribe), SubscribeResult(), talk.now, ttl=60))
    assert talk.said == [{"push": {"channel": "news", "subscribe": {}}}]

    assert talk.pass_time(59.9) == []
    assert talk.pass_time(0.2) == ["end news", 3006]


@pytest.mark.parametrize(("ttl", "reported"), [(0.2, 1), (59.6, 60), (1e12, 2**32 - 1)])
def test_the_time_left_is_reported_in_whole_seconds_of_the_schema(ttl: float, reported: int) -> None:
    assert Talk().connect(ttl=ttl).said[0]["connect"]["ttl"] == reported


def test_the_deadline_says_when_the_session_wants_to_be_asked() -> None:
    talk = Talk()
    assert talk.session.deadline == talk.now + 10

    talk.send({"id": 1, "connect": {}})
    assert talk.session.deadline == inf

    talk.then(talk.session.connected(talk.action(Authenticate), ConnectResult(), talk.now, ttl=300))
    assert talk.session.deadline == talk.now + 25
    talk.pass_time(25)
    assert talk.session.deadline == talk.now + 8
    talk.subscribe("news", ttl=-20 + 21)
    talk.send({})
    assert talk.session.deadline == talk.now + 25
    talk.session.lost()
    assert talk.session.deadline == inf


def test_a_tick_before_its_time_does_nothing() -> None:
    talk = Talk().connect(ttl=60)

    assert talk.session.tick(talk.now + 24.9) == []


def asked_about(talk: Talk) -> Subscription:
    """The subscription that a backend is asked about when its minute is over."""
    talk.send({"id": 2, "subscribe": {"channel": "news"}})
    action = talk.action(Subscribe)
    talk.then(
        talk.session.subscribed(
            action, SubscribeResult(), talk.now, ttl=60, chan_info=Raw(b"1"), refreshable=False, renewed=True
        )
    )
    talk.pass_time(61)
    return talk.action(RenewSubscription).subscription


def test_a_subscription_that_its_backend_renews_lives_on_with_what_it_says() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000)).connect()
    subscription = asked_about(talk)
    assert (
        talk.then(talk.session.renewed(talk.now, ttl=60, subscription=subscription, chan_info=Raw(b'{"role":"guest"}')))
        == []
    )
    assert bytes(subscription.chan_info) == b'{"role":"guest"}'
    assert talk.pass_time(59) == []
    assert talk.pass_time(2) == ["RenewSubscription"]


def test_a_subscription_that_nobody_answers_for_is_asked_about_again_until_its_grace_is_over() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000, proxy_grace_seconds=25)).connect()
    subscription = asked_about(talk)
    for _ in range(4):
        assert talk.then(talk.session.renewed(talk.now, subscription=subscription, answered=False)) == []
        assert talk.pass_time(5) == ["RenewSubscription"]
    assert talk.then(talk.session.renewed(talk.now, subscription=subscription, answered=False)) == []
    ended = {"push": {"channel": "news", "unsubscribe": {"code": 2501, "reason": "expired"}}}
    assert talk.pass_time(10)[-2:] == ["end news", ended]


def test_an_answer_for_a_subscription_that_is_over_or_gone_ends_it_or_nothing() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000)).connect()
    subscription = asked_about(talk)
    ended = {"push": {"channel": "news", "unsubscribe": {"code": 2501, "reason": "expired"}}}
    assert talk.then(talk.session.renewed(talk.now, ttl=0, subscription=subscription)) == ["end news", ended]
    assert talk.then(talk.session.renewed(talk.now, ttl=60, subscription=subscription)) == []
    assert talk.session.subscriptions == {}
    talk.session.lost()
    assert talk.then(talk.session.renewed(talk.now, ttl=60)) == []


def test_a_connection_that_its_backend_holds_for_over_is_closed_with_3005() -> None:
    talk = Talk(SessionLimits(ping_seconds=1000)).connect()
    assert talk.then(talk.session.renewed(talk.now, ttl=0)) == [3005]
