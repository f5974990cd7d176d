"""Chunks of append-only streams: how content becomes the data of publications, and how these are joined for readers.

The data of a publication is `{"text": "…"}`, `{"json": [item, …]}` or `{"bytes": "<base64>"}`.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw

from starling.engine.append_store import Chunk, StreamKind
from starling.protocol.messages import Publication
from starling.protocol.portable_json import is_json

# Bytes of data up to which chunks that follow each other are joined when they are read.
JOIN_BYTES = 64 * 1024

_FRAMES = {
    StreamKind.TEXT: (b'{"text":"', b'"}'),
    StreamKind.JSON: (b'{"json":[', b"]}"),
    StreamKind.BYTES: (b'{"bytes":"', b'"}'),
}
_KIND_BY_LETTER = {b"t": StreamKind.TEXT, b"j": StreamKind.JSON, b"b": StreamKind.BYTES}
_encode = msgspec.json.Encoder().encode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(dict[str, str]).decode


class ChunkInvalid(ValueError):
    """Content that a stream of the kind cannot hold; the message says what it must be."""


def text_chunk(text: str) -> Chunk:
    """A chunk of text. Raises ChunkInvalid for half of a surrogate pair."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ChunkInvalid("text must not hold half of a surrogate pair: cut it between characters") from None
    return Chunk(_encode({"text": text}), size, size)


def json_chunk(items: Sequence[bytes]) -> Chunk:
    """A chunk of JSON values. Raises ChunkInvalid for what JSON clients cannot read."""
    if not all(map(is_json, items)):
        raise ChunkInvalid("json must hold JSON that every client can read, see publication_data_format in the docs")
    return Chunk(b'{"json":[%b]}' % b",".join(items), len(items), sum(map(len, items)))


def bytes_chunk(content: bytes) -> Chunk:
    """A chunk of bytes."""
    return Chunk(b'{"bytes":"%b"}' % base64.b64encode(content), len(content), len(content))


def content_chunk(kind: StreamKind, content: bytes) -> Chunk:
    """A chunk of content as HTTP carries it: UTF-8, a JSON value whose outermost array is a list of items, or bytes.

    Raises ChunkInvalid.
    """
    if kind is StreamKind.BYTES:
        return bytes_chunk(content)
    if kind is StreamKind.TEXT:
        try:
            return text_chunk(content.decode())
        except UnicodeDecodeError:
            raise ChunkInvalid("the text is not UTF-8") from None
    return json_chunk(json_items(content))


def json_items(content: bytes) -> list[bytes]:
    """The items of a JSON array, or a value alone. Raises ChunkInvalid for what is no JSON."""
    try:
        if content.lstrip()[:1] == b"[":
            return [bytes(item) for item in _decode_items(content)]
        msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ChunkInvalid("it is no JSON") from None
    return [content.strip()]


def join_chunks(chunks: Sequence[Chunk], kind: StreamKind) -> Chunk:
    """One chunk of several that follow each other."""
    if len(chunks) == 1:
        return chunks[0]
    data = _join_data(kind, [chunk.data for chunk in chunks])
    return Chunk(data, sum(chunk.units for chunk in chunks), sum(chunk.size for chunk in chunks))


def joined(publications: Iterable[Publication]) -> list[Publication]:
    """Join publications of a stream that follow each other, as far as JOIN_BYTES go.

    Each has the tags of its first and the offset of its last one. What changes the status is not joined.
    """
    made: list[Publication] = []
    held: list[Publication] = []
    size = 0
    for publication in publications:
        length = len(publication.data)
        alone = _changes_status(publication)
        if held and (alone or size + length > JOIN_BYTES):
            made.append(_join(held))
            held, size = [], 0
        if alone:
            made.append(publication)
            continue
        held.append(publication)
        size += length
    if held:
        made.append(_join(held))
    return made


def content_of(publication: Publication) -> bytes:
    """What a publication holds, as HTTP carries it: UTF-8, items separated by commas, or bytes."""
    data = bytes(publication.data)
    kind = _kind_of(data)
    if kind is StreamKind.JSON:
        return data[9:-2]
    return _decode_text(data)["text"].encode() if kind is StreamKind.TEXT else base64.b64decode(data[10:-2])


def bytes_of(data: bytes) -> bytes:
    """The bytes in the data of a publication of a stream of bytes; other data as it is."""
    if _kind_of(data) is not StreamKind.BYTES:
        return data
    try:
        return base64.b64decode(data[10:-2], validate=True)
    except binascii.Error:
        return data


def _join(publications: Sequence[Publication]) -> Publication:
    first, last = publications[0], publications[-1]
    if first is last:
        return first
    payloads = [bytes(publication.data) for publication in publications]
    data = _join_data(_kind_of(payloads[0]), payloads)
    return Publication(Raw(data), offset=last.offset, tags=first.tags, time=last.time)


def _join_data(kind: StreamKind, payloads: Sequence[bytes]) -> bytes:
    before, after = _FRAMES[kind]
    contents = [payload[len(before) : -len(after)] for payload in payloads]
    if kind is StreamKind.BYTES:
        return before + base64.b64encode(b"".join(map(base64.b64decode, contents))) + after
    separator = b"," if kind is StreamKind.JSON else b""
    return before + separator.join(filter(None, contents)) + after


def _kind_of(data: bytes) -> StreamKind:
    """The kind of a stream whose publications have such data."""
    return _KIND_BY_LETTER.get(data[2:3], StreamKind.TEXT)


def _changes_status(publication: Publication) -> bool:
    return bool(publication.tags) and "status" in (publication.tags or {})
