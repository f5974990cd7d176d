"""The budget of bytes that wait for all clients of a worker."""

import pytest

from starling.server.options import SocketOptions
from starling.server.waiting import WaitingBudget, waiting_budget


class Client:
    """A client as far as the budget goes; real sockets drain when they please."""

    def __init__(self, size: int) -> None:
        self.own_waiting_bytes = size
        self.closing = False
        self.aborted = False

    def overflow(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.aborted = True
        self.own_waiting_bytes = 0


def fill(budget: WaitingBudget, waiting: list[Client], *sizes: int) -> list[Client]:
    clients = [Client(size) for size in sizes]
    for client in clients:
        waiting.append(client)
        budget.add(client.own_waiting_bytes)
    return clients


def test_within_the_budget_nobody_is_disconnected() -> None:
    waiting: list[Client] = []
    budget = WaitingBudget(waiting, 1000)
    clients = fill(budget, waiting, 400, 300, 300)
    assert not any(client.closing for client in clients)


def test_beyond_it_those_that_wait_with_most_go_until_there_is_room() -> None:
    waiting: list[Client] = []
    budget = WaitingBudget(waiting, 1000)
    clients = fill(budget, waiting, 100, 500, 300, 200)
    assert [client.closing for client in clients] == [False, True, False, False]
    assert budget.disconnected == 1


def test_what_was_taken_meanwhile_does_not_count() -> None:
    waiting: list[Client] = []
    budget = WaitingBudget(waiting, 1000)
    for client in fill(budget, waiting, 400, 500):
        client.own_waiting_bytes = 0
    assert not fill(budget, waiting, 600)[0].closing


@pytest.mark.parametrize("rounds", [3, 30])
def test_however_many_come_what_waits_is_bounded_with_those_that_are_closing(rounds: int) -> None:
    waiting: list[Client] = []
    budget = WaitingBudget(waiting, 1000)
    for _ in range(rounds * 10):
        fill(budget, waiting, 100)
        assert sum(client.own_waiting_bytes for client in waiting) <= 1000 * (1 + 1 / 4 + 1 / 16) + 100
    assert any(client.aborted for client in waiting)


def test_without_a_budget_nobody_is_disconnected() -> None:
    waiting: list[Client] = []
    assert not any(client.closing for client in fill(WaitingBudget(waiting), waiting, *[10**9] * 5))


@pytest.mark.parametrize(("share", "bounded"), [(0.0, False), (1e-30, True), (0.2, True), (1.0, True)])
def test_a_share_however_small_is_a_bound_and_none_is_none(share: float, bounded: bool) -> None:
    options = SocketOptions(waiting_memory_share=share)
    budgets = [waiting_budget(options, workers) for workers in (1, 4)]
    assert all((budget > 0) is bounded for budget in budgets)
    assert budgets[0] >= budgets[1]
