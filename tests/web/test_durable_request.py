"""Requests of the Durable Streams protocol as they are read: what each header may be, and what refuses it."""

import pytest
from starlette.datastructures import Headers, QueryParams

from starling.engine.append_store import Producer, StreamKind
from starling.engine.broker import StreamPosition
from starling.web.durable_request import (
    Life,
    RequestRefused,
    closes,
    kind_of,
    life_of,
    media_type_of,
    next_cursor,
    offset_of,
    offset_text,
    producer_of,
)


def headers(**fields: str) -> Headers:
    return Headers({name.replace("_", "-"): value for name, value in fields.items()})


@pytest.mark.parametrize(
    ("fields", "life"),
    [
        ({}, Life(None, None)),
        ({"stream_ttl": "0"}, Life(0.0, None)),
        ({"stream_ttl": "60"}, Life(60.0, None)),
        ({"stream_expires_at": "2030-01-31T12:00:00Z"}, Life(None, 1896091200.0)),
        ({"stream_expires_at": "2030-01-31T13:00:00+01:00"}, Life(None, 1896091200.0)),
    ],
)
def test_a_stream_lives_as_long_as_its_creation_says(fields: dict[str, str], life: Life) -> None:
    assert life_of(headers(**fields)) == life


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stream_ttl": "60", "stream_expires_at": "2030-01-31T12:00:00Z"}, "not both"),
        ({"stream_ttl": "-1"}, "whole number"),
        ({"stream_ttl": "060"}, "whole number"),
        ({"stream_ttl": "1.5"}, "whole number"),
        ({"stream_expires_at": "tomorrow"}, "write it like 2030"),
        ({"stream_expires_at": "2030-01-31T12:00:00"}, "time zone is missing"),
    ],
)
def test_a_life_that_cannot_be_read_is_refused_by_its_name(fields: dict[str, str], words: str) -> None:
    with pytest.raises(RequestRefused, match=words):
        life_of(headers(**fields))


def test_a_producer_gives_all_of_its_three_headers_or_none() -> None:
    whole = {"producer_id": "p", "producer_epoch": "1", "producer_seq": "9007199254740991"}
    assert producer_of(headers()) is None
    assert producer_of(headers(**whole)) == Producer("p", 1, 2**53 - 1)
    for name in whole:
        with pytest.raises(RequestRefused, match="or none of them"):
            producer_of(headers(**{other: value for other, value in whole.items() if other != name}))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("producer_id", "", "1 to 255 characters"),
        ("producer_id", "p" * 256, "1 to 255 characters"),
        ("producer_epoch", "-1", "Producer-Epoch"),
        ("producer_seq", "9007199254740992", "Producer-Seq"),
        ("producer_seq", "1" * 5000, "Producer-Seq"),
        ("producer_seq", "\u00b2", "Producer-Seq"),
    ],
)
def test_a_producer_that_cannot_be_read_is_refused_by_its_name(field: str, value: str, words: str) -> None:
    with pytest.raises(RequestRefused, match=words):
        producer_of(headers(**{"producer_id": "p", "producer_epoch": "0", "producer_seq": "0", field: value}))


@pytest.mark.parametrize(
    ("given", "media_type", "kind"),
    [
        ("text/plain; charset=utf-8", "text/plain", StreamKind.TEXT),
        ("Application/JSON", "application/json", StreamKind.JSON),
        ("application/octet-stream", "application/octet-stream", StreamKind.BYTES),
        ("application/x-ndjson", "application/x-ndjson", StreamKind.BYTES),
    ],
)
def test_the_media_type_decides_the_kind(given: str, media_type: str, kind: StreamKind) -> None:
    assert media_type_of(given) == media_type
    assert kind_of(media_type) is kind


@pytest.mark.parametrize("given", ["", "text", "text/", "/plain", "text/pl ain", "text/plain, text/html"])
def test_what_is_no_media_type_is_refused(given: str) -> None:
    with pytest.raises(RequestRefused, match="no media type"):
        media_type_of(given)


def test_offsets_sort_as_texts_and_are_read_back() -> None:
    positions = [StreamPosition(number, "epoch-1_") for number in (0, 9, 10, 2**53)]
    texts = [offset_text(position) for position in positions]
    assert texts == sorted(texts)
    assert [offset_of(QueryParams({"offset": text})) for text in texts] == positions
    assert [offset_of(QueryParams(query)) for query in ("", "offset=-1", "offset=now")] == [None, "-1", "now"]


@pytest.mark.parametrize(
    "query", ["offset=1", "offset=", "offset=-1&offset=now", "offset=00000000000000000001_", "offset=x"]
)
def test_an_offset_that_no_stream_gave_is_refused(query: str) -> None:
    with pytest.raises(RequestRefused, match="offset"):
        offset_of(QueryParams(query))


@pytest.mark.parametrize("given", ["", "x", "-1", "9" * 20, "\u00b2"])
def test_a_cursor_that_cannot_be_read_is_replaced_by_the_present_one(given: str) -> None:
    assert next_cursor(given) == next_cursor("")


def test_each_cursor_is_beyond_the_one_before() -> None:
    cursor = next_cursor("")
    for _ in range(5):
        following = next_cursor(cursor)
        assert int(following) > int(cursor)
        cursor = following


def test_only_true_closes_a_stream() -> None:
    assert [closes(headers(stream_closed=value)) for value in ("true", " TRUE ", "false", "1", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert not closes(headers())
