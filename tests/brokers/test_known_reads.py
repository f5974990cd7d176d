"""Reads that are remembered: what they take in memory with all that codecs made of them."""

import tracemalloc

from msgspec import Raw

from starling.brokers.redis.known_entries import KnownEntries, KnownEntry
from starling.brokers.redis.known_reads import KnownRead, ReadKey
from starling.brokers.redis.known_replies import KnownReplies
from starling.engine.broker import StreamEntry, StreamPosition
from starling.protocol.codec_json import JsonCodec
from starling.protocol.codec_protobuf import ProtobufCodec
from starling.protocol.messages import HistoryResult, Publication, Reply


def entry(offset: int, data: bytes) -> KnownEntry:
    row = [b"%d-0" % offset, [b"p", b"%d" % (offset - 1), b"d", b"0 0\n" + data]]
    return KnownEntry(row, StreamEntry(Publication(Raw(data), offset=offset), offset - 1, "e"))


def test_entries_and_reads_of_them_take_few_times_what_they_count() -> None:
    entries, reads = KnownEntries(), KnownReplies[KnownRead]()
    tracemalloc.start()
    try:
        for number in range(100):
            many = [entry(offset, b'"%d %b"' % (number, b"x" * 1000)) for offset in range(1, 51)]
            entries.keep(f"channel{number}", "e", 0, many)
            known = KnownRead(StreamPosition(50, "e"), 0, many, more=False)
            reads.keep(ReadKey(f"channel{number}", 0, None, 50, None, newest=False), known.state, known, known.size)
            for codec in (JsonCodec(), ProtobufCodec()):
                codec.encode(Reply(1, history=HistoryResult(known.read.publications(), "e", 50)))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1024 * 1024 < reads.size <= 2 * 1024 * 1024
    assert used < 4 * (entries.size + reads.size)


def test_only_what_follows_a_read_without_a_gap_completes_it() -> None:
    read = KnownRead(StreamPosition(3, "e"), 0, [entry(offset, b"1") for offset in (1, 2, 3)], more=False)
    assert read.leads_to("e", [entry(4, b"1").row, entry(5, b"1").row])
    assert not read.leads_to("e", [entry(5, b"1").row])
    assert not read.leads_to("another", [entry(4, b"1").row])
    assert not read.leads_to("e", [entry(4, b"1").row, [b"5-0", [b"x", b"y"]]])
