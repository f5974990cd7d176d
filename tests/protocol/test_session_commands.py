"""The commands of a connected client and their answers."""

from typing import Any

import pytest
from msgspec import Raw

from starling.protocol import codes
from starling.protocol.decisions import (
    Action,
    Call,
    Deliver,
    History,
    Presence,
    PresenceStats,
    Publish,
    Query,
    Refresh,
    SubRefresh,
)
from starling.protocol.messages import (
    ClientInfo,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    Publication,
    PublishResult,
    RPCResult,
)
from starling.protocol.session import QueryResult
from tests.protocol.talk import Talk

QUERIES: list[tuple[dict[str, Any], type[Query], QueryResult, dict[str, Any]]] = [
    ({"publish": {"channel": "news", "data": 1}}, Publish, PublishResult(), {"publish": {}}),
    (
        {"presence": {"channel": "news"}},
        Presence,
        PresenceResult({"c1": ClientInfo("42", "c1")}),
        {"presence": {"presence": {"c1": {"user": "42", "client": "c1"}}}},
    ),
    (
        {"presence_stats": {"channel": "news"}},
        PresenceStats,
        PresenceStatsResult(3, 2),
        {"presence_stats": {"num_clients": 3, "num_users": 2}},
    ),
    (
        {"history": {"channel": "news", "limit": 1}},
        History,
        HistoryResult([Publication(Raw(b"1"), offset=1)], "e", 4),
        {"history": {"publications": [{"data": 1, "offset": 1}], "epoch": "e", "offset": 4}},
    ),
    ({"rpc": {"method": "sum", "data": [1]}}, Call, RPCResult(Raw(b"1")), {"rpc": {"data": 1}}),
]


@pytest.mark.parametrize(
    ("command", "kind", "result", "reply"), QUERIES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_query_is_answered_under_its_name_with_its_result(
    command: dict[str, Any], kind: type[Query], result: QueryResult, reply: dict[str, Any]
) -> None:
    talk = Talk().connect()

    assert talk.send({"id": 9} | command) == [kind.__name__]
    assert talk.then(talk.session.answered(talk.action(kind), result, talk.now)) == [{"id": 9} | reply]


@pytest.mark.parametrize(
    ("command", "kind", "result", "reply"), QUERIES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_refused_query_is_answered_with_the_error(
    command: dict[str, Any], kind: type[Query], result: QueryResult, reply: dict[str, Any]
) -> None:
    talk = Talk().connect()
    talk.send({"id": 9} | command)

    assert talk.then(talk.session.refused(talk.action(kind), codes.ERROR_NOT_AVAILABLE, talk.now)) == [
        {"id": 9, "error": {"code": 108, "message": "not available"}}
    ]


@pytest.mark.parametrize("kind", [Publish, Presence, PresenceStats, History])
def test_a_query_about_a_channel_reports_whether_the_client_is_in_it(
    kind: type[Publish | Presence | PresenceStats | History],
) -> None:
    talk = Talk().connect().subscribe("news")
    name = kind.reply_field
    data = {"data": 1} if kind is Publish else {}

    talk.send({"id": 3, name: {"channel": "news"} | data})
    assert talk.action(kind).subscription is talk.session.subscriptions["news"]

    talk.send({"id": 4, name: {"channel": "other"} | data})
    assert talk.action(kind).subscription is None


def test_what_a_client_sends_is_delivered_without_an_answer() -> None:
    talk = Talk().connect()

    assert talk.send({"send": {"data": "hi"}}) == ["Deliver"]
    deliver = talk.action(Deliver)
    assert bytes(deliver.request.data) == b'"hi"'
    assert talk.session.delivered(deliver, talk.now) == []


def test_a_send_nobody_takes_closes_with_3508_for_there_is_no_answer_to_it() -> None:
    talk = Talk().connect()
    talk.send({"send": {"data": "hi"}})

    assert talk.then(talk.session.refused(talk.action(Deliver), codes.DISCONNECT_NOT_AVAILABLE, talk.now)) == [3508]


def test_a_ping_of_the_client_is_answered() -> None:
    assert Talk().connect().send({"id": 5, "ping": {}}) == [{"id": 5, "ping": {}}]


@pytest.mark.parametrize(
    "request_",
    [
        {"subscribe": {}},
        {"subscribe": {"channel": ""}},
        {"unsubscribe": {}},
        {"publish": {"data": 1}},
        {"publish": {"channel": "news"}},
        {"presence": {}},
        {"presence_stats": {}},
        {"history": {}},
        {"refresh": {}},
        {"sub_refresh": {"channel": "news"}},
        {"sub_refresh": {"token": "S"}},
    ],
    ids=str,
)
def test_a_command_that_lacks_what_it_needs_is_answered_107_and_nothing_is_lost(request_: dict[str, Any]) -> None:
    talk = Talk().connect().subscribe("news")

    assert talk.send({"id": 3} | request_) == [{"id": 3, "error": {"code": 107, "message": "bad request"}}]
    assert "news" in talk.session.subscriptions


@pytest.mark.parametrize(
    "command",
    [
        {"id": 3},
        {"id": 3, "unheard_of": {}},
        {"ping": {}},
        {"id": 0, "rpc": {"method": "m"}},
        {"id": 3, "ping": {}, "rpc": {"method": "m"}},
        {"send": {"data": 1}, "rpc": {"method": "m"}},
    ],
    ids=str,
)
def test_an_illegal_command_closes_with_3501(command: dict[str, Any]) -> None:
    talk = Talk().connect().subscribe("news")

    assert talk.send(command) == ["end news", 3501]


def test_the_same_id_may_be_used_again_each_is_answered() -> None:
    talk = Talk().connect()
    talk.send({"id": 3, "rpc": {"method": "a"}}, {"id": 3, "rpc": {"method": "b"}})
    first, second = talk.decisions
    assert isinstance(first, Call)
    assert isinstance(second, Call)

    assert talk.then(talk.session.answered(second, RPCResult(Raw(b'"b"')), talk.now)) == [
        {"id": 3, "rpc": {"data": "b"}}
    ]
    assert talk.then(talk.session.answered(first, RPCResult(Raw(b'"a"')), talk.now)) == [
        {"id": 3, "rpc": {"data": "a"}}
    ]


def test_calls_do_not_wait_for_each_other() -> None:
    assert Talk().connect().send({"id": 3, "rpc": {"method": "slow"}}, {"id": 4, "rpc": {"method": "fast"}}) == [
        "Call",
        "Call",
    ]


def test_a_new_connection_token_gives_the_connection_more_time() -> None:
    talk = Talk().connect(ttl=60)
    assert talk.send({"id": 3, "refresh": {"token": "T2"}}) == ["Refresh"]
    refresh = talk.action(Refresh)
    assert refresh.request.token == "T2"

    assert talk.then(talk.session.refreshed(refresh, talk.now, ttl=300)) == [
        {"id": 3, "refresh": {"expires": True, "ttl": 300}}
    ]


def test_a_token_without_end_ends_the_waiting() -> None:
    talk = Talk().connect(ttl=60).subscribe("news", ttl=60)
    talk.send({"id": 3, "refresh": {"token": "T2"}}, {"id": 4, "sub_refresh": {"channel": "news", "token": "S2"}})
    refresh, sub_refresh = talk.action(Refresh), talk.action(SubRefresh)

    assert talk.then(talk.session.refreshed(refresh, talk.now, ttl=None)) == [{"id": 3, "refresh": {}}]
    assert talk.then(talk.session.sub_refreshed(sub_refresh, talk.now, ttl=None)) == [{"id": 4, "sub_refresh": {}}]


def test_a_new_subscription_token_gives_the_subscription_more_time() -> None:
    talk = Talk().connect().subscribe("news", ttl=60)
    assert talk.said == [{"id": 2, "subscribe": {"expires": True, "ttl": 60}}]
    assert talk.send({"id": 3, "sub_refresh": {"channel": "news", "token": "S2"}}) == ["SubRefresh"]
    action = talk.action(SubRefresh)
    assert action.request.token == "S2"

    said = talk.then(talk.session.sub_refreshed(action, talk.now, ttl=300, chan_info=Raw(b'"new"')))

    assert said == [{"id": 3, "sub_refresh": {"expires": True, "ttl": 300}}]
    assert bytes(talk.session.subscriptions["news"].chan_info) == b'"new"'


def test_a_subscription_one_does_not_have_cannot_be_refreshed() -> None:
    assert Talk().connect().send({"id": 3, "sub_refresh": {"channel": "news", "token": "S"}}) == [
        {"id": 3, "error": {"code": 103, "message": "permission denied"}}
    ]


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ({"id": 3, "refresh": {"token": "T"}}, Refresh),
        ({"id": 3, "sub_refresh": {"channel": "news", "token": "S"}}, SubRefresh),
    ],
)
def test_a_token_that_is_over_is_answered_110(command: dict[str, Any], kind: type[Refresh | SubRefresh]) -> None:
    talk = Talk().connect(ttl=60).subscribe("news", ttl=60)
    talk.send(command)
    action: Action = talk.action(kind)

    if isinstance(action, Refresh):
        talk.then(talk.session.refreshed(action, talk.now, ttl=0))
    elif isinstance(action, SubRefresh):
        talk.then(talk.session.sub_refreshed(action, talk.now, ttl=-5))

    assert talk.said == [{"id": 3, "error": {"code": 110, "message": "expired"}}]


def test_an_outcome_that_comes_after_the_end_changes_nothing() -> None:
    talk = Talk().connect().subscribe("news", ttl=60)
    talk.send(
        {"id": 3, "rpc": {"method": "m"}},
        {"id": 4, "refresh": {"token": "T"}},
        {"id": 5, "sub_refresh": {"channel": "news", "token": "S"}},
        {"send": {"data": 1}},
    )
    call, refresh, sub_refresh, deliver = (talk.action(kind) for kind in (Call, Refresh, SubRefresh, Deliver))
    session = talk.session
    session.lost()

    assert isinstance(call, Call)
    assert session.answered(call, RPCResult(), talk.now) == []
    assert isinstance(refresh, Refresh)
    assert session.refreshed(refresh, talk.now, ttl=60) == []
    assert isinstance(sub_refresh, SubRefresh)
    assert session.sub_refreshed(sub_refresh, talk.now, ttl=60) == []
    assert isinstance(deliver, Deliver)
    assert session.delivered(deliver, talk.now) == []
