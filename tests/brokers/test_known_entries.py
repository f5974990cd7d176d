"""Entries that are remembered: only while they are the same, only as many as have room, and none that is gone."""

import tracemalloc

from msgspec import Raw

from starling.brokers.redis.known_entries import KnownEntries, KnownEntry, Row
from starling.engine.broker import StreamEntry
from starling.protocol.codec_json import JsonCodec
from starling.protocol.messages import HistoryResult, Publication, Reply
from starling.protocol.shared_values import SharedPublications


def row(offset: int, data: bytes = b"1") -> Row:
    return [b"%d-0" % offset, [b"p", b"%d" % (offset - 1), b"d", b"0 0\n" + data]]


def entry(offset: int, data: bytes = b"1", epoch: str = "e") -> KnownEntry:
    return KnownEntry(row(offset, data), StreamEntry(Publication(Raw(data), offset=offset), offset - 1, epoch))


def test_an_entry_is_known_by_all_that_is_stored_of_it() -> None:
    known = KnownEntries()
    entries = [entry(number) for number in (1, 2, 3)]
    known.keep("news", "e", 0, entries)
    assert known.find("news", "e", [row(3), row(1)]) == [entries[2], entries[0]]
    assert known.find("news", "e", [row(2, b"2"), row(4), row(2)]) == [None, None, entries[1]]
    assert known.find("news", "another", [row(1)]) == [None]
    assert known.find("chat", "e", [row(1)]) == [None]


def test_a_new_epoch_and_new_bytes_take_the_place_of_what_was_known() -> None:
    known = KnownEntries()
    known.keep("news", "e", 0, [entry(1), entry(2)])
    known.keep("news", "e", 0, [changed := entry(2, b"other")])
    assert known.find("news", "e", [row(2), row(2, b"other")]) == [None, changed]
    size = known.size
    known.keep("news", "f", 0, [entry(1), entry(2, b"other")])
    assert known.size == size
    assert known.find("news", "e", [row(1)]) == [None]


def test_the_channels_that_were_read_last_stay_within_the_bytes_that_are_allowed() -> None:
    known = KnownEntries(max_bytes=12_000)
    for channel in ("a", "b"):
        known.keep(channel, "e", 0, [entry(number, b"x" * 500) for number in range(1, 6)])
    assert None not in known.find("a", "e", [row(1, b"x" * 500)])
    known.keep("c", "e", 0, [entry(1, b"x" * 2000)])
    assert known.find("b", "e", [row(1, b"x" * 500)]) == [None]
    assert None not in known.find("a", "e", [row(1, b"x" * 500)])
    assert 0 < known.size <= 12_000
    known.keep("d", "e", 0, [entry(1, b"x" * 12_000)])
    assert known.find("d", "e", [row(1, b"x" * 12_000)]) == [None]
    assert known.size == 0


def test_a_channel_is_worth_keeping_once_it_is_read_again_while_it_has_room() -> None:
    known = KnownEntries(max_bytes=12_000)
    read = [entry(number, b"x" * 500).entry for number in range(1, 6)]
    for _ in range(2):
        for channel in ("a", "b", "c"):
            # Each takes more than 5,000 bytes, so that two of them have room.
            assert not known.is_worth_keeping(channel)
            known.note_read(channel, read)
    assert known.is_worth_keeping("b")
    assert known.is_worth_keeping("c")
    known.keep("c", "e", 0, [entry(1)])
    assert known.is_worth_keeping("c")
    known.note_read("d", read)
    # What is kept takes no room of what was read once.
    assert [known.is_worth_keeping(channel) for channel in "abcd"] == [False, True, True, True]


def test_channels_without_entries_are_not_remembered_without_end() -> None:
    known = KnownEntries(max_bytes=12_000)
    for number in range(100):
        known.note_read(f"channel{number}", [])
    assert sum(known.is_worth_keeping(f"channel{number}") for number in range(100)) == 12_000 // 512


def test_what_a_stream_has_lost_is_forgotten() -> None:
    known = KnownEntries()
    for first in range(1, 2000, 10):
        known.keep("news", "e", max(0, first - 90), [entry(number) for number in range(first, first + 10)])
    last = known.find("news", "e", [row(number) for number in range(1, 2001)])
    assert None not in last[-100:]
    assert len([known for known in last if known]) <= 220
    assert known.size < 220 * 600


def test_the_smallest_publications_take_no_more_memory_than_large_ones() -> None:
    known, codec = KnownEntries(), JsonCodec()
    tracemalloc.start()
    try:
        for first in range(1, 6001, 500):
            entries = [entry(number) for number in range(first, first + 500)]
            known.keep(f"channel{first}", "e", 0, entries)
            shared = SharedPublications([each.entry.publication for each in entries], [each.pieces for each in entries])
            codec.encode(Reply(1, history=HistoryResult(shared, "e", first + 499)))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1024 * 1024 < known.size <= 2 * 1024 * 1024
    assert used < 4 * known.size
