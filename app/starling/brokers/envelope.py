"""What brokers carry between processes: the bytes of publications, joins and leaves, and the names of channels.

Every envelope is a line of text and then bytes that are not looked at:

    p <epoch or -> <offset> <previous>   a publication's body
    j                                    a join: JSON of a ClientInfo
    l                                    a leave: the same

The line of a publication comes first, so that a Lua script that has just given out the offset can write it before a
body that it does not read. The body is what a history stream stores: again a line, `<time in ms> <length of meta>`,
then meta, which is JSON of the info and the tags or nothing, then the data. A publication of a sampled trace has the
trace in its meta too, but not in what is stored: processes that know nothing of traces pass over it.

Names are stored without the characters that a broker gives a meaning to. Only names that hold a user id may have such
characters: personal channels (`#USER`, `NAMESPACE:#USER`) and the service's own channels, which begin with a colon. All
other names are stored as they are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from starling.clocks import wall_milliseconds
from starling.engine.broker import StreamEntry
from starling.engine.channels import USERS_MARK
from starling.protocol.messages import ClientInfo, Publication
from starling.telemetry.tracing import TraceContext

# What JSON and JavaScript hold exactly; offsets of streams stay below it by design.
_GREATEST = 2**53
# Braces mark what Redis Cluster hashes; the percent sign keeps two names from becoming one.
_ENCODED = re.compile(r"[%{}\x00-\x1f\x7f]")

_encode = msgspec.json.Encoder().encode


class _Meta(msgspec.Struct, omit_defaults=True):
    info: ClientInfo | None = None
    tags: dict[str, str] | None = None
    traceparent: str = ""
    tracestate: str = ""
    delta: bool = False


_decode_meta = msgspec.json.Decoder(_Meta).decode
_decode_info = msgspec.json.Decoder(ClientInfo).decode


class MalformedEnvelope(ValueError):
    """These bytes are no envelope; the message says where they fail and quotes none of them."""


@dataclass(frozen=True, slots=True)
class JoinEvent:
    """A client entered a channel."""

    info: ClientInfo


@dataclass(frozen=True, slots=True)
class LeaveEvent:
    """A client left a channel."""

    info: ClientInfo


Envelope = StreamEntry | JoinEvent | LeaveEvent


def stored_name(channel: str) -> str:
    """`channel`, percent-encoded (RFC 3986 section 2.1) where it may hold a user id; no two are stored alike."""
    if USERS_MARK not in channel and not channel.startswith(":"):
        return channel
    return _ENCODED.sub(lambda found: f"%{ord(found[0]):02X}", channel)


def stored_names(channels: Sequence[str]) -> Sequence[str]:
    """The `stored_name` of each."""
    joined = "\n".join(channels)
    if USERS_MARK not in joined and not joined.startswith(":") and "\n:" not in joined:
        return channels
    return [*map(stored_name, channels)]


def original_name(stored: str) -> str:
    """The channel that is stored as `stored`."""
    if USERS_MARK not in stored and not stored.startswith(":"):
        return stored
    return unquote(stored, errors="strict")


def encode_body(
    publication: Publication, time: int, trace: TraceContext | None = None, *, delta: bool = False
) -> bytes:
    """The part of a publication's envelope that a history stream stores; `time` in milliseconds since 1970.

    With `trace` or `delta` it is for the subscribers of this moment.
    """
    if publication.info is None and not publication.tags and trace is None and not delta:
        return b"%d 0\n%b" % (time, publication.data)
    traceparent, tracestate = trace or ("", "")
    meta = _encode(_Meta(publication.info, publication.tags or None, traceparent, tracestate, delta))
    return b"%d %d\n%b%b" % (time, len(meta), meta, publication.data)


def encode_bodies(publication: Publication, trace: TraceContext | None, *, delta: bool) -> tuple[bytes, bytes]:
    """What is kept of a publication of this moment, and what is sent in its place to those who are there."""
    now = wall_milliseconds()
    body = encode_body(publication, now)
    return body, body if trace is None and not delta else encode_body(publication, now, trace, delta=delta)


def encode_publication(body: bytes, *, epoch: str = "", offset: int = 0, previous: int = 0) -> bytes:
    """The envelope around `body`; without history there is no position."""
    return b"p %b %d %d\n%b" % (epoch.encode() or b"-", offset, previous, body)


def encode_join(info: ClientInfo) -> bytes:
    """The envelope of a join."""
    return b"j\n" + _encode(info)


def encode_leave(info: ClientInfo) -> bytes:
    """The envelope of a leave."""
    return b"l\n" + _encode(info)


def decode(envelope: bytes) -> Envelope:
    """Read an envelope. Raises MalformedEnvelope for anything else."""
    try:
        if envelope[:1] == b"p":
            return _decode_publication(envelope)
        kind, content = envelope.split(b"\n", 1)
        if kind == b"j":
            return JoinEvent(_decode_info(content))
        if kind == b"l":
            return LeaveEvent(_decode_info(content))
    # RecursionError: msgspec's word for JSON that is nested too deeply.
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise MalformedEnvelope(f"an envelope that does not parse: {type(error).__name__}") from None
    raise MalformedEnvelope("an envelope of an unknown kind")


def decode_body(body: bytes, offset: int) -> Publication:
    """Read what a history stream stored at `offset`. Raises MalformedEnvelope."""
    try:
        line, rest = body.split(b"\n", 1)
        return _read(line, rest, offset).publication
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise MalformedEnvelope(f"a stored publication that does not parse: {type(error).__name__}") from None


def _decode_publication(envelope: bytes) -> StreamEntry:
    head, line, rest = envelope.split(b"\n", 2)
    kind, epoch, offset, previous = head.split(b" ")
    position, before = int(offset), int(previous)
    if kind != b"p" or not epoch or not 0 <= position < _GREATEST or not 0 <= before < _GREATEST:
        raise MalformedEnvelope
    return _read(line, rest, position, before, "" if epoch == b"-" else epoch.decode("ascii"))


def _read(line: bytes, rest: bytes, offset: int, previous: int = 0, epoch: str = "") -> StreamEntry:
    stamp, length = line.split(b" ")
    time, end = int(stamp), int(length)
    if not 0 <= time < _GREATEST or not 0 <= end <= len(rest):
        raise MalformedEnvelope
    if end == 0:
        return StreamEntry(Publication(msgspec.Raw(rest), offset=offset, time=time), previous, epoch)
    meta = _decode_meta(rest[:end])
    publication = Publication(msgspec.Raw(rest[end:]), info=meta.info, offset=offset, tags=meta.tags, time=time)
    trace = TraceContext(meta.traceparent, meta.tracestate) if meta.traceparent else None
    return StreamEntry(publication, previous, epoch, trace, meta.delta)
