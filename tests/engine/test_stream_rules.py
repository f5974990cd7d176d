"""The whole rule: which reads hold all that came after a position."""

import pytest
from msgspec import Raw

from starling.engine.broker import StreamEntry, StreamPosition, StreamRead
from starling.engine.history import continues, missed
from starling.protocol.messages import Publication


def read(top: int, *links: tuple[int, int], more: bool = False) -> StreamRead:
    """A read of entries given as (offset, the offset before it)."""
    entries = [StreamEntry(Publication(Raw(b"1"), offset=offset), previous, "e") for offset, previous in links]
    return StreamRead(StreamPosition(top, "e"), 0, entries, more)


def offsets(entries: list[StreamEntry] | None) -> list[int] | None:
    return None if entries is None else [entry.offset for entry in entries]


@pytest.mark.parametrize(
    ("found", "since", "expected"),
    [
        pytest.param(read(3, (2, 1), (3, 2)), 1, [2, 3], id="each entry names the one before it"),
        pytest.param(read(3), 3, [], id="nothing came"),
        pytest.param(read(0), 0, [], id="nothing ever came"),
        pytest.param(read(2**51, (7, 3), (2**51, 7)), 3, [7, 2**51], id="offsets need not follow each other"),
        pytest.param(read(5, (3, 2), (4, 3), (5, 4)), 4, [5], id="older entries than were missed are left out"),
        pytest.param(read(5, (3, 2), (4, 3), (5, 4)), 5, [], id="all of the entries are older"),
        pytest.param(read(5, (4, 3), (5, 4)), 2, None, id="the first was trimmed"),
        pytest.param(read(5), 3, None, id="all of them expired"),
        pytest.param(read(3), 5, None, id="the store went back"),
        pytest.param(read(9, (9, 3)), 5, None, id="the store went back and on"),
        pytest.param(read(5, (3, 2), (5, 4)), 2, None, id="one in the middle is missing"),
        pytest.param(read(5, (3, 2), (4, 3)), 2, None, id="the last is missing"),
        pytest.param(read(5, (3, 2), (4, 3), (5, 4)), 1, None, id="since lies before the first"),
    ],
)
def test_what_was_missed_is_reported_whole_or_not_at_all(
    found: StreamRead, since: int, expected: list[int] | None
) -> None:
    assert offsets(missed(found, since)) == expected


@pytest.mark.parametrize(
    ("found", "since", "expected"),
    [
        pytest.param(read(3, (2, 1), (3, 2)), 1, True, id="up to the top"),
        pytest.param(read(3), 3, True, id="nothing came"),
        pytest.param(read(9, (2, 1), (3, 2), more=True), 1, True, id="as far as the limit"),
        pytest.param(read(9, (2, 1), (3, 2)), 1, False, id="the last is missing"),
        pytest.param(read(3, (3, 2), more=True), 1, False, id="the first is missing"),
        pytest.param(read(4, (2, 1), (4, 3)), 1, False, id="one in the middle is missing"),
        pytest.param(read(2), 3, False, id="the store went back"),
    ],
)
def test_a_read_continues_a_position_without_a_hole(found: StreamRead, since: int, expected: bool) -> None:
    assert continues(found, since) is expected
