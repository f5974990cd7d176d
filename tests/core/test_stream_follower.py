"""The rules of following a channel, entry by entry and read by read, without I/O."""

from msgspec import Raw

from app.core.broker import StreamEntry, StreamPosition, StreamRead
from app.core.follower import HELD_LIMIT, Follower, Joined, Step
from app.core.recent import MemoryBudget, Recent
from app.protocol.messages import Publication


def entry(offset: int, previous: int | None = None, epoch: str = "e") -> StreamEntry:
    before = offset - 1 if previous is None else previous
    return StreamEntry(Publication(Raw(b"%d" % offset), offset=offset), before, epoch)


def read(top: int, *offsets: int, epoch: str = "e", more: bool = False) -> StreamRead:
    return StreamRead(StreamPosition(top, epoch), [entry(offset, epoch=epoch) for offset in offsets], more)


def follower(last: int, *, limit: int = 100) -> Follower:
    """One that follows from `last` on."""
    made = Follower(Recent(limit, 10**6, 0, MemoryBudget(10**9)), now=lambda: 0.0)
    made.reading()
    made.healed(read(last))
    return made


def offsets(entries: list[StreamEntry]) -> list[int]:
    return [entry.offset for entry in entries]


def test_an_entry_that_names_the_position_is_delivered() -> None:
    following = follower(4)
    assert following.on(entry(5)) is Step.DELIVER
    assert following.on(entry(2**51, previous=5)) is Step.DELIVER
    assert following.position == StreamPosition(2**51, "e")


def test_an_entry_from_before_the_position_is_dropped() -> None:
    following = follower(4)
    assert following.on(entry(4)) is Step.DROP
    assert following.on(entry(1)) is Step.DROP
    assert not following.healing


def test_a_broken_chain_is_healed() -> None:
    following = follower(4)
    assert following.on(entry(6)) is Step.HEAL
    assert following.on(entry(7)) is Step.HOLD
    assert following.position == StreamPosition(4, "e")


def test_an_entry_of_another_epoch_is_healed_whatever_its_offset() -> None:
    assert follower(4).on(entry(5, epoch="f")) is Step.HEAL
    assert follower(4).on(entry(1, epoch="f")) is Step.HEAL


def test_a_whole_read_is_delivered_and_then_what_came_while_it_was_under_way() -> None:
    following = follower(4)
    following.on(entry(7))
    following.reading()
    assert following.on(entry(8)) is Step.HOLD
    assert following.on(entry(9)) is Step.HOLD
    healed = following.healed(read(8, 5, 6, 7, 8))
    assert offsets(healed.deliver) == [5, 6, 7, 8, 9]
    assert healed.done
    assert not healed.lost
    assert following.on(entry(10)) is Step.DELIVER


def test_what_came_before_the_read_began_is_left_to_the_read() -> None:
    following = follower(4)
    following.on(entry(9))
    following.on(entry(10))
    following.reading()
    healed = following.healed(read(4))
    assert healed.deliver == []
    assert healed.done


def test_a_hole_among_what_was_held_is_healed_again() -> None:
    following = follower(4)
    following.doubt()
    following.reading()
    following.on(entry(5))
    following.on(entry(7))
    following.on(entry(8))
    healed = following.healed(read(4))
    assert offsets(healed.deliver) == [5]
    assert not healed.done
    following.reading()
    assert offsets(following.healed(read(8, 6, 7, 8)).deliver) == [6, 7, 8]


def test_a_read_that_is_not_whole_moves_the_position_and_says_that_entries_are_lost() -> None:
    following = follower(4)
    following.on(entry(9))
    following.reading()
    healed = following.healed(read(9, 8, 9))
    assert healed.lost
    assert healed.done
    assert healed.deliver == []
    assert following.position == StreamPosition(9, "e")
    assert following.on(entry(10)) is Step.DELIVER


def test_a_read_of_another_epoch_is_not_whole_even_if_it_would_fit() -> None:
    following = follower(4)
    following.doubt()
    following.reading()
    assert following.healed(read(5, 5, epoch="f")).lost
    assert following.position == StreamPosition(5, "f")


def test_a_store_that_went_back_is_noticed_though_it_holds_nothing_new() -> None:
    following = follower(4)
    following.doubt()
    following.reading()
    assert following.healed(read(3)).lost
    assert following.position == StreamPosition(3, "e")


def test_a_cut_read_is_delivered_and_read_on() -> None:
    following = follower(0)
    following.doubt()
    following.reading()
    healed = following.healed(read(4, 1, 2, more=True))
    assert offsets(healed.deliver) == [1, 2]
    assert not healed.done
    following.reading()
    healed = following.healed(read(4, 3, 4, more=True))
    assert offsets(healed.deliver) == [3, 4]
    assert healed.done


def test_more_than_can_be_held_is_read_again() -> None:
    following = follower(0)
    following.doubt()
    following.reading()
    for offset in range(1, HELD_LIMIT + 10):
        assert following.on(entry(offset)) is Step.HOLD
    healed = following.healed(read(0))
    assert not healed.done
    assert following.healing


def test_a_doubt_while_a_read_is_under_way_is_not_settled_by_that_read() -> None:
    following = follower(4)
    following.doubt()
    following.reading()
    following.doubt()
    assert not following.healed(read(4)).done
    following.reading()
    assert following.healed(read(5, 5)).done


def test_positions_agree_when_the_store_is_where_this_process_was_or_is() -> None:
    following = follower(4)
    mark = following.mark()
    assert following.caught_up(StreamPosition(4, "e"), mark)
    assert not following.caught_up(StreamPosition(5, "e"), mark)
    following.on(entry(5))
    assert following.caught_up(StreamPosition(5, "e"), mark)
    assert following.caught_up(StreamPosition(4, "e"), mark)
    assert not following.caught_up(StreamPosition(3, "e"), mark)
    assert not following.caught_up(StreamPosition(5, "f"), mark)


def test_a_new_subscriber_is_answered_without_a_read() -> None:
    assert follower(4).recall(None, latest=False) == Joined(StreamPosition(4, "e"), [], recovered=False)


def test_a_returning_subscriber_is_answered_from_memory() -> None:
    following = follower(4)
    following.on(entry(5))
    following.on(entry(6))
    joined = following.recall(StreamPosition(5, "e"), latest=False)
    assert joined == Joined(StreamPosition(6, "e"), [entry(6).publication], recovered=True)


def test_only_the_store_can_answer_who_left_before_memory_begins_or_is_ahead_or_of_another_epoch() -> None:
    following = follower(4)
    for since in (StreamPosition(3, "e"), StreamPosition(5, "e"), StreamPosition(4, "f")):
        assert following.recall(since, latest=False) is None


def test_nobody_is_answered_from_memory_while_a_gap_is_being_filled() -> None:
    following = follower(4)
    following.on(entry(6))
    assert following.recall(None, latest=False) is None


def test_a_read_that_is_behind_or_of_another_epoch_contradicts() -> None:
    following = follower(4)
    mark = following.mark()
    following.on(entry(5))
    assert not following.contradicted(StreamPosition(4, "e"), mark)
    assert following.contradicted(StreamPosition(3, "e"), mark)
    assert following.contradicted(StreamPosition(9, "f"), mark)


def test_a_read_that_saw_further_than_the_broker_told_sets_the_position_ahead() -> None:
    joined = follower(4).judge(StreamPosition(3, "e"), read(6, 4, 5, 6), latest=False, limit=10)
    assert joined is not None
    assert joined.recovered
    assert joined.position == StreamPosition(6, "e")
    assert [publication.offset for publication in joined.publications] == [4, 5, 6]


def test_what_came_while_the_read_was_under_way_is_added_to_it() -> None:
    following = follower(4)
    following.on(entry(5))
    joined = following.judge(StreamPosition(3, "e"), read(4, 4), latest=False, limit=10)
    assert joined is not None
    assert joined.position == StreamPosition(5, "e")
    assert [publication.offset for publication in joined.publications] == [4, 5]


def test_when_memory_no_longer_reaches_back_to_the_read_it_is_read_again() -> None:
    following = follower(4, limit=1)
    for offset in (5, 6, 7):
        following.on(entry(offset))
    assert following.judge(StreamPosition(3, "e"), read(4, 4), latest=False, limit=10) is None


def test_more_than_may_be_recovered_is_not_recovered_in_part() -> None:
    joined = follower(4).judge(StreamPosition(1, "e"), read(4, 2, 3, 4), latest=False, limit=2)
    assert joined == Joined(StreamPosition(4, "e"), [], recovered=False)


def test_a_subscriber_of_another_epoch_is_not_recovered_though_its_offset_is_the_top() -> None:
    joined = follower(4).judge(StreamPosition(4, "f"), read(4), latest=False, limit=10)
    assert joined == Joined(StreamPosition(4, "e"), [], recovered=False)


def test_cache_mode_gives_the_latest_publication_unless_the_subscriber_has_it() -> None:
    following = follower(4)
    following.on(entry(5))
    latest = Joined(StreamPosition(5, "e"), [entry(5).publication], recovered=True)
    assert following.recall(None, latest=True) == latest
    assert following.recall(StreamPosition(4, "e"), latest=True) == latest
    has_it = Joined(StreamPosition(5, "e"), [], recovered=True)
    assert following.recall(StreamPosition(5, "e"), latest=True) == has_it


def test_cache_mode_reads_when_memory_holds_no_publication_and_says_so_when_the_store_holds_none() -> None:
    following = follower(4)
    assert following.recall(None, latest=True) is None
    nothing = Joined(StreamPosition(4, "e"), [], recovered=False)
    assert following.judge(None, read(4), latest=True, limit=10) == nothing
    found = Joined(StreamPosition(4, "e"), [entry(4).publication], recovered=True)
    assert following.judge(None, read(4, 4), latest=True, limit=10) == found
