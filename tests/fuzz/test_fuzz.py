"""A short run of `make fuzz`, and what its judgement calls a fault."""

import asyncio
from collections import Counter

import pytest

from tests.fuzz.fuzz import Fuzzer, Outcome
from tests.fuzz.inputs import Inputs
from tests.fuzz.service import service

INPUTS = 6000
SEED = 20261129


def test_random_and_mutated_input_ends_no_worker_and_leaves_no_memory_behind() -> None:
    with service() as starling:
        outcome = asyncio.run(Fuzzer(starling, SEED).run(INPUTS))
    assert outcome.faults() == [], outcome.text()
    assert outcome.sent.total() >= INPUTS
    # The input reached what lies behind the parsers as well as the parsers.
    assert {"200", "400", "101"} <= set(outcome.statuses), outcome.text()
    assert {"1002", "1007", "3501"} <= set(outcome.closes), outcome.text()


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(statuses=Counter({"500": 1})),
        Outcome(statuses=Counter({"503": 1})),
        Outcome(workers_lost=1),
        Outcome(unanswered=1),
        Outcome(memory_before=100, memory_after=111),
        Outcome(errors=["api_method_failed"]),
    ],
)
def test_each_fault_fails_the_run(outcome: Outcome) -> None:
    assert len(outcome.faults()) == 1


def test_refusals_and_memory_within_a_tenth_are_no_fault() -> None:
    passed = Outcome(statuses=Counter({"200": 1, "400": 1, "501": 1, "505": 1}), memory_before=100, memory_after=110)
    assert passed.faults() == []


def test_the_same_seed_draws_the_same_inputs() -> None:
    first, second, other = Inputs(1), Inputs(1), Inputs(2)
    assert [first.frame() for _ in range(50)] == [second.frame() for _ in range(50)]
    assert [first.head() for _ in range(50)] != [other.head() for _ in range(50)]
