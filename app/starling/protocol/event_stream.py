"""The text of server-sent events: events, comments, the time to reconnect (the WHATWG HTML standard, section 9.2)."""

import re

MEDIA_TYPE = "text/event-stream"
CONTENT_TYPE = f"{MEDIA_TYPE}; charset=utf-8"
# A comment is no event: it keeps proxies from closing a silent response.
KEEP_ALIVE = b":\n\n"
_LINE_END = re.compile(rb"\r\n|\r|\n")


def event(data: bytes, *, name: str = "", event_id: str = "") -> bytes:
    """One event with `data`, of the type `name` (empty: `message`), with `event_id` as the last id (empty: no change).

    Each line of `data`, which is UTF-8, has a field of its own; a reader joins them by line feeds. Raises ValueError
    for a name or an id that no field can hold.
    """
    return b"%b%b%b\n" % (name_field(name), data_fields(data), id_field(event_id))


def data_fields(data: bytes) -> bytes:
    """The fields that hold `data`, which is UTF-8: one for each of its lines."""
    if b"\n" not in data and b"\r" not in data:
        return b"data: %b\n" % data
    return b"".join(b"data: %b\n" % line for line in _LINE_END.split(data))


def name_field(name: str) -> bytes:
    """The field with the type of an event; nothing for an empty one. Raises ValueError for one with a line end."""
    if "\n" in name or "\r" in name:
        raise ValueError(f"no event can have the type {name!r}")
    return b"event: %b\n" % name.encode() if name else b""


def id_field(event_id: str) -> bytes:
    """The field with the id of an event; nothing for an empty one.

    Raises ValueError for an id that readers ignore or a line ends.
    """
    if "\n" in event_id or "\r" in event_id or "\0" in event_id:
        raise ValueError(f"no event can have the id {event_id!r}")
    return b"id: %b\n" % event_id.encode() if event_id else b""


def opening(retry_milliseconds: int, event_id: str = "") -> bytes:
    """What a response begins with: how long readers wait before they reconnect, and the id that they have until then.

    No event is dispatched for it.
    """
    return b"retry: %d\n%b\n" % (retry_milliseconds, id_field(event_id))


def identify(event_id: str) -> bytes:
    """What leaves `event_id` as the last id. No event is dispatched for it."""
    return b"%b\n" % id_field(event_id)
