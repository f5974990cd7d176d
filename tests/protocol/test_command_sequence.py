"""Commands that come by requests: their order, what waits for what, and that each is carried out once."""

import random
from math import inf

import pytest

from starling.protocol.command_sequence import LATE_IDS, WAIT_SECONDS, CommandSequence
from starling.protocol.commands import Command


def commands(*numbers: int) -> list[Command]:
    return [Command(id=number) for number in numbers]


def numbers(taken: list[Command]) -> list[int]:
    return [command.id for command in taken]


def test_commands_in_their_order_do_not_wait() -> None:
    sequence = CommandSequence([1])

    assert [numbers(sequence.take(commands(number), 0.0)) for number in (2, 3, 4)] == [[2], [3], [4]]
    assert sequence.deadline == inf


def test_a_command_waits_for_the_one_before_it_and_follows_at_once() -> None:
    sequence = CommandSequence([1])

    assert sequence.take(commands(4), 0.0) == []
    assert sequence.take(commands(3), 0.01) == []
    assert sequence.deadline == WAIT_SECONDS
    assert numbers(sequence.take(commands(2), 0.02)) == [2, 3, 4]
    assert sequence.deadline == inf


def test_a_command_waits_no_longer_than_the_limit_and_the_late_one_is_carried_out_all_the_same() -> None:
    sequence = CommandSequence([1])
    sequence.take(commands(5), 0.0)
    sequence.take(commands(4), 0.05)

    assert sequence.overdue(WAIT_SECONDS - 0.001) == []
    assert numbers(sequence.overdue(WAIT_SECONDS)) == [4, 5]
    assert numbers(sequence.take(commands(3), 1.0)) == [3]
    assert numbers(sequence.take(commands(2), 1.0)) == [2]


@pytest.mark.parametrize("again", [1, 2, 3, 5])
def test_an_id_seen_before_is_not_carried_out_again(again: int) -> None:
    sequence = CommandSequence([1])
    sequence.take(commands(2, 3), 0.0)
    sequence.take(commands(5), 0.0)

    assert sequence.take(commands(again), 0.0) == []
    assert numbers(sequence.take(commands(4), 0.01)) == [4, 5]
    assert sequence.take(commands(again), 0.02) == []


def test_an_id_twice_in_one_request_is_carried_out_once() -> None:
    assert numbers(CommandSequence([1]).take(commands(2, 2, 3), 0.0)) == [2, 3]


def test_commands_without_an_id_stand_where_they_arrived_and_never_count_as_seen() -> None:
    sequence = CommandSequence([1])
    assert numbers(sequence.take(commands(0), 0.0)) == [0]
    sequence.take(commands(3), 0.0)
    assert sequence.take(commands(0, 0), 0.0) == []
    assert numbers(sequence.take(commands(2), 0.0)) == [2, 3, 0, 0]


def test_a_session_may_begin_at_any_id() -> None:
    sequence = CommandSequence([100])

    assert numbers(sequence.take(commands(101), 0.0)) == [101]
    assert numbers(sequence.take(commands(7), 0.0)) == [7]
    assert sequence.take(commands(7), 0.0) == []


def test_an_id_may_come_late_by_as_many_as_the_limit_and_those_below_count_as_seen() -> None:
    sequence = CommandSequence([1])
    top = 10 * LATE_IDS
    sequence.take(commands(top), 0.0)
    sequence.overdue(1.0)

    assert numbers(sequence.take(commands(top - LATE_IDS + 1), 1.0)) == [top - LATE_IDS + 1]
    assert sequence.take(commands(top - LATE_IDS), 1.0) == []
    assert sequence.take(commands(2**32 - 1), 2.0) == []
    assert numbers(sequence.overdue(3.0)) == [2**32 - 1]
    assert sequence.take(commands(top - 1), 3.0) == []


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_of_arrival_each_is_carried_out_once_and_in_the_order_of_ids(seed: int) -> None:
    chance = random.Random(seed)
    arrivals = list(range(2, 300))
    # Requests of a browser overtake each other by a few places, and some are sent again.
    arrivals.sort(key=lambda number: number + chance.uniform(0, 8))
    for number in chance.sample(arrivals, 40):
        arrivals.insert(chance.randrange(len(arrivals)), number)
    sequence, done, now = CommandSequence([1]), [], 0.0
    for number in arrivals:
        now += 0.0001
        done += numbers(sequence.take(commands(number), now))

    assert done == sorted(done)
    assert sorted(done + numbers(sequence.overdue(now + 1))) == list(range(2, 300))
