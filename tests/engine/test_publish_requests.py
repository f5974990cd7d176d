"""Requests to publish and their outcomes, many at once: each reads as a list of single ones."""

import pytest
from msgspec import Raw

from starling.engine.broker import PublishOptions, SamePublication, StoredPositions, StreamPosition, channels_of
from starling.protocol.messages import Publication

NEWS = Publication(Raw(b"1"))
KEPT = PublishOptions(history_size=1)


def test_one_publication_in_many_channels_reads_as_a_list_of_requests() -> None:
    same = SamePublication(["a", "b", "c"], NEWS, KEPT)
    requests = [("a", NEWS, KEPT), ("b", NEWS, KEPT), ("c", NEWS, KEPT)]

    assert [*same] == requests
    assert [*same[1:]] == requests[1:]
    assert (same[0], same[-1], len(same)) == (requests[0], requests[-1], 3)
    assert [*channels_of(same[:2])] == [*channels_of(requests[:2])] == ["a", "b"]


def test_stored_positions_read_as_a_list_and_are_answered_as_they_came() -> None:
    stored = StoredPositions(b'{"offset":1,"epoch":"a1"},{"offset":9007199254740991,"epoch":"b"}', 2)

    assert stored.json_list("result") == (
        b'[{"result":{"offset":1,"epoch":"a1"}},{"result":{"offset":9007199254740991,"epoch":"b"}}]'
    )
    assert [*stored] == [StreamPosition(1, "a1"), StreamPosition(2**53 - 1, "b")]
    assert (stored[1], stored[:1], len(stored)) == (StreamPosition(2**53 - 1, "b"), [StreamPosition(1, "a1")], 2)
    with pytest.raises(IndexError):
        stored[2]


def test_no_stored_positions_are_an_empty_list() -> None:
    assert (StoredPositions(b"", 0).json_list("publish"), [*StoredPositions(b"", 0)]) == (b"[]", [])
