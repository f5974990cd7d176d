"""The rules of following a channel, entry by entry and read by read, without I/O."""

from msgspec import Raw

from starling.engine.broker import StreamEntry, StreamPosition, StreamRead
from starling.engine.follower import HELD_LIMIT, Follower, Found, Joined, Mark, MemoryBudget, Recent, Step
from starling.protocol.messages import Publication


def entry(offset: int, previous: int | None = None, epoch: str = "e") -> StreamEntry:
    before = offset - 1 if previous is None else previous
    return StreamEntry(Publication(Raw(b"%d" % offset), offset=offset), before, epoch)


def read(top: int, *offsets: int, epoch: str = "e", more: bool = False, bottom: int = 0) -> StreamRead:
    return StreamRead(StreamPosition(top, epoch), bottom, [entry(offset, epoch=epoch) for offset in offsets], more)


def follower(last: int, *, limit: int = 100) -> Follower:
    """One that follows from `last` on."""
    made = Follower(Recent(limit, 10**6, MemoryBudget(10**9)))
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
    for offset in range(1, HELD_LIMIT + 2):
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


def found(top: int, *offsets: int, after: int | None, mark: Mark, latest: bool = False, bottom: int = 0) -> Found:
    return Found(read(top, *offsets, bottom=bottom), mark, after, latest)


def position(offset: int, epoch: str = "e") -> StreamPosition:
    return StreamPosition(offset, epoch)


def test_a_new_subscriber_is_answered_without_reading_entries() -> None:
    assert follower(4).recall(None, read(4), latest=False) == Joined(position(4), [], recovered=False)


def test_a_returning_subscriber_is_answered_from_memory() -> None:
    following = follower(4)
    following.on(entry(5))
    following.on(entry(6))
    joined = following.recall(position(5), read(6), latest=False)
    assert joined == Joined(position(6), [entry(6).publication], recovered=True)


def test_what_the_broker_reported_after_the_position_was_read_is_answered_too() -> None:
    following = follower(4)
    following.on(entry(5))
    following.on(entry(6))
    joined = following.recall(position(4), read(5), latest=False)
    assert joined == Joined(position(6), [entry(5).publication, entry(6).publication], recovered=True)


def test_memory_does_not_answer_while_the_store_is_further() -> None:
    for since in (None, position(4)):
        assert follower(4).recall(since, read(5), latest=False) is None
    assert follower(4).recall(None, read(5), latest=True) is None


def test_only_the_store_can_answer_who_left_before_memory_begins() -> None:
    assert follower(4).recall(position(3), read(4), latest=False) is None


def test_who_is_of_another_epoch_or_further_than_the_store_cannot_recover() -> None:
    for since in (position(4, "f"), position(5)):
        assert follower(4).recall(since, read(4), latest=False) == Joined(position(4), [], recovered=False)


def test_who_stands_below_what_the_store_holds_cannot_recover_though_memory_reaches_back() -> None:
    following = follower(4)
    following.on(entry(5))
    following.on(entry(6))
    lost = Joined(position(6), [], recovered=False)
    assert following.recall(position(4), read(6, bottom=5), latest=False) == lost
    assert following.recall(position(5), read(6, bottom=5), latest=False) == Joined(
        position(6), [entry(6).publication], recovered=True
    )
    it = found(7, bottom=5, after=None, mark=following.mark())
    assert following.judge(position(4), it, latest=False, limit=10) == Joined(position(7), [], recovered=False)


def test_a_read_that_is_behind_or_of_another_epoch_contradicts() -> None:
    following = follower(4)
    mark = following.mark()
    following.on(entry(5))
    assert not following.contradicted(position(4), mark)
    assert following.contradicted(position(3), mark)
    assert following.contradicted(position(9, "f"), mark)


def test_a_read_that_saw_further_than_the_broker_reported_sets_the_position_ahead() -> None:
    following = follower(4)
    it = found(6, 4, 5, 6, after=3, mark=following.mark())
    publications = [entry(offset).publication for offset in (4, 5, 6)]
    assert following.judge(position(3), it, latest=False, limit=10) == Joined(position(6), publications, recovered=True)
    assert following.judge(None, it, latest=False, limit=10) == Joined(position(6), [], recovered=False)


def test_a_read_of_the_position_only_does_not_report_what_was_missed() -> None:
    following = follower(4)
    it = found(6, after=None, mark=following.mark())
    assert following.judge(position(4), it, latest=False, limit=10) is None
    assert following.judge(None, it, latest=True, limit=10) is None
    assert following.judge(None, it, latest=False, limit=10) == Joined(position(6), [], recovered=False)


def test_a_read_of_the_latest_entry_does_not_report_what_was_missed() -> None:
    following = follower(4)
    it = found(6, 6, after=None, mark=following.mark(), latest=True)
    assert following.judge(position(4), it, latest=False, limit=10) is None


def test_a_read_for_others_that_begins_too_late_does_not_report_what_was_missed() -> None:
    following = follower(4)
    it = found(6, 6, after=5, mark=following.mark())
    assert following.judge(position(4), it, latest=False, limit=10) is None


def test_what_came_while_the_read_was_under_way_is_added_to_it() -> None:
    following = follower(4)
    mark = following.mark()
    following.on(entry(5))
    joined = following.judge(position(3), found(4, 4, after=3, mark=mark), latest=False, limit=10)
    assert joined == Joined(position(5), [entry(4).publication, entry(5).publication], recovered=True)


def test_when_memory_no_longer_reaches_back_to_the_read_it_is_read_again() -> None:
    following = follower(4, limit=1)
    mark = following.mark()
    for offset in (5, 6, 7):
        following.on(entry(offset))
    assert following.judge(position(3), found(4, 4, after=3, mark=mark), latest=False, limit=10) is None


def test_more_than_may_be_recovered_is_not_recovered_in_part() -> None:
    following = follower(4)
    it = found(4, 2, 3, 4, after=1, mark=following.mark())
    assert following.judge(position(1), it, latest=False, limit=2) == Joined(position(4), [], recovered=False)


def test_a_subscriber_of_another_epoch_is_not_recovered_though_its_offset_is_the_top() -> None:
    following = follower(4)
    it = found(4, after=None, mark=following.mark())
    assert following.judge(position(4, "f"), it, latest=False, limit=10) == Joined(position(4), [], recovered=False)


def test_cache_mode_gives_the_latest_publication_unless_the_subscriber_has_it() -> None:
    following = follower(4)
    following.on(entry(5))
    latest = Joined(position(5), [entry(5).publication], recovered=True)
    assert following.recall(None, read(5), latest=True) == latest
    assert following.recall(position(4), read(5), latest=True) == latest
    has_it = Joined(position(5), [], recovered=True)
    assert following.recall(position(5), read(5), latest=True) == has_it


def test_cache_mode_reads_when_memory_holds_no_publication_and_says_so_when_the_store_holds_none() -> None:
    following = follower(4)
    mark = following.mark()
    assert following.recall(None, read(4), latest=True) is None
    assert following.recall(None, read(4, bottom=4), latest=True) == Joined(position(4), [], recovered=False)
    latest = Joined(position(4), [entry(4).publication], recovered=True)
    assert following.judge(None, found(4, 4, after=None, mark=mark, latest=True), latest=True, limit=10) == latest
