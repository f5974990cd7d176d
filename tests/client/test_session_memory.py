"""What a worker remembers of sessions on other nodes."""

import pytest

from starling.client import session_memory
from starling.client.session_memory import UNKNOWN_AT_ONCE, UNKNOWN_PER_SECOND, SessionMemory


class Clock:
    """Seconds that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> SessionMemory:
    return SessionMemory(clock)


def _exhaust(memory: SessionMemory, address: str) -> None:
    for number in range(UNKNOWN_AT_ONCE):
        assert memory.may_ask("n", f"guess {number}", address)
        memory.note_gone("n", f"guess {number}", address)


def test_a_session_that_its_node_does_not_have_is_gone_for_that_node_alone(memory: SessionMemory) -> None:
    assert not memory.is_gone("n", "a.b")
    memory.note_gone("n", "a.b", "198.51.100.1")
    assert memory.is_gone("n", "a.b")
    for other in (("m", "a.b"), ("n", "a.c"), ("na", ".b"), ("", "a.b")):
        assert not memory.is_gone(*other)


def test_unknown_sessions_of_an_address_are_bounded_and_those_of_another_go_on(
    memory: SessionMemory, clock: Clock
) -> None:
    _exhaust(memory, "198.51.100.1")
    assert not memory.may_ask("n", "more", "198.51.100.1")
    assert memory.may_ask("n", "more", "198.51.100.2")
    clock.now += 1 / UNKNOWN_PER_SECOND
    assert memory.may_ask("n", "more", "198.51.100.1")
    memory.note_gone("n", "more", "198.51.100.1")
    assert not memory.may_ask("n", "yet more", "198.51.100.1")


def test_a_session_that_was_found_goes_on_from_an_address_without_a_budget_until_it_ends(memory: SessionMemory) -> None:
    memory.note_found("n", "live")
    _exhaust(memory, "198.51.100.1")
    assert memory.may_ask("n", "live", "198.51.100.1")
    memory.note_gone("n", "live", "198.51.100.1")
    assert memory.is_gone("n", "live")
    assert not memory.may_ask("n", "live", "198.51.100.1")


def test_the_memory_keeps_the_latest_sessions(memory: SessionMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_memory, "MOST_REMEMBERED", 3)
    for number in range(4):
        memory.note_gone("n", str(number), f"198.51.100.{number}")
    assert [memory.is_gone("n", str(number)) for number in range(4)] == [False, True, True, True]
