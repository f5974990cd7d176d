"""Content of append-only streams as data of publications: what each kind takes, refuses and gives back."""

import pytest
from msgspec import Raw

from starling.engine.append_store import StreamKind
from starling.engine.stream_chunks import (
    ChunkInvalid,
    bytes_of,
    content_chunk,
    content_of,
    join_chunks,
    json_chunk,
    text_chunk,
)
from starling.protocol.messages import Publication
from starling.protocol.portable_json import is_json


@pytest.mark.parametrize(
    ("kind", "content", "data", "units", "size"),
    [
        (StreamKind.TEXT, "ü".encode(), '{"text":"ü"}'.encode(), 2, 2),
        (StreamKind.TEXT, b"", b'{"text":""}', 0, 0),
        (StreamKind.JSON, b' [1, {"a": [2]}] ', b'{"json":[1,{"a": [2]}]}', 2, 11),
        (StreamKind.JSON, b"[]", b'{"json":[]}', 0, 0),
        (StreamKind.JSON, b'\n{"a":1}\n', b'{"json":[{"a":1}]}', 1, 7),
        (StreamKind.BYTES, b"\x00\xff", b'{"bytes":"AP8="}', 2, 2),
    ],
)
def test_content_becomes_the_data_of_its_kind(
    kind: StreamKind, content: bytes, data: bytes, units: int, size: int
) -> None:
    chunk = content_chunk(kind, content)

    assert (chunk.data, chunk.units, chunk.size) == (data, units, size)


@pytest.mark.parametrize(
    ("kind", "content", "reported"),
    [
        (StreamKind.TEXT, b"\xff", "the text is not UTF-8"),
        (StreamKind.JSON, b"[1,", "it is no JSON"),
        (StreamKind.JSON, b"one", "it is no JSON"),
        (StreamKind.JSON, b"", "it is no JSON"),
        (StreamKind.JSON, b'["\xff"]', "json must hold JSON that every client can read"),
        (StreamKind.JSON, b'["\\ud800"]', "it is no JSON"),
        (StreamKind.JSON, b"[" * 256 + b"]" * 256, "an item may be nested 254 deep"),
    ],
)
def test_content_that_a_kind_cannot_hold_is_refused_in_words(kind: StreamKind, content: bytes, reported: str) -> None:
    with pytest.raises(ChunkInvalid, match=reported):
        content_chunk(kind, content)


def test_the_deepest_item_that_a_stream_takes_is_one_that_every_client_can_read() -> None:
    deepest = b"[" * 254 + b"]" * 254

    assert is_json(json_chunk([b"1", deepest]).data)
    with pytest.raises(ChunkInvalid):
        json_chunk([b"1", b"[%b]" % deepest])


@pytest.mark.parametrize(
    ("kind", "parts", "whole"),
    [
        (StreamKind.TEXT, (b"a", b"", b'"'), b'a"'),
        (StreamKind.JSON, (b"[1, 2]", b"[]", b"3"), b"1,2,3"),
        (StreamKind.BYTES, (b"a", b"bc"), b"abc"),
    ],
)
def test_joined_chunks_hold_their_parts_in_order(kind: StreamKind, parts: tuple[bytes, ...], whole: bytes) -> None:
    chunks = [content_chunk(kind, part) for part in parts]
    chunk = join_chunks(chunks, kind)

    assert content_of(Publication(Raw(chunk.data)), kind) == whole
    assert chunk.units == sum(each.units for each in chunks)
    assert chunk.size == sum(each.size for each in chunks)


def test_one_chunk_alone_is_not_changed() -> None:
    chunk = text_chunk("alone")

    assert join_chunks([chunk], StreamKind.TEXT) is chunk


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b'{"bytes":"AP8="}', b"\x00\xff"),
        (b'{"bytes":"no base64"}', b'{"bytes":"no base64"}'),
        (b'{"text":"t"}', b'{"text":"t"}'),
        (b"7", b"7"),
    ],
)
def test_only_data_of_a_stream_of_bytes_is_decoded(data: bytes, content: bytes) -> None:
    assert bytes_of(data) == content
