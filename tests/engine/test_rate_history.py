"""Rates of the last ten minutes: the counts of all nodes, joined step by step."""

from starling.engine.rate_history import SAMPLES, Rates, Sample, joined


def sample(at: float, connections: int = 0, connects: int = 0, publications: int = 0, sent: int = 0) -> Sample:
    return Sample(at, connections, connects, publications, 0, sent)


def test_counts_become_rates_per_second() -> None:
    found = joined([[sample(0, 2, 2, 10, 100), sample(5, 3, 12, 20, 200)]])
    assert found == [Rates(5, 3, 2.0, 2.0, 0.0, 20.0)]


def test_nodes_are_added_at_the_same_moments() -> None:
    one = [sample(0), sample(5, connections=1, sent=5), sample(10, connections=1, sent=15)]
    other = [sample(5, connections=2, sent=0), sample(10, connections=2, sent=10)]
    assert [(step.at, step.connections, step.messages_out) for step in joined([one, other])] == [
        (5, 1, 1.0),
        (10, 3, 4.0),
    ]


def test_a_step_that_took_longer_counts_by_its_time() -> None:
    (step,) = joined([[sample(0), sample(20, sent=100)]])
    assert step.messages_out == 5.0


def test_samples_of_one_moment_divide_by_nothing() -> None:
    assert joined([[sample(5), sample(5, sent=100)]]) == []


def test_only_the_last_ten_minutes_are_shown() -> None:
    found = joined([[sample(5 * number) for number in range(SAMPLES + 10)]])
    assert len(found) == SAMPLES
    assert found[-1].at == 5 * (SAMPLES + 9)
