"""The bytes between processes keep what they are given, and refuse everything else in one way."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from starling.brokers import envelope
from starling.brokers.envelope import JoinEvent, LeaveEvent, MalformedEnvelope
from starling.engine.broker import StreamEntry
from starling.protocol.messages import ClientInfo, Publication
from starling.telemetry.tracing import TraceContext

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
raw_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
).map(lambda value: msgspec.json.format(msgspec.json.encode(value), indent=1))
infos = st.builds(ClientInfo, user=text, client=text, conn_info=raw_json.map(Raw), chan_info=raw_json.map(Raw))
publications = st.builds(
    Publication,
    data=st.binary(max_size=300).map(Raw),
    info=st.none() | infos,
    tags=st.none() | st.dictionaries(text, text, min_size=1, max_size=3),
)
offsets = st.integers(0, 2**53 - 1)
epochs = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789", min_size=1, max_size=12)


def parts(info: ClientInfo | None) -> tuple[str, str, bytes, bytes] | None:
    return None if info is None else (info.user, info.client, bytes(info.conn_info), bytes(info.chan_info))


def test_a_publication_without_history_looks_as_documented() -> None:
    body = envelope.encode_body(Publication(Raw(b'{"n":1}')), 1700000000123)
    assert body == b'1700000000123 0\n{"n":1}'
    assert envelope.encode_publication(body) == b'p - 0 0\n1700000000123 0\n{"n":1}'


def test_a_publication_with_info_and_a_position_looks_as_documented() -> None:
    publication = Publication(
        Raw(b"\x00\n\xff"), info=ClientInfo(user="u", conn_info=Raw(b'{"a": 1}')), tags={"k": "v"}
    )
    written = envelope.encode_publication(envelope.encode_body(publication, 5), epoch="Xy", offset=9, previous=7)
    meta = b'{"info":{"user":"u","conn_info":{"a": 1}},"tags":{"k":"v"}}'
    assert written == b"p Xy 9 7\n5 %d\n%b\x00\n\xff" % (len(meta), meta)


@given(publications, st.integers(0, 2**53 - 1), epochs, offsets, offsets)
def test_a_publication_returns_byte_for_byte(
    publication: Publication, time: int, epoch: str, offset: int, previous: int
) -> None:
    body = envelope.encode_body(publication, time)
    entry = envelope.decode(envelope.encode_publication(body, epoch=epoch, offset=offset, previous=previous))
    assert isinstance(entry, StreamEntry)
    assert (entry.epoch, entry.previous) == (epoch, previous)
    assert bytes(entry.publication.data) == bytes(publication.data)
    assert parts(entry.publication.info) == parts(publication.info)
    assert entry.publication.tags == publication.tags
    assert (entry.publication.time, entry.publication.offset) == (time, offset)

    stored = envelope.decode_body(body, offset)
    assert bytes(stored.data) == bytes(publication.data)
    assert parts(stored.info) == parts(publication.info)
    assert (stored.tags, stored.time, stored.offset) == (publication.tags, time, offset)


@given(publications, epochs, offsets, st.builds(TraceContext, text.filter(bool), text))
def test_a_trace_travels_and_changes_nothing_else(
    publication: Publication, epoch: str, offset: int, trace: TraceContext
) -> None:
    plain = envelope.encode_publication(envelope.encode_body(publication, 5), epoch=epoch, offset=offset)
    traced = envelope.encode_publication(envelope.encode_body(publication, 5, trace), epoch=epoch, offset=offset)
    reported, traced_reported = envelope.decode(plain), envelope.decode(traced)
    assert isinstance(reported, StreamEntry)
    assert isinstance(traced_reported, StreamEntry)
    assert (reported.trace, traced_reported.trace) == (None, trace)
    assert bytes(reported.publication.data) == bytes(traced_reported.publication.data)
    assert parts(reported.publication.info) == parts(traced_reported.publication.info)
    assert reported.publication.tags == traced_reported.publication.tags


def test_a_publication_of_a_trace_looks_as_documented() -> None:
    trace = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1")
    meta = b'{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","tracestate":"vendor=1"}'
    assert envelope.encode_body(Publication(Raw(b"1")), 5, trace) == b"5 %d\n%b1" % (len(meta), meta)


def test_a_process_from_before_there_were_traces_reads_a_publication_with_one() -> None:
    class Meta(msgspec.Struct, omit_defaults=True):
        """What such a process knows, as it stands in version 0.1."""

        info: ClientInfo | None = None
        tags: dict[str, str] | None = None

    trace = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1")
    publication = Publication(Raw(b'{"n":1}'), info=ClientInfo(user="u"), tags={"k": "v"})
    head, line, rest = envelope.encode_publication(envelope.encode_body(publication, 5, trace)).split(b"\n", 2)
    assert head == b"p - 0 0"
    time, length = map(int, line.split(b" "))
    assert time == 5
    assert msgspec.json.decode(rest[:length], type=Meta) == Meta(ClientInfo(user="u"), {"k": "v"})
    assert rest[length:] == b'{"n":1}'


@given(infos)
def test_joins_and_leaves_return_byte_for_byte(info: ClientInfo) -> None:
    join, leave = envelope.decode(envelope.encode_join(info)), envelope.decode(envelope.encode_leave(info))
    assert isinstance(join, JoinEvent)
    assert isinstance(leave, LeaveEvent)
    assert parts(join.info) == parts(info) == parts(leave.info)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"p - 0 0\n1 2\n" + rest))
def test_arbitrary_bytes_are_read_or_refused_in_one_way(data: bytes) -> None:
    with suppress(MalformedEnvelope):
        envelope.decode(data)


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\n",
        b"p",
        b"p\n",
        b"p - 0 0",
        b"p - 0 0\n",
        b"p - 0 0\n1 0",
        b"p - 0\n1 0\nx",
        b"p - 0 0 0\n1 0\nx",
        b"p  0 0\n1 0\nx",
        b"pp - 0 0\n1 0\nx",
        b"p - -1 0\n1 0\nx",
        b"p - 0 -1\n1 0\nx",
        b"p - 9007199254740992 0\n1 0\nx",
        b"p - " + b"9" * 6000 + b" 0\n1 0\nx",
        b"p \xff\xfe 0 0\n1 0\nx",
        b"p - 0 0\n-1 0\nx",
        b"p - 0 0\n1 -1\nx",
        b"p - 0 0\n1 2\nx",
        b"p - 0 0\n1 1\nx",
        b"p - 0 0\n1 2\n[]data",
        b'p - 0 0\n1 13\n{"tags":{"":1}}',
        b"p - 0 0\nnan 0\nx",
        b"j\n",
        b"j\n[]",
        b'j\n{"user":1}',
        b'j\n{"user":"\xff"}',
        b'l\n{"conn_info":' + b"[" * 100_000,
        b"j",
        b"x\n",
        b"c\nanything",
    ],
)
def test_hostile_bytes_are_refused(hostile: bytes) -> None:
    with pytest.raises(MalformedEnvelope):
        envelope.decode(hostile)


@pytest.mark.parametrize("hostile", [b"", b"1 0", b"x 0\n", b"1 5\nabc", b"1 3\n[[[", b"1 0 0\nx"])
def test_hostile_stored_bodies_are_refused(hostile: bytes) -> None:
    with pytest.raises(MalformedEnvelope):
        envelope.decode_body(hostile, 1)
