"""What a peer's fragments become, and what its frames may cost, without any socket."""

import pytest

from starling.server.assembly import CONTROL_BURST, CONTROL_PER_SECOND, ControlBudget, FragmentedMessage
from starling.server.frames import BINARY, CONTINUATION, FINAL, TEXT, PeerError


def test_fragments_become_one_message_of_the_first_ones_kind() -> None:
    text = FragmentedMessage(TEXT, max_fragments=8, max_bytes=100)
    assert text.take(TEXT, b"\xc3") is None
    assert text.take(CONTINUATION, b"") is None
    assert text.take(CONTINUATION | FINAL, b"\xbc") == "ü"
    binary = FragmentedMessage(BINARY, max_fragments=8, max_bytes=100)
    assert binary.take(BINARY, b"\xc3") is None
    assert binary.take(CONTINUATION | FINAL, b"\xbc") == b"\xc3\xbc"


def test_empty_fragments_can_become_an_empty_message() -> None:
    message = FragmentedMessage(TEXT, max_fragments=8, max_bytes=100)
    assert message.take(TEXT, b"") is None
    assert message.take(CONTINUATION | FINAL, b"") == ""


def test_fragments_that_together_are_too_large_are_refused() -> None:
    message = FragmentedMessage(BINARY, max_fragments=8, max_bytes=100)
    assert message.take(BINARY, b"x" * 60) is None
    assert message.room == 40
    with pytest.raises(PeerError) as refused:
        message.take(CONTINUATION | FINAL, b"x" * 41)
    assert refused.value.code == 1009


def test_text_that_is_not_utf8_is_refused_at_the_fragment_that_shows_it() -> None:
    message = FragmentedMessage(TEXT, max_fragments=8, max_bytes=100)
    assert message.take(TEXT, b"\xc3") is None
    with pytest.raises(PeerError) as refused:
        message.take(CONTINUATION, b"(")
    assert refused.value.code == 1007


def test_control_frames_in_time_cost_nothing_and_a_burst_is_refused_until_time_has_passed() -> None:
    budget = ControlBudget()
    for number in range(10_000):
        budget.spend(number / CONTROL_PER_SECOND)
    now = 10_000 / CONTROL_PER_SECOND
    for _ in range(int(CONTROL_BURST)):
        budget.spend(now)
    with pytest.raises(PeerError) as refused:
        budget.spend(now)
    assert refused.value.code == 1008
    budget.spend(now + 1)
