"""The codes as the protocol documents them."""

import pytest

from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Disconnect, Error, Unsubscribe

ERRORS = [
    (100, "internal server error", True),
    (101, "unauthorized", False),
    (102, "unknown channel", False),
    (103, "permission denied", False),
    (104, "method not found", False),
    (105, "already subscribed", False),
    (106, "limit exceeded", False),
    (107, "bad request", False),
    (108, "not available", False),
    (109, "token expired", False),
    (110, "expired", False),
    (111, "too many requests", True),
    (112, "unrecoverable position", False),
]
UNSUBSCRIBES = [(2000, False), (2500, True), (2501, True), (2502, True)]
DISCONNECTS = [
    (3000, "connection closed", True),
    (3001, "shutdown", True),
    (3004, "internal server error", True),
    (3005, "connection expired", True),
    (3006, "subscription expired", True),
    (3008, "slow", True),
    (3009, "write error", True),
    (3010, "insufficient state", True),
    (3011, "force reconnect", True),
    (3012, "no pong", True),
    (3013, "too many requests", True),
    (3014, "state invalidated", True),
    (3500, "invalid token", False),
    (3501, "bad request", False),
    (3502, "stale", False),
    (3503, "force disconnect", False),
    (3504, "connection limit", False),
    (3505, "channel limit", False),
    (3506, "inappropriate protocol", False),
    (3507, "permission denied", False),
    (3508, "not available", False),
    (3509, "too many errors", False),
]


def test_the_errors_are_those_of_the_protocol() -> None:
    found = [value for value in vars(codes).values() if isinstance(value, Error)]

    assert sorted((each.code, each.message, each.temporary) for each in found) == ERRORS


def test_the_ends_of_a_subscription_are_those_of_the_protocol() -> None:
    found = [value for value in vars(codes).values() if isinstance(value, Unsubscribe)]

    assert sorted((each.code, each.resubscribe) for each in found) == UNSUBSCRIBES
    assert all(each.reason for each in found)


def test_the_ends_of_the_connection_are_those_of_the_protocol() -> None:
    found = [value for value in vars(codes).values() if isinstance(value, Disconnect)]

    assert sorted((each.code, each.reason, each.reconnect) for each in found) == DISCONNECTS


@pytest.mark.parametrize(("code", "reconnect"), [(4000, True), (4499, True), (4500, False), (4999, False)])
def test_the_applications_own_disconnects_reconnect_by_range(code: int, reconnect: bool) -> None:
    assert Disconnect(code, "moved").reconnect is reconnect


@pytest.mark.parametrize("code", [0, 1000, 2999, 5000])
def test_a_disconnect_code_outside_the_ranges_is_refused_by_name(code: int) -> None:
    with pytest.raises(ValueError, match=f"disconnect code {code}"):
        Disconnect(code, "out")


def test_a_reason_must_fit_a_close_frame_in_bytes() -> None:
    assert Disconnect(4000, "ü" * 61).reason

    with pytest.raises(ValueError, match="123 bytes"):
        Disconnect(4000, "ü" * 62)


@pytest.mark.parametrize("code", [1999, 3000])
def test_an_unsubscribe_code_outside_the_range_is_refused_by_name(code: int) -> None:
    with pytest.raises(ValueError, match=f"unsubscribe code {code}"):
        Unsubscribe(code, "out")


def test_an_unsubscribe_needs_a_reason_for_sdks_read_it_without_asking() -> None:
    with pytest.raises(ValueError, match="unsubscribe reason"):
        Unsubscribe(2000, "")


def test_error_codes_under_100_belong_to_the_sdks() -> None:
    with pytest.raises(ValueError, match="error code 99"):
        Error(99, "mine")


def test_a_refusal_carries_its_reason_and_says_it() -> None:
    error = CommandRefused(codes.ERROR_PERMISSION_DENIED)
    disconnect = CommandRefused(codes.DISCONNECT_SHUTDOWN)

    assert (error.reason, str(error)) == (codes.ERROR_PERMISSION_DENIED, "(103, 'permission denied')")
    assert (disconnect.reason, str(disconnect)) == (codes.DISCONNECT_SHUTDOWN, "(3001, 'shutdown')")
