"""The pace at which clients are let go."""

import time

from app.server.drain import even_pace


async def let_go(clients: int, seconds: float) -> tuple[list[int], float]:
    """How many went at each step, and the seconds until all had gone."""
    pace = even_pace(seconds)
    started = time.monotonic()
    steps = []
    while clients:
        steps.append(min(await pace(clients), clients))
        clients -= steps[-1]
    return steps, time.monotonic() - started


async def test_many_clients_go_in_groups_over_the_whole_time() -> None:
    steps, taken = await let_go(5000, seconds=1.0)
    assert taken > 0.8
    assert len(steps) > 10
    assert max(steps) < 2500


async def test_a_few_clients_need_not_wait_for_the_whole_time() -> None:
    steps, taken = await let_go(2, seconds=600)
    assert steps == [1, 1]
    assert taken < 60


async def test_no_time_lets_all_go_at_once() -> None:
    steps, _ = await let_go(1000, seconds=0)
    assert steps == [1000]
