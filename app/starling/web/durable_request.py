"""Requests of the Durable Streams protocol as they are read: headers, offsets, cursors, and what is wrong with them."""

import random
import re
import time
from datetime import datetime
from http import HTTPStatus
from typing import NamedTuple

from msgspec import Struct
from starlette.datastructures import Headers, QueryParams

from starling.engine.append_store import Producer, StreamKind
from starling.engine.broker import StreamPosition
from starling.engine.hooks import Client
from starling.engine.receiver import TokenFacts
from starling.protocol.codes import Refused

OCTETS = "application/octet-stream"
START, NOW = "-1", "now"
_JSON = "application/json"
_DEFAULT_TYPES = {StreamKind.TEXT: "text/plain; charset=utf-8", StreamKind.JSON: _JSON, StreamKind.BYTES: OCTETS}
_WHOLE = re.compile(r"(0|[1-9]\d{0,15})")
_OFFSET = re.compile(r"(\d{20})_([A-Za-z0-9_-]{1,64})")
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LARGEST = 2**53 - 1
# Numbers of intervals since then (2024-10-09T00:00Z) are the cursors of readers that wait.
_CURSOR_BEGIN = 1728432000
_CURSOR_SECONDS = 20
_CURSOR_JITTER = 3600


class Reader(NamedTuple):
    """Whose request it is: a client as hooks see it, an address, and the token that permits it."""

    client: Client
    address: str
    token: TokenFacts | None

    @property
    def user(self) -> str:
        """The client's user, empty for an anonymous one."""
        return self.client.user


class RequestRefused(Refused):
    """A request that is answered with `status`, and the words of the message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Life(Struct, frozen=True):
    """How long a stream is to live: seconds after its last use, or until a moment; both None where it does not say."""

    ttl: float | None
    expires_at: float | None


def bad(message: str) -> RequestRefused:
    """A malformed request."""
    return RequestRefused(HTTPStatus.BAD_REQUEST, message)


def media_type_of(content_type: str) -> str:
    """The media type without parameters, in lower case. Raises RequestRefused."""
    found = content_type.partition(";")[0].strip().lower()
    if not _MEDIA_TYPE.fullmatch(found):
        raise bad(f"Content-Type: {content_type[:80]!r} is no media type")
    return found


def kind_of(media_type: str) -> StreamKind:
    """The kind of a stream with this media type."""
    if media_type == _JSON:
        return StreamKind.JSON
    return StreamKind.TEXT if media_type.startswith("text/") else StreamKind.BYTES


def default_type(kind: StreamKind) -> str:
    """The media type of a stream that was opened without one."""
    return _DEFAULT_TYPES[kind]


def closes(headers: Headers) -> bool:
    """Whether a request closes the stream."""
    return headers.get("stream-closed", "").strip().lower() == "true"


def life_of(headers: Headers) -> Life:
    """How long a stream that is created is to live. Raises RequestRefused."""
    ttl, expires = headers.get("stream-ttl"), headers.get("stream-expires-at")
    if ttl is not None and expires is not None:
        raise bad("give Stream-TTL or Stream-Expires-At, not both")
    if ttl is not None:
        if not _WHOLE.fullmatch(ttl):
            raise bad("Stream-TTL: a whole number of seconds, without sign, zeros before it or a fraction")
        return Life(float(ttl), None)
    if expires is None:
        return Life(None, None)
    try:
        moment = datetime.fromisoformat(expires)
    except ValueError:
        raise bad("Stream-Expires-At: write it like 2030-01-31T12:00:00Z (RFC 3339)") from None
    if moment.tzinfo is None:
        raise bad("Stream-Expires-At: the offset of the time zone is missing, write it like 2030-01-31T12:00:00Z")
    return Life(None, moment.timestamp())


def producer_of(headers: Headers) -> Producer | None:
    """Who appends, None where it does not say. Raises RequestRefused."""
    given = [headers.get(f"producer-{name}") for name in ("id", "epoch", "seq")]
    if given == [None, None, None]:
        return None
    name, epoch, sequence = given
    if name is None or epoch is None or sequence is None:
        raise bad("give Producer-Id, Producer-Epoch and Producer-Seq, or none of them")
    if not name or len(name) > 255:
        raise bad("Producer-Id: 1 to 255 characters")
    return Producer(name, _integer("Producer-Epoch", epoch), _integer("Producer-Seq", sequence))


def _integer(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text[:17]) > _LARGEST:
        raise bad(f"{name}: a whole number up to 2^53-1")
    return int(text)


def offset_text(position: StreamPosition) -> str:
    """An offset as readers get it; in one stream they sort as texts."""
    return f"{position.offset:020d}_{position.epoch}"


def offset_of(query: QueryParams) -> str | StreamPosition | None:
    """The offset of a request: START, NOW, a position, or None for none. Raises RequestRefused."""
    given = query.getlist("offset")
    if not given:
        return None
    if len(given) > 1:
        raise bad("offset: give it once")
    if given[0] in (START, NOW):
        return given[0]
    found = _OFFSET.fullmatch(given[0])
    if found is None:
        raise bad("offset: -1, now, or what Stream-Next-Offset said")
    return StreamPosition(int(found[1]), found[2])


def next_cursor(given: str) -> str:
    """A cursor beyond that of the reader, so that caches see a new address each time."""
    now = int(time.time() - _CURSOR_BEGIN) // _CURSOR_SECONDS
    known = int(given) if given.isascii() and given.isdigit() and len(given) < 16 else 0
    if known < now:
        return str(now)
    jitter = random.randint(1, _CURSOR_JITTER) // _CURSOR_SECONDS  # noqa: S311 - spreads readers
    return str(known + max(1, jitter))
