"""Recovery on entering a channel: who gets it, from where, and what the client got."""

from typing import Any

import pytest
from msgspec import Raw, structs

from starling.client.authority import Grant
from starling.client.recovery import recovers_from, rejects_unrecovered, subscribe_result
from starling.engine.broker import StreamPosition
from starling.engine.channels_document import parse_channels
from starling.engine.follower import Joined
from starling.protocol.commands import SubscribeRequest
from starling.protocol.messages import Publication, SubscribeResult

HISTORY = {"history_size": 10, "history_ttl": "1m"}
READABLE = {**HISTORY, "allow_history_for_subscriber": True}
FORCED = {**HISTORY, "force_recovery": True}
CACHE = {**FORCED, "force_recovery_mode": "cache"}

MISSED = Publication(data=Raw(b'"missed"'), offset=8)
# The stream is at 8; the client stood at 7.
BACK = SubscribeRequest("news", recover=True, epoch="then", offset=7)
NOTHING_MISSED = Joined(StreamPosition(8, "then"), [], recovered=False)
ALL_MISSED = Joined(StreamPosition(8, "then"), [MISSED], recovered=True)


def grant(options: dict[str, Any], *, recover: bool = False, data: bytes = b"") -> Grant:
    known = parse_channels({"default": options}, developer=False)
    return Grant(known.options("news"), data=Raw(data), recover=recover)


def reported(
    request: SubscribeRequest, granted: Grant, joined: Joined = NOTHING_MISSED, *, anonymous: bool = False
) -> SubscribeResult:
    return subscribe_result(request, granted, joined, user="" if anonymous else "alice")


@pytest.mark.parametrize("options", [{}, HISTORY, READABLE, FORCED, CACHE])
def test_a_client_that_asks_for_recovery_is_always_answered_whether_it_got_it(options: dict[str, Any]) -> None:
    result = reported(BACK, grant(options))
    assert (result.was_recovering, result.recovered) == (True, False)
    assert not reported(SubscribeRequest("news"), grant(options)).was_recovering


@pytest.mark.parametrize(
    ("options", "joined", "rejected"),
    [
        ({}, NOTHING_MISSED, True),
        (READABLE, NOTHING_MISSED, True),
        (READABLE, ALL_MISSED, False),
        (HISTORY, NOTHING_MISSED, False),
    ],
    ids=["no history", "not recovered", "recovered", "history it may not read"],
)
def test_a_client_that_wants_an_error_in_place_of_a_gap_gets_it(
    options: dict[str, Any], joined: Joined, rejected: bool
) -> None:
    request = structs.replace(BACK, flag=2)
    granted = grant(options)
    assert rejects_unrecovered(request, granted, reported(request, granted, joined)) is rejected
    assert not rejects_unrecovered(BACK, granted, reported(BACK, granted, joined))


@pytest.mark.parametrize(
    ("options", "by_token", "anonymous", "recovers"),
    [
        ({}, True, False, False),
        (HISTORY, False, False, False),
        (HISTORY, True, False, True),
        (READABLE, False, False, True),
        (READABLE, False, True, False),
        ({**READABLE, "allow_history_for_anonymous": True}, False, True, True),
        (FORCED, False, True, True),
    ],
)
def test_a_client_that_returns_recovers_where_it_may_read_or_the_channel_or_its_token_says_so(
    options: dict[str, Any], by_token: bool, anonymous: bool, recovers: bool
) -> None:
    granted = grant(options, recover=by_token)

    since = recovers_from(BACK, granted, user="" if anonymous else "alice")

    assert since == (StreamPosition(7, "then") if recovers else None)
    assert reported(BACK, granted, anonymous=anonymous).recoverable is recovers


def test_a_client_that_is_new_has_no_position_to_recover_from() -> None:
    assert recovers_from(SubscribeRequest("news"), grant(FORCED), user="alice") is None


def test_a_new_client_receives_where_the_stream_is_if_it_can_recover_later() -> None:
    result = reported(SubscribeRequest("news", recoverable=True), grant(READABLE))

    assert result == SubscribeResult(recoverable=True, positioned=True, epoch="then", offset=8)


def test_what_was_missed_comes_with_the_position_that_the_client_named() -> None:
    result = reported(BACK, grant(FORCED), ALL_MISSED)

    assert (result.was_recovering, result.recovered, result.publications) == (True, True, [MISSED])
    assert (result.epoch, result.offset) == ("then", 7)


def test_a_client_that_missed_too_much_goes_on_from_where_the_stream_is() -> None:
    result = reported(BACK, grant(FORCED), NOTHING_MISSED)

    assert (result.was_recovering, result.recovered, result.publications) == (True, False, [])
    assert (result.epoch, result.offset) == ("then", 8)


def test_a_client_that_may_not_recover_gets_nothing_that_was_missed() -> None:
    assert reported(BACK, grant(HISTORY), ALL_MISSED) == SubscribeResult(was_recovering=True)


def test_a_cache_gives_its_latest_publication_to_a_client_that_is_new() -> None:
    result = reported(SubscribeRequest("news"), grant(CACHE), ALL_MISSED)

    assert (result.was_recovering, result.recovered, result.publications) == (False, True, [MISSED])


def test_a_stream_gives_a_client_that_is_new_nothing_of_the_past() -> None:
    result = reported(SubscribeRequest("news"), grant(FORCED), ALL_MISSED)

    assert (result.was_recovering, result.recovered, result.publications) == (False, False, [])


@pytest.mark.parametrize(
    ("request_", "options", "positioned"),
    [
        (SubscribeRequest("news"), HISTORY, False),
        (SubscribeRequest("news", positioned=True), HISTORY, True),
        (SubscribeRequest("news"), {**HISTORY, "force_positioning": True}, True),
        (SubscribeRequest("news", positioned=True), {}, False),
    ],
)
def test_a_position_without_recovery_is_reported_where_there_is_a_stream_and_somebody_wants_it(
    request_: SubscribeRequest, options: dict[str, Any], positioned: bool
) -> None:
    result = reported(request_, grant(options))

    assert (result.positioned, result.recoverable) == (positioned, False)
    assert (result.epoch, result.offset) == (("then", 8) if positioned else ("", 0))


def test_the_data_of_a_grant_comes_with_the_subscription() -> None:
    assert bytes(reported(SubscribeRequest("news"), grant({}, data=b'{"topic":1}')).data) == b'{"topic":1}'
