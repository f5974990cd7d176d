"""The judgement of a soak finds each kind of wrong, and takes nothing right for wrong."""

import pytest

from tests.soak.ledger import Acknowledged, Segment, Verdict, judge

FIRST = [Acknowledged(number, "first", number) for number in range(1, 6)]
SECOND = [Acknowledged(number, "second", number - 5) for number in range(6, 9)]


def found(subscription: list[Segment], acknowledged: list[Acknowledged]) -> dict[str, int]:
    verdict = Verdict()
    judge(subscription, acknowledged, "the client", verdict)
    return dict(verdict.counts)


def test_everything_after_its_position_once_and_in_order_is_right() -> None:
    assert found([Segment("first", 0, [(n, n) for n in range(1, 6)])], FIRST) == {}
    assert found([Segment("first", 3, [(4, 4), (5, 5)])], FIRST) == {}
    assert found([Segment("first", 5)], FIRST) == {}


def test_a_client_that_was_notified_of_another_stream_may_end_anywhere_in_the_one_before() -> None:
    reported = [Segment("first", 0, [(1, 1), (2, 2)]), Segment("second", 0, [(1, 6), (2, 7), (3, 8)])]
    assert found(reported, FIRST + SECOND) == {}


def test_a_publication_that_a_retry_put_into_the_next_stream_may_have_come_in_both() -> None:
    again = [*FIRST[:4], Acknowledged(5, "second", 1)]
    subscription = [Segment("first", 0, [(n, n) for n in range(1, 6)]), Segment("second", 0, [(1, 5)])]
    assert found(subscription, again) == {}


@pytest.mark.parametrize(
    ("received", "wrong"),
    [
        ([(1, 1), (2, 2), (4, 4), (5, 5)], {"lost": 1}),
        ([(1, 1), (2, 2), (3, 3)], {"lost": 2}),
        ([(1, 1), (2, 2), (2, 2), (3, 3), (4, 4), (5, 5)], {"doubled": 1}),
        ([(1, 1), (3, 3), (2, 2), (4, 4), (5, 5)], {"out of order": 1}),
        ([(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 99)], {"never published": 1}),
        ([(1, 1), (2, 2), (3, 3), (4, 4), (6, 5)], {"lost": 1, "at another offset": 1}),
    ],
)
def test_each_kind_of_wrong_is_found(received: list[tuple[int, int]], wrong: dict[str, int]) -> None:
    assert found([Segment("first", 0, received)], FIRST) == wrong


def test_a_hole_before_a_return_is_found_though_the_client_was_notified_later() -> None:
    reported = [Segment("first", 0, [(1, 1), (3, 3)]), Segment("second", 0, [(1, 6), (2, 7), (3, 8)])]
    assert found(reported, FIRST + SECOND) == {"lost": 1}


def test_a_client_sent_away_from_a_stream_that_still_stands_is_found() -> None:
    twice = [Segment("first", 0, [(1, 1), (2, 2)]), Segment("first", 4, [(5, 5)])]
    assert found(twice, FIRST) == {"reported without a cause": 1}


def test_a_client_that_never_got_in_is_found() -> None:
    assert found([], FIRST) == {"never subscribed": 1}
