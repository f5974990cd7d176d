"""The first words: who is let in, who is not, and what silence leads to."""

import pytest
from msgspec import Raw

from starling.protocol import codes
from starling.protocol.decisions import Authenticate, EndSubscription, Subscribe
from starling.protocol.messages import ConnectResult, SubscribeResult
from starling.protocol.options import SessionLimits
from starling.protocol.session_core import SessionState
from tests.protocol.talk import Talk


def test_a_client_that_is_known_gets_its_id_and_how_to_stay() -> None:
    talk = Talk()

    assert talk.send({"id": 7, "connect": {"token": "T", "name": "js"}}) == ["Authenticate"]
    action = talk.action(Authenticate)
    assert (action.id, action.request.token, action.request.name) == (7, "T", "js")

    said = talk.then(talk.session.connected(action, ConnectResult(client="c1", version="0.1"), talk.now))

    assert said == [{"id": 7, "connect": {"client": "c1", "version": "0.1", "ping": 25, "pong": True}}]
    assert talk.session.state is SessionState.CONNECTED


def test_the_channels_the_server_chose_are_subscriptions_from_the_start() -> None:
    talk = Talk().connect(news=SubscribeResult(recoverable=True, positioned=True, epoch="e", offset=5))

    assert talk.said[0]["connect"]["subs"] == {
        "news": {"recoverable": True, "positioned": True, "epoch": "e", "offset": 5}
    }
    news = talk.session.subscriptions["news"]
    assert (news.server_side, news.epoch, news.offset, news.recoverable, news.positioned) == (True, "e", 5, True, True)


@pytest.mark.parametrize(
    "command",
    [
        {},
        {"id": 1, "subscribe": {"channel": "news"}},
        {"id": 1, "publish": {"channel": "news", "data": 1}},
        {"id": 1, "ping": {}},
        {"send": {"data": 1}},
        {"id": 1},
        {"id": 1, "unheard_of": {}},
        {"connect": {}},
        {"id": 1, "connect": {}, "subscribe": {"channel": "news"}},
    ],
    ids=str,
)
def test_anything_but_a_connect_command_first_closes_with_3501(command: dict[str, object]) -> None:
    talk = Talk()

    assert talk.send(command) == [3501]
    assert talk.session.state is SessionState.CLOSED


def test_a_second_connect_closes_with_3501() -> None:
    talk = Talk()
    talk.send({"id": 1, "connect": {}})
    assert talk.send({"id": 2, "connect": {}}) == [3501]

    assert Talk().connect().send({"id": 2, "connect": {}}) == [3501]


def test_silence_closes_with_3502_after_ten_seconds() -> None:
    talk = Talk()

    assert talk.pass_time(9.9) == []
    assert talk.pass_time(0.2) == [3502]


def test_looking_up_a_client_is_not_silence() -> None:
    talk = Talk()
    talk.send({"id": 1, "connect": {}})
    action = talk.action(Authenticate)

    assert talk.pass_time(60) == []

    talk.then(talk.session.connected(action, ConnectResult(client="c1"), talk.now))
    assert talk.session.state is SessionState.CONNECTED


def test_commands_that_come_with_connect_wait_for_its_outcome_in_their_order() -> None:
    talk = Talk()
    assert talk.send(
        {"id": 1, "connect": {}},
        {"id": 2, "subscribe": {"channel": "news"}},
        {"id": 3, "rpc": {"method": "m"}},
        {},
    ) == ["Authenticate"]

    said = talk.then(talk.session.connected(talk.action(Authenticate), ConnectResult(client="c1"), talk.now))

    assert said == [{"id": 1, "connect": {"client": "c1", "ping": 25, "pong": True}}, "Subscribe", "Call"]


def test_an_illegal_command_among_those_that_wait_closes_at_once() -> None:
    talk = Talk()

    assert talk.send({"id": 1, "connect": {}}, {"id": 0, "ping": {}}) == ["Authenticate", 3501]


def test_what_waited_behind_the_end_is_dropped() -> None:
    talk = Talk(SessionLimits(errors_per_minute=1))
    talk.send({"id": 1, "connect": {}}, *({"id": id_, "subscribe": {}} for id_ in (2, 3, 4)))

    said = talk.then(talk.session.connected(talk.action(Authenticate), ConnectResult(), talk.now))

    assert [each if isinstance(each, int) else each["id"] for each in said] == [1, 2, 3, 3509]


@pytest.mark.parametrize(
    "error", [codes.ERROR_TOKEN_EXPIRED, codes.ERROR_INTERNAL, codes.ERROR_UNAUTHORIZED], ids=lambda error: error.code
)
def test_a_refused_client_gets_the_error_and_is_to_hang_up(error: codes.Error) -> None:
    talk = Talk(SessionLimits(pending=2))
    talk.send({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "news"}})
    action = talk.action(Authenticate)
    assert talk.session.busy

    [reply] = talk.then(talk.session.refused(action, error, talk.now))

    assert reply["id"] == 1
    assert reply["error"]["code"] == error.code
    assert talk.session.state is SessionState.REFUSED
    assert not talk.session.busy
    assert talk.pass_time(9.9) == []
    assert talk.pass_time(0.2) == [3502]


@pytest.mark.parametrize("command", [{"id": 2, "connect": {}}, {"id": 2, "ping": {}}, {}], ids=str)
def test_a_refused_client_that_goes_on_is_closed_with_3501(command: dict[str, object]) -> None:
    talk = Talk()
    talk.send({"id": 1, "connect": {}})
    talk.then(talk.session.refused(talk.action(Authenticate), codes.ERROR_TOKEN_EXPIRED, talk.now))

    assert talk.send(command) == [3501]


def test_a_client_with_an_invalid_token_is_closed_with_3500() -> None:
    talk = Talk()
    talk.send({"id": 1, "connect": {}})

    assert talk.then(talk.session.refused(talk.action(Authenticate), codes.DISCONNECT_INVALID_TOKEN, talk.now)) == [
        3500
    ]


def test_more_channels_from_the_server_than_allowed_close_with_3505() -> None:
    talk = Talk(SessionLimits(max_channels=1)).connect(one=SubscribeResult(), two=SubscribeResult())

    assert talk.said == ["end one", "end two", 3505]


def test_a_connection_that_is_over_before_it_began_is_answered_110() -> None:
    talk = Talk().connect(ttl=0, news=SubscribeResult())

    assert talk.said == ["end news", {"id": 1, "error": {"code": 110, "message": "expired"}}]
    assert talk.session.state is SessionState.REFUSED
    assert talk.session.ended(talk.action(EndSubscription), talk.now) == []


def test_a_client_that_left_while_it_was_looked_up_leaves_its_channels() -> None:
    talk = Talk()
    talk.send({"id": 1, "connect": {}})
    action = talk.action(Authenticate)
    assert talk.then(talk.session.lost()) == []

    said = talk.then(talk.session.connected(action, ConnectResult(subs={"news": SubscribeResult()}), talk.now))

    assert said == ["end news"]


def test_a_closed_session_decides_nothing_more() -> None:
    talk = Talk().connect().subscribe("news")
    talk.send({"id": 3, "subscribe": {"channel": "late"}}, {"id": 4, "rpc": {"method": "m"}})
    late = talk.action(Subscribe)
    session = talk.session

    assert talk.then(session.close(codes.DISCONNECT_SHUTDOWN)) == ["end news", 3001]

    assert session.close(codes.DISCONNECT_SLOW) == []
    assert session.lost() == []
    assert talk.send({"id": 5, "connect": {}}, {"id": 6, "ping": {}}, {}) == []
    assert session.refused(late, codes.ERROR_INTERNAL, talk.now) == []
    assert session.unsubscribe("news", codes.UNSUBSCRIBE_SERVER, talk.now) == []
    assert session.refresh(talk.now, ttl=60) == []
    assert session.subscribe(late.request, talk.now) == []
    assert session.tick(talk.now + 10_000) == []
    assert talk.then(session.subscribed(late, SubscribeResult(), talk.now)) == ["end late"]


def test_what_others_see_of_a_client_in_a_channel_is_kept_with_the_subscription() -> None:
    talk = Talk().connect().subscribe("news", chan_info=Raw(b'{"role":"editor"}'))

    assert bytes(talk.session.subscriptions["news"].chan_info) == b'{"role":"editor"}'
