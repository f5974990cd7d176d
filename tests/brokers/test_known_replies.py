"""Replies that are remembered: only while they are the same, and only as many as have room."""

from starling.brokers.redis.known_replies import KnownReplies


def reply(byte: bytes, size: int = 5000) -> list[bytes]:
    return [byte * size]


def test_a_reply_is_known_by_its_content_until_another_takes_its_place() -> None:
    known: KnownReplies[str] = KnownReplies()
    known.keep("news", reply(b"a"), "first", 5000)
    assert known.find("news", reply(b"a")) == "first"
    assert known.find("news", reply(b"b")) is None
    assert known.find("chat", reply(b"a")) is None
    known.keep("news", reply(b"b"), "second", 5000)
    assert known.find("news", reply(b"a")) is None
    assert known.find("news", reply(b"b")) == "second"
    assert known.size == 5000


def test_the_replies_that_were_found_last_stay_within_the_bytes_that_are_allowed() -> None:
    known: KnownReplies[str] = KnownReplies(max_bytes=12_000)
    known.keep("a", reply(b"a"), "a", 5000)
    known.keep("b", reply(b"b"), "b", 5000)
    assert known.find("a", reply(b"a")) == "a"
    known.keep("c", reply(b"c"), "c", 5000)
    assert known.find("b", reply(b"b")) is None
    assert known.find("a", reply(b"a")) == "a"
    assert known.size == 10_000


def test_a_reply_too_large_or_not_worth_it_is_not_kept_and_ends_what_was_known() -> None:
    known: KnownReplies[str] = KnownReplies(max_bytes=12_000)
    for size in (12_001, 100):
        known.keep("a", reply(b"a"), "a", 5000)
        known.keep("a", reply(b"z", size), "z", size)
        assert known.find("a", reply(b"z", size)) is None
        assert known.find("a", reply(b"a")) is None
        assert known.size == 0
