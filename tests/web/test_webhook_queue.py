"""The queue of webhook events: order, room for everybody, and what cancels out."""

from itertools import count

import pytest

from starling.web.webhook_queue import WebhookEvent, WebhookQueue

_ids = count(1)


def event(kind: str, user: str = "", client: str = "", channel: str = "") -> WebhookEvent:
    return WebhookEvent(str(next(_ids)), kind, 0, channel=channel, user=user, client=client or user)


def add(queue: WebhookQueue, added: WebhookEvent) -> int:
    return queue.add(added, f"user {added.user}" if added.user else f"client {added.client}")


def flood(queue: WebhookQueue, user: str, number: int) -> int:
    return sum(add(queue, event("subscribe", user, channel=f"{user}-{index}")) for index in range(number))


def users(queue: WebhookQueue) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in queue.take(10**6):
        found[str(each.user)] = found.get(str(each.user), 0) + 1
    return found


def test_events_leave_in_their_order_and_in_batches() -> None:
    queue = WebhookQueue(100)
    added = [event("connect", "a"), event("subscribe", "a", channel="x"), event("disconnect", "a")]
    for each in added:
        assert add(queue, each) == 0
    assert queue.take(2) == added[:2]
    assert queue.take(2) == added[2:]
    assert len(queue) == 0


def test_one_user_that_floods_loses_its_own_events_and_nobody_elses() -> None:
    queue = WebhookQueue(100)
    assert flood(queue, "mallory", 500) == 410
    # The others' events take the places of the flood.
    for number in range(30):
        assert add(queue, event("subscribe", f"user-{number}", channel="x")) == 1
    found = users(queue)
    assert found.pop("mallory") == 60
    assert found == {f"user-{number}": 1 for number in range(30)}


def test_two_that_flood_share_the_queue_and_a_third_has_its_part() -> None:
    queue = WebhookQueue(100, iter(range(10**6)).__next__)
    flood(queue, "mallory", 200)
    flood(queue, "mallet", 200)
    flood(queue, "alice", 5)
    found = users(queue)
    assert found["alice"] == 5
    assert abs(found["mallory"] - found["mallet"]) <= 6
    assert sum(found.values()) == 90


def test_a_user_with_its_share_takes_no_place_of_one_that_has_more() -> None:
    queue = WebhookQueue(100, iter(range(10**6)).__next__)
    flood(queue, "mallory", 90)
    flood(queue, "mallet", 40)
    flood(queue, "alice", 5)
    # A third of 90 is 30, which mallet is over: its further events are dropped, and not mallory's.
    assert flood(queue, "mallet", 10) == 10
    assert users(queue) == {"mallory": 45, "mallet": 40, "alice": 5}


def test_clients_without_a_user_are_not_one_user() -> None:
    queue = WebhookQueue(100)
    for index in range(200):
        add(queue, event("subscribe", client="one", channel=str(index)))
    add(queue, event("subscribe", client="two", channel="x"))
    assert "two" in {each.client for each in queue.take(200)}


def test_room_is_kept_for_connects_and_disconnects() -> None:
    queue = WebhookQueue(100)
    flood(queue, "mallory", 500)
    dropped = [add(queue, event(kind, f"user-{number}")) for number in range(5) for kind in ("connect", "disconnect")]
    assert dropped == [0] * 10
    assert add(queue, event("connect", "late")) == 1


def test_a_subscribe_that_has_not_left_is_taken_back() -> None:
    queue = WebhookQueue(100)
    add(queue, event("subscribe", "alice", channel="x"))
    add(queue, event("subscribe", "alice", channel="y"))
    assert queue.cancel_subscribe("alice", "x")
    assert not queue.cancel_subscribe("alice", "x")
    assert not queue.cancel_subscribe("bob", "y")
    assert [each.channel for each in queue.take(10)] == ["y"]
    assert not queue.cancel_subscribe("alice", "y")


def test_one_user_that_connects_again_and_again_loses_its_own_events() -> None:
    queue = WebhookQueue(100)
    flood(queue, "reader", 20)
    lost = sum(
        add(queue, event(kind, "mallory", f"m{index}")) for index in range(200) for kind in ("connect", "disconnect")
    )
    assert lost == 320
    for index in range(30):
        assert add(queue, event("connect", f"user {index}")) == 1, "of mallory's"
    found = users(queue)
    assert found == {"reader": 20, "mallory": 50, **{f"user {index}": 1 for index in range(30)}}


@pytest.mark.parametrize("number", [10, 5000])
def test_what_was_taken_back_leaves_nothing_behind(number: int) -> None:
    queue = WebhookQueue(100)
    for index in range(number):
        add(queue, event("subscribe", "alice", channel=str(index)))
        assert queue.cancel_subscribe("alice", str(index))
    assert len(queue) == 0
    assert len(queue._events) <= 101
    assert not queue._channels._owned
    assert not queue._subscribes


def test_a_subscription_that_found_no_room_takes_none_back_that_was_before_it() -> None:
    queue = WebhookQueue(10)
    add(queue, event("subscribe", "alice", channel="x"))
    add(queue, event("unsubscribe", "alice", channel="x"))
    flood(queue, "alice", 20)
    assert add(queue, event("subscribe", "alice", channel="x")) == 1
    assert not queue.cancel_subscribe("alice", "x")
    assert [each.event for each in queue.take(2)] == ["subscribe", "unsubscribe"]


@pytest.mark.parametrize("kind", ["occupied", "vacated"])
def test_who_empties_and_fills_channels_takes_nobodys_places(kind: str) -> None:
    queue = WebhookQueue(100)
    lost = sum(queue.add(event(kind, channel=str(index)), "user mallory") for index in range(500))
    assert lost == 410
    assert [add(queue, event(kind, "alice")) for kind in ("connect", "subscribe", "disconnect")] == [0, 1, 0]
    assert queue.add(event(kind, channel="alices"), "user alice") == 1
    # Nobody is known to have caused what a lost process left.
    assert queue.add(event(kind, channel="lost"), "") == 1
    left = queue.take(1000)
    assert [str(each.channel) for each in left if each.event == kind and str(each.channel).isdigit()] == [
        str(index) for index in range(87)
    ]
    assert [each.event for each in left[87:]] == ["connect", "subscribe", "disconnect", kind, kind]
