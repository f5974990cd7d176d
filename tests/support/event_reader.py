"""A strict reader of server-sent events, written from the WHATWG HTML standard, sections 9.2.5 and 9.2.6, alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """An event as a page gets it."""

    type: str
    data: str
    last_event_id: str


class EventReader:
    """Interprets a stream, piece by piece. What stands at its end without an empty line behind it is no event."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.comments: list[str] = []
        self.unknown_fields: list[str] = []
        self.retry: int | None = None
        self.last_event_id = ""
        self._begun = False
        self._unread = b""
        self._data: list[str] = []
        self._type = ""
        self._id = ""

    def feed(self, data: bytes) -> list[Event]:
        """Take a piece; return the events that it completed."""
        before = len(self.events)
        self._unread += data
        if not self._begun and len(self._unread) >= 3:
            self._begun = True
            self._unread = self._unread.removeprefix(b"\xef\xbb\xbf")
        while (line := self._take_line()) is not None:
            self._interpret(line.decode("utf-8", "strict"))
        return self.events[before:]

    def _take_line(self) -> bytes | None:
        ends = [at for at in (self._unread.find(b"\r"), self._unread.find(b"\n")) if at >= 0]
        if not ends:
            return None
        end = min(ends)
        if self._unread[end : end + 1] == b"\r":
            if end + 1 == len(self._unread):
                return None  # the line feed of this pair may be still to come
            width = 2 if self._unread[end + 1 : end + 2] == b"\n" else 1
        else:
            width = 1
        line, self._unread = self._unread[:end], self._unread[end + width :]
        return line

    def _interpret(self, line: str) -> None:
        if line == "":
            self._dispatch()
        elif line.startswith(":"):
            self.comments.append(line[1:])
        else:
            field, _, value = line.partition(":")
            self._take_field(field, value.removeprefix(" "))

    def _take_field(self, field: str, value: str) -> None:
        if field == "event":
            self._type = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            if "\0" not in value:
                self._id = value
        elif field == "retry":
            if value.isascii() and value.isdigit():
                self.retry = int(value)
        else:
            self.unknown_fields.append(field)

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        data, kind = "\n".join(self._data), self._type
        fields, self._data, self._type = self._data, [], ""
        # "If the data buffer is an empty string": a field of data adds a line feed, an absent one nothing.
        if fields:
            self.events.append(Event(kind or "message", data, self.last_event_id))
