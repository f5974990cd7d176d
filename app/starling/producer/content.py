"""Content on its way into a stream: joined for one request, and text whole to the character."""

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

# Of text, where half of a surrogate pair came last: its other half may follow.
_HIGH_SURROGATES = range(0xD800, 0xDC00)


class Content:
    """What was written and is not sent yet, in a stream of `kind`: text, json or bytes."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.size = 0
        self._parts: list[Any] = []

    def __bool__(self) -> bool:
        """Whether anything whole is there to send."""
        match self._parts:
            case [str(text)] if len(text) == 1:
                return ord(text) not in _HIGH_SURROGATES
        return bool(self._parts)

    def add(self, chunk: Any) -> None:
        """Take a chunk. Raises TypeError for one that the stream cannot hold."""
        if self.kind == "json":
            chunk = msgspec.json.encode(chunk)
        elif not isinstance(chunk, str if self.kind == "text" else bytes | bytearray | memoryview):
            wanted = "str" if self.kind == "text" else "bytes"
            raise TypeError(f"write() takes {wanted} in a stream of {self.kind}, not {type(chunk).__name__}")
        if len(chunk):
            self._parts.append(chunk)
            self.size += len(chunk)

    def take(self, most: int) -> dict[str, Any]:
        """The fields of one request, for the first parts up to about `most` characters or bytes; {} for nothing."""
        count, size = 0, 0
        for part in self._parts:
            if count and size + len(part) > most:
                break
            count, size = count + 1, size + len(part)
        parts, self._parts = self._parts[:count], self._parts[count:]
        self.size -= size
        return self._fields(parts)

    def _fields(self, parts: Sequence[Any]) -> dict[str, Any]:
        if self.kind == "json":
            return {"json": msgspec.Raw(b"[%b]" % b",".join(parts))} if parts else {}
        if self.kind == "bytes":
            return {"b64data": base64.b64encode(b"".join(parts)).decode()} if parts else {}
        text, rest = _whole("".join(parts))
        if rest:
            self._parts.insert(0, rest)
            self.size += len(rest)
        return {"text": text} if text else {}


def _whole(text: str) -> tuple[str, str]:
    """Text without halves of surrogate pairs, and half of one at its end whose other half may follow."""
    if text.isascii():
        return text, ""
    rest = text[-1] if ord(text[-1]) in _HIGH_SURROGATES else ""
    text = text[: len(text) - len(rest)]
    try:
        text.encode()
    except UnicodeEncodeError:
        # Halves that came one by one become the character; what has no other half is replaced.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text, rest
