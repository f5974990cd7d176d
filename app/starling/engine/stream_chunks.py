"""Chunks of append-only streams: how content becomes the data of publications, and how these are joined for readers.

The data of a publication is `{"text": "…"}`, `{"json": [item, …]}` or `{"bytes": "<base64>"}`.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby

import msgspec
from msgspec import Raw

from starling.engine.append_store import Chunk, StreamKind
from starling.protocol.messages import Publication
from starling.protocol.portable_json import NESTING_LIMIT, is_json, nests_too_deep

# Bytes of data up to which chunks that follow each other are joined when they are read.
JOIN_BYTES = 64 * 1024

_FRAMES = {
    StreamKind.TEXT: (b'{"text":"', b'"}'),
    StreamKind.JSON: (b'{"json":[', b"]}"),
    StreamKind.BYTES: (b'{"bytes":"', b'"}'),
}
# Levels of JSON around the items of a chunk.
_AROUND_ITEMS = 2
_encode = msgspec.json.Encoder().encode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(dict[str, str]).decode
_decode_bytes = partial(binascii.a2b_base64, strict_mode=True)


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
    data = b'{"json":[%b]}' % b",".join(items)
    if not all(map(is_json, items)) or nests_too_deep(data):
        raise ChunkInvalid(
            "json must hold JSON that every client can read, see publication_data_format in the docs; an item may be "
            f"nested {NESTING_LIMIT - _AROUND_ITEMS} deep"
        )
    return Chunk(data, len(items), sum(map(len, items)))


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
        msgspec.json.decode(content, type=Raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ChunkInvalid("it is no JSON") from None
    return [content.strip()]


def join_chunks(chunks: Sequence[Chunk], kind: StreamKind) -> Chunk:
    """One chunk of several that follow each other."""
    if len(chunks) == 1:
        return chunks[0]
    before, after = map(len, _FRAMES[kind])
    data = _framed(kind, [chunk.data[before:-after] for chunk in chunks])
    return Chunk(data, sum(chunk.units for chunk in chunks), sum(chunk.size for chunk in chunks))


def joined(publications: Iterable[Publication]) -> list[Publication]:
    """Join publications of a stream that follow each other, as far as JOIN_BYTES go.

    Each has the tags of its first and the offset of its last one. What changes the status is not joined, and neither is
    what another program wrote into the stream: it costs a reader that one publication.
    """
    made: list[Publication] = []
    held: list[Publication] = []
    size = 0
    for publication in publications:
        length = len(publication.data)
        alone = _changes_status(publication)
        if held and (alone or size + length > JOIN_BYTES):
            made += _join(held)
            held, size = [], 0
        if alone:
            made.append(publication)
            continue
        held.append(publication)
        size += length
    if held:
        made += _join(held)
    return made


def content_of(publication: Publication, kind: StreamKind) -> bytes:
    """What a publication of a stream holds, as HTTP carries it: UTF-8, items separated by commas, or bytes.

    Raises ChunkInvalid for what another program wrote into the stream.
    """
    data = bytes(publication.data)
    if _has_frame(data, kind):
        try:
            if kind is StreamKind.TEXT:
                return _decode_text(data)["text"].encode()
            if kind is StreamKind.BYTES:
                return _decode_bytes(data[10:-2])
        except (msgspec.MsgspecError, UnicodeError, binascii.Error):
            pass
        else:
            if is_json(data):
                return data[9:-2]
    raise ChunkInvalid(f"it is no chunk of {kind}")


def bytes_of(data: bytes) -> bytes:
    """The bytes in the data of a publication of a stream of bytes; other data as it is."""
    if not _has_frame(data, StreamKind.BYTES):
        return data
    try:
        return _decode_bytes(data[10:-2])
    except binascii.Error:
        return data


def _join(publications: Sequence[Publication]) -> Iterator[Publication]:
    """Join publications into one, apart from those that are no chunks."""
    if len(publications) == 1:
        yield publications[0]
        return
    data = _joined_data([bytes(publication.data) for publication in publications])
    if data is not None:
        first, last = publications[0], publications[-1]
        yield Publication(Raw(data), offset=last.offset, tags=first.tags, time=last.time)
        return
    for fits, group in groupby(publications, _kind_of_chunk):
        run = [*group]
        yield from run if fits is None or len(run) == len(publications) else _join(run)


def _joined_data(payloads: Sequence[bytes]) -> bytes | None:
    """The chunk that holds what all of `payloads` hold; None where one of them is no chunk, or of another kind.

    The whole is looked at once, which takes the least time.
    """
    kind = _kind_of(payloads[0])
    if kind is None:
        return None
    before, after = _FRAMES[kind]
    seam = b"%b\n%b" % (after, before)
    whole = b"\n".join(payloads)
    # No chunk has a line break in a text, and so no seam in it.
    if not _has_frame(whole, kind) or whole.count(seam) != len(payloads) - 1:
        return None
    contents = whole[len(before) : -len(after)].split(seam)
    try:
        data = _framed(kind, contents)
    except binascii.Error:
        return None
    return data if kind is StreamKind.BYTES or is_json(data) else None


def _framed(kind: StreamKind, contents: Sequence[bytes]) -> bytes:
    """Data of a publication with what chunks of a kind have within their frames. Raises binascii.Error."""
    before, after = _FRAMES[kind]
    if kind is StreamKind.BYTES:
        return before + base64.b64encode(b"".join(map(_decode_bytes, contents))) + after
    return before + (b"," if kind is StreamKind.JSON else b"").join(filter(None, contents)) + after


def _kind_of_chunk(publication: Publication) -> StreamKind | None:
    """The kind of stream that a publication is a chunk of; None for what is none that every reader can read."""
    data = bytes(publication.data)
    kind = _kind_of(data)
    if kind is not StreamKind.BYTES:
        return kind if is_json(data) else None
    try:
        _decode_bytes(data[10:-2])
    except binascii.Error:
        return None
    return kind


def _kind_of(data: bytes) -> StreamKind | None:
    return next((kind for kind in _FRAMES if _has_frame(data, kind)), None)


def _has_frame(data: bytes, kind: StreamKind) -> bool:
    before, after = _FRAMES[kind]
    return len(data) >= len(before) + len(after) and data.startswith(before) and data.endswith(after)


def _changes_status(publication: Publication) -> bool:
    return bool(publication.tags) and "status" in (publication.tags or {})
