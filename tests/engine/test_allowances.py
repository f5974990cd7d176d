"""What each user may cost a worker."""

from dataclasses import dataclass

import pytest

from starling.engine.allowances import AddressBudgets, Budgets, ConnectionLimit, payer


@dataclass
class Client:
    """A client as far as paying goes."""

    id: str
    user: str = ""
    address: str = ""


def test_a_user_pays_for_all_its_connections_and_who_has_none_by_address() -> None:
    assert payer(Client("1", "alice", "10.0.0.1")) == payer(Client("2", "alice", "10.0.0.2"))
    assert payer(Client("1", "", "10.0.0.1")) == payer(Client("2", "", "10.0.0.1"))
    assert payer(Client("1", "", "10.0.0.1")) != payer(Client("2", "10.0.0.1", ""))
    assert payer(Client("1")) != payer(Client("2"))


def test_a_burst_is_spent_and_returns_at_the_rate() -> None:
    now = 100.0
    budgets = Budgets(10, 3, lambda: now)
    for _ in range(3):
        assert not budgets.exhausted("alice")
        budgets.spend("alice")
    assert budgets.exhausted("alice")
    assert not budgets.exhausted("bob")
    now += 0.11
    assert not budgets.exhausted("alice")


def test_without_a_rate_nothing_is_ever_exhausted() -> None:
    budgets = Budgets(0, 1)
    for _ in range(10):
        budgets.spend("alice")
    assert not budgets.exhausted("alice")


def test_budgets_that_are_whole_again_are_not_kept() -> None:
    now = 100.0
    budgets = Budgets(1000, 10, lambda: now)
    for number in range(5000):
        now += 0.01
        budgets.spend(f"user {number}")
    assert len(budgets._budgets) <= 1001


def test_connections_are_counted_by_user_and_by_address_without_one() -> None:
    limit = ConnectionLimit(2, 1)
    first = limit.add("alice", "10.0.0.1")
    limit.add("alice", "10.0.0.2")
    assert limit.full("alice", "10.0.0.3")
    assert not limit.full("", "10.0.0.1")
    limit.add("", "10.0.0.1")
    assert limit.full("", "10.0.0.1")
    assert not limit.full("10.0.0.1", "")
    limit.remove(first)
    assert not limit.full("alice", "10.0.0.3")


def test_a_user_with_the_name_of_an_address_is_not_counted_as_that_address() -> None:
    limit = ConnectionLimit(1, 1)
    anonymous = limit.add("", "10.0.0.1")
    assert not limit.full("10.0.0.1", "10.0.0.1")
    named = limit.add("10.0.0.1", "10.0.0.2")
    limit.remove(anonymous)
    assert limit.full("10.0.0.1", "10.0.0.2")
    assert not limit.full("", "10.0.0.1")
    limit.remove(named)
    assert not limit.full("10.0.0.1", "10.0.0.2")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("2001:db8:1:1::1", "2001:DB8:1:1:ffff::2", True),
        ("2001:db8:1:1::1", "2001:db8:1:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", False),
        ("::1", "::2", False),
        ("not:an:address", "not:an:address", True),
    ],
)
def test_addresses_of_one_subscriber_count_together(one: str, other: str, alike: bool) -> None:
    failures, connections = AddressBudgets(1, 1, lambda: 100.0), ConnectionLimit(0, 1)
    failures.spend(one)
    connections.add("", one)

    assert failures.exhausted(other) is alike
    assert connections.full("", other) is alike
    assert (payer(Client("1", "", one)) == payer(Client("2", "", other))) is alike
