"""What one client may ask of the server, and what follows from more."""

from msgspec import Raw

from starling.protocol import codes
from starling.protocol.decisions import Authenticate, Call
from starling.protocol.messages import ConnectResult, RPCResult
from starling.protocol.options import SessionLimits
from starling.protocol.session_core import ANSWER_UNIT
from tests.protocol.talk import Talk


def test_a_session_is_busy_while_this_many_commands_are_pending() -> None:
    talk = Talk(SessionLimits(pending=3)).connect()

    talk.send({"id": 2, "rpc": {"method": "m"}}, {"id": 3, "publish": {"channel": "news", "data": 1}})
    assert not talk.session.busy
    call = talk.action(Call)
    talk.send({"id": 4, "publish": {"channel": "news", "data": 2}})
    assert talk.session.busy

    talk.then(talk.session.answered(call, RPCResult(Raw(b"1")), talk.now))
    assert not talk.session.busy


def test_commands_that_wait_for_the_connection_count_as_pending() -> None:
    talk = Talk(SessionLimits(pending=2))
    talk.send({"id": 1, "connect": {}}, {"id": 2, "ping": {}})
    action = talk.action(Authenticate)
    assert talk.session.busy

    talk.then(talk.session.connected(action, ConnectResult(), talk.now))
    assert not talk.session.busy


def test_too_many_errors_close_with_3509() -> None:
    talk = Talk(SessionLimits(errors_per_minute=3)).connect().subscribe("news")
    again = {"id": 3, "subscribe": {"channel": "news"}}
    error = {"id": 3, "error": {"code": 105, "message": "already subscribed"}}

    assert talk.send(again, again, again) == [error, error, error]
    assert talk.send(again) == [error, "end news", 3509]


def test_errors_are_forgiven_with_time() -> None:
    talk = Talk(SessionLimits(errors_per_minute=3, ping_seconds=1000)).connect()
    bad = {"id": 3, "subscribe": {}}

    for _ in range(20):
        assert len(talk.send(bad)) == 1
        assert talk.pass_time(20) == []


def test_errors_that_are_the_servers_do_not_count_against_the_client() -> None:
    talk = Talk(SessionLimits(errors_per_minute=1)).connect()

    for _ in range(10):
        talk.send({"id": 3, "rpc": {"method": "m"}})
        [reply] = talk.then(talk.session.refused(talk.action(Call), codes.ERROR_INTERNAL, talk.now))
        assert reply["error"] == {"code": 100, "message": "internal server error", "temporary": True}


def test_more_commands_than_the_rate_are_answered_111_and_many_more_close_with_3013() -> None:
    talk = Talk(SessionLimits(messages_per_second=1, message_burst=3)).connect()
    ping, pong = {"id": 2, "ping": {}}, {"id": 2, "ping": {}}
    too_many = {"id": 2, "error": {"code": 111, "message": "too many requests", "temporary": True}}

    # The connect command was the first of three.
    assert talk.send(ping, ping) == [pong, pong]
    assert talk.send(ping, ping, ping) == [too_many] * 3
    assert talk.send(ping) == [3013]


def test_large_answers_spend_the_budget_and_do_not_end_the_connection() -> None:
    talk = Talk(SessionLimits(messages_per_second=1, message_burst=4)).connect()
    ping = {"id": 2, "ping": {}}
    talk.session.charge(1000 * ANSWER_UNIT, talk.now)
    talk.session.charge(1000 * ANSWER_UNIT, talk.now)
    [reply] = talk.send(ping)
    assert reply["error"]["code"] == 111
    talk.pass_time(4)
    assert talk.send(ping) == [ping]
    talk.session.charge(ANSWER_UNIT - 1, talk.now)
    talk.pass_time(1)
    assert talk.send(ping) == [ping], "a small answer costs nothing more"


def test_a_client_that_waits_is_served_again() -> None:
    talk = Talk(SessionLimits(messages_per_second=1, message_burst=3)).connect()
    ping = {"id": 2, "ping": {}}
    talk.send(ping, ping, ping, ping)

    talk.pass_time(10)

    assert talk.send(ping, ping, ping) == [ping] * 3


def test_what_cannot_be_answered_closes_with_3013_at_the_rate() -> None:
    talk = Talk(SessionLimits(messages_per_second=1, message_burst=2)).connect()
    assert talk.send({"send": {"data": 1}}) == ["Deliver"]
    assert talk.send({"send": {"data": 2}}) == [3013]

    flood = Talk(SessionLimits(messages_per_second=1, message_burst=2)).connect()
    assert flood.send({}) == []
    assert flood.send({}) == [3013]


def test_the_pong_the_server_asked_for_is_free() -> None:
    talk = Talk(SessionLimits(messages_per_second=0.001, message_burst=1)).connect()

    for _ in range(10):
        assert talk.pass_time(25) == ["ping"]
        assert talk.send({}) == []


def test_without_a_rate_there_is_no_limit() -> None:
    talk = Talk().connect()

    assert all(len(talk.send({"id": 2, "ping": {}})) == 1 for _ in range(5000))
