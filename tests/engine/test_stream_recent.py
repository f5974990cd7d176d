"""What a process keeps in memory of a channel's newest publications."""

from msgspec import Raw

from starling.engine.broker import StreamEntry, StreamPosition, StreamRead
from starling.engine.follower import ENTRY_OVERHEAD, MemoryBudget, Recent
from starling.protocol.messages import Publication


def entry(offset: int, previous: int | None = None, data: bytes = b"1") -> StreamEntry:
    before = offset - 1 if previous is None else previous
    return StreamEntry(Publication(Raw(data), offset=offset), before, "e")


def recent(*offsets: int, limit: int = 100, max_bytes: int = 10**6, budget: MemoryBudget | None = None) -> Recent:
    """One that began before the first of `offsets` and took them all."""
    made = Recent(limit, max_bytes, budget or MemoryBudget(10**9))
    made.restart(offsets[0] - 1 if offsets else 0)
    for offset in offsets:
        made.append(entry(offset))
    return made


def read(*offsets: int, top: int, bottom: int = 0) -> StreamRead:
    return StreamRead(StreamPosition(top, "e"), bottom, [entry(offset) for offset in offsets])


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


def test_past_the_budget_of_all_channels_only_the_store_knows_what_was_removed() -> None:
    budget = MemoryBudget(3 * (ENTRY_OVERHEAD + 1))
    other = recent(1, 2, budget=budget)
    kept = recent(1, 2, budget=budget)
    assert offsets(kept.after(1)) == [2]
    assert not kept.knows(0)
    assert offsets(other.after(0)) == [1, 2]
    assert budget.used == 3 * (ENTRY_OVERHEAD + 1)


def test_what_is_removed_is_given_back_to_the_budget() -> None:
    budget = MemoryBudget(10**6)
    kept = recent(1, 2, 3, limit=2, budget=budget)
    assert budget.used == 2 * (ENTRY_OVERHEAD + 1)
    kept.restart(3)
    assert budget.used == 0


def test_a_read_that_leads_up_to_it_is_put_in_front() -> None:
    kept = recent(5, 6)
    kept.keep(read(3, 4, 5, 6, top=6))
    assert kept.knows(2)
    assert offsets(kept.after(2)) == [3, 4, 5, 6]
    assert not kept.knows(1)


def test_a_read_that_is_not_linked_to_it_is_left_out() -> None:
    kept = recent(5, 6)
    kept.keep(read(2, 3, 9, top=9))
    assert not kept.knows(2)
    assert offsets(kept.after(4)) == [5, 6]


def test_a_read_from_before_its_oldest_entry_is_left_out() -> None:
    kept = recent(8)
    kept.keep(read(2, 3, top=3))
    assert not kept.knows(2)
    assert offsets(kept.after(7)) == [8]


def test_a_read_fills_it_up_to_its_limit() -> None:
    kept = recent(5, limit=3)
    kept.keep(read(2, 3, 4, 5, top=5))
    assert offsets(kept.after(2)) == [3, 4, 5]
    assert kept.knows(1)
    assert kept.after(1) is None


def test_a_read_fills_it_up_to_its_bytes() -> None:
    kept = recent(5, max_bytes=2)
    kept.keep(read(3, 4, 5, top=5))
    assert offsets(kept.after(3)) == [4, 5]
    assert kept.knows(2)
    assert kept.after(2) is None


def test_a_read_fills_it_no_further_than_the_budget_of_all() -> None:
    kept = recent(5, budget=MemoryBudget(2 * (ENTRY_OVERHEAD + 1)))
    kept.keep(read(3, 4, 5, top=5))
    assert offsets(kept.after(3)) == [4, 5]
    assert not kept.knows(2)


def test_what_the_store_has_removed_is_removed() -> None:
    budget = MemoryBudget(10**6)
    kept = recent(3, 4, 5, budget=budget)
    kept.keep(read(top=5, bottom=4))
    assert offsets(kept.after(4)) == [5]
    assert not kept.knows(3)
    kept.keep(read(top=5, bottom=5))
    assert kept.newest() is None
    assert offsets(kept.after(5)) == []
    assert budget.used == 0
    kept.append(entry(6))
    assert kept.newest() == entry(6)


def test_how_far_down_the_store_holds_entries_is_remembered_until_the_stream_is_another() -> None:
    kept = recent(5)
    kept.keep(read(top=5, bottom=4))
    kept.keep(read(top=5, bottom=3))
    assert kept.bottom == 4
    kept.restart(9)
    assert kept.bottom == 0
