"""The index of connections by their users, with one connection for most of them."""

from typing import cast

import pytest

from starling.engine.receiver import Receiver
from starling.engine.user_index import UserIndex


class Client:
    """A connection of a user."""

    def __init__(self, user: str) -> None:
        self.user = user


def client(user: str) -> Receiver:
    return cast("Receiver", Client(user))


@pytest.fixture
def users() -> UserIndex:
    return UserIndex()


def test_a_user_has_the_connections_that_were_added_and_not_removed(users: UserIndex) -> None:
    first, second, third = (client("ann") for _ in range(3))
    for added in (first, second, third, second):
        users.add(added)
    assert set(users.of("ann")) == {first, second, third}
    for removed in (second, first):
        users.remove(removed)
    assert list(users.of("ann")) == [third]
    users.remove(third)
    assert not users.of("ann")


def test_users_without_connections_are_not_counted(users: UserIndex) -> None:
    ann, bob, other = client("ann"), client("bob"), client("bob")
    for added in (ann, bob, other):
        users.add(added)
    assert len(users) == 2
    for removed in (bob, other):
        users.remove(removed)
    assert len(users) == 1
    users.add(bob)
    assert (len(users), list(users.of("bob"))) == (2, [bob])


def test_a_connection_that_was_never_added_is_removed_without_effect(users: UserIndex) -> None:
    ann = client("ann")
    users.remove(ann)
    users.add(ann)
    users.remove(client("ann"))
    assert list(users.of("ann")) == [ann]
    users.add(ann)
    assert (len(users), list(users.of("ann"))) == (1, [ann])


def test_connections_without_a_user_are_those_of_the_empty_name(users: UserIndex) -> None:
    anonymous, ann = client(""), client("ann")
    users.add(anonymous)
    users.add(ann)
    assert list(users.of("")) == [anonymous]
