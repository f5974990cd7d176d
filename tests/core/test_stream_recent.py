"""What a process keeps in memory of a channel's newest publications."""

from msgspec import Raw

from app.core.broker import StreamEntry, StreamPosition, StreamRead
from app.core.recent import ENTRY_OVERHEAD, MemoryBudget, Recent
from app.protocol.messages import Publication


def entry(offset: int, previous: int | None = None, data: bytes = b"1", time: int = 0) -> StreamEntry:
    before = offset - 1 if previous is None else previous
    return StreamEntry(Publication(Raw(data), offset=offset, time=time), before, "e")


def recent(
    *offsets: int, limit: int = 100, max_bytes: int = 10**6, ttl: float = 0, budget: MemoryBudget | None = None
) -> Recent:
    """One that began before the first of `offsets` and took them all."""
    made = Recent(limit, max_bytes, ttl, budget or MemoryBudget(10**9))
    made.restart(offsets[0] - 1 if offsets else 0)
    for offset in offsets:
        made.append(entry(offset))
    return made


def read_after(after: int, *offsets: int, top: int, more: bool = False) -> StreamRead:
    return StreamRead(StreamPosition(top, "e"), [entry(offset) for offset in offsets], more)


def offsets(entries: list[StreamEntry] | None) -> list[int] | None:
    return None if entries is None else [entry.offset for entry in entries]


def test_it_answers_from_where_it_began() -> None:
    kept = recent(4, 5, 6)
    assert kept.knows(3)
    assert offsets(kept.after(3)) == [4, 5, 6]
    assert offsets(kept.after(5)) == [6]
    assert offsets(kept.after(6)) == []


def test_it_does_not_answer_for_what_was_before_it_began() -> None:
    assert not recent(4, 5).knows(2)


def test_a_position_between_two_entries_is_one_of_another_stream() -> None:
    kept = recent(4)
    kept.append(entry(9, previous=4))
    assert kept.knows(7)
    assert kept.after(7) is None
    assert offsets(kept.after(4)) == [9]


def test_past_its_limit_older_positions_are_known_to_be_lost() -> None:
    kept = recent(1, 2, 3, 4, limit=2)
    assert offsets(kept.after(2)) == [3, 4]
    assert kept.knows(1)
    assert kept.after(1) is None


def test_past_its_bytes_older_positions_are_known_to_be_lost() -> None:
    kept = recent(1, 2, 3, max_bytes=2)
    assert offsets(kept.after(1)) == [2, 3]
    assert kept.knows(0)
    assert kept.after(0) is None


def test_one_publication_over_the_bytes_leaves_it_empty_but_at_the_right_place() -> None:
    kept = recent(1, max_bytes=999)
    kept.append(entry(2, data=b"x" * 1000))
    assert offsets(kept.after(2)) == []
    assert kept.after(1) is None
    kept.append(entry(3))
    assert offsets(kept.after(2)) == [3]


def test_past_the_budget_of_all_channels_only_the_store_knows_what_was_let_go() -> None:
    budget = MemoryBudget(3 * (ENTRY_OVERHEAD + 1))
    other = recent(1, 2, budget=budget)
    kept = recent(1, 2, budget=budget)
    assert offsets(kept.after(1)) == [2]
    assert not kept.knows(0)
    assert offsets(other.after(0)) == [1, 2]
    assert budget.used == 3 * (ENTRY_OVERHEAD + 1)


def test_what_is_let_go_is_given_back_to_the_budget() -> None:
    budget = MemoryBudget(10**6)
    kept = recent(1, 2, 3, limit=2, budget=budget)
    assert budget.used == 2 * (ENTRY_OVERHEAD + 1)
    kept.restart(3)
    assert budget.used == 0


def test_a_read_that_leads_up_to_it_is_put_in_front() -> None:
    kept = recent(5, 6)
    kept.extend(read_after(2, 3, 4, 5, 6, top=6), after=2)
    assert kept.knows(2)
    assert offsets(kept.after(2)) == [3, 4, 5, 6]


def test_a_read_that_is_not_linked_to_it_is_left_out_and_its_reach_known_to_be_lost() -> None:
    kept = recent(5, 6)
    kept.extend(read_after(1, 2, 3, 9, top=9), after=1)
    assert kept.knows(1)
    assert kept.after(1) is None
    assert kept.after(2) is None
    assert not kept.knows(0)
    assert offsets(kept.after(4)) == [5, 6]


def test_after_a_read_that_found_nothing_older_nobody_needs_to_ask_again() -> None:
    kept = recent(5, 6)
    kept.extend(read_after(1, 5, 6, top=6), after=1)
    assert kept.knows(1)
    assert kept.after(1) is None


def test_a_read_that_was_cut_says_nothing_about_what_is_older() -> None:
    kept = recent(5)
    kept.extend(read_after(1, 4, 5, top=5, more=True), after=1)
    assert offsets(kept.after(3)) == [4, 5]
    assert not kept.knows(2)


def test_a_read_from_before_its_oldest_entry_says_nothing() -> None:
    kept = recent(8)
    kept.extend(read_after(1, 2, 3, top=3), after=1)
    assert not kept.knows(1)


def test_a_read_fills_it_up_to_its_limit() -> None:
    kept = recent(5, limit=3)
    kept.extend(read_after(1, 2, 3, 4, 5, top=5), after=1)
    assert offsets(kept.after(2)) == [3, 4, 5]
    assert kept.knows(1)
    assert kept.after(1) is None


def test_the_newest_entry_is_known_once_there_was_one_or_a_read_found_none() -> None:
    kept = recent()
    assert kept.knows_newest()
    assert kept.newest() is None
    kept.restart(7)
    assert not kept.knows_newest()
    kept.extend(read_after(0, top=7), after=0)
    assert kept.knows_newest()
    assert kept.newest() is None
    kept.append(entry(8))
    assert kept.newest() == entry(8)


def test_it_ends_with_the_time_of_the_newest_publication() -> None:
    kept = recent(ttl=60)
    kept.append(entry(1, time=100_000))
    kept.append(entry(2, time=150_000))
    kept.expire(now=209.0)
    assert offsets(kept.after(0)) == [1, 2]
    kept.expire(now=211.0)
    assert not kept.knows(0)
    assert offsets(kept.after(2)) == []
