"""JSON, one message a line: for browsers, and for whoever asks for nothing else.

Payloads pass through as they came. A channel may also carry what JSON clients cannot read, published as binary by a
Protobuf client; that is the application's choice for the channel. A JSON client that meets it is disconnected with
3506, as the protocol's documentation says, and neither the publisher nor Protobuf subscribers notice.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any, TypeVar, get_args, get_type_hints

from msgspec import DecodeError, MsgspecError, Raw, Struct, json

from starling.protocol.codec import COMMANDS_PER_FRAME
from starling.protocol.codes import (
    DISCONNECT_BAD_REQUEST,
    DISCONNECT_INAPPROPRIATE_PROTOCOL,
    CommandRefused,
    Disconnect,
)
from starling.protocol.json_nulls import NULL, without_nulls
from starling.protocol.messages import NO_PAYLOAD, Command, Reply, unset_nulls

# Deeper JSON ends somebody's parser: Python's json module gives up near 1000 levels.
NESTING_LIMIT = 256

Message = TypeVar("Message")

_decode_command = json.Decoder(Command).decode
_skip_value = json.Decoder(Raw).decode
_encode = json.Encoder().encode

# One escape sequence; the group is set where it is half of a UTF-16 pair.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(u[dD][89a-fA-F][\da-fA-F]{2})|.)")
# +1 and -1 as signed bytes.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class JsonCodec:
    """Text frames of JSON objects, separated by newlines."""

    name = "json"
    subprotocol = "centrifuge-json"
    text = True

    def decode(self, frame: str | bytes, limit: int = COMMANDS_PER_FRAME) -> list[Command] | Disconnect:
        """See Codec. Blank lines are skipped; half a UTF-16 pair in an escape becomes U+FFFD."""
        try:
            content = frame.encode() if isinstance(frame, str) else _utf8(frame)
            if content.count(b"\n") > limit or _nests_too_deep(content):
                return DISCONNECT_BAD_REQUEST
            commands = [_command(line) for line in content.split(b"\n") if line and not line.isspace()]
        except (MsgspecError, UnicodeError, RecursionError):
            return DISCONNECT_BAD_REQUEST
        if not 0 < len(commands) <= limit:
            return DISCONNECT_BAD_REQUEST
        return commands

    def encode(self, reply: Reply) -> bytes:
        """See Codec."""
        _check_payloads(reply)
        line = _encode(reply)
        # In valid JSON a raw newline is only space between tokens, and the message must stay one line.
        return line.replace(b"\n", b" ") if b"\n" in line else line

    def join(self, replies: Iterable[bytes]) -> bytes:
        """See Codec."""
        return b"\n".join(replies)


def is_json(data: bytes) -> bool:
    """Whether `data` is one JSON value that every SDK can read: RFC 8259, UTF-8, nested at most NESTING_LIMIT deep."""
    try:
        _skip_value(_utf8(data))
    except (MsgspecError, UnicodeError, RecursionError):
        replaced = _replace_surrogates(data)
        return replaced != data and is_json(replaced)
    return not _nests_too_deep(data)


def read_json(content: bytes, decode: Callable[[bytes], Message], kind: type[Struct]) -> Message:
    """Decode JSON whose payloads stay raw, held to what every SDK can read: see `is_json`.

    `decode` makes a `kind` of it. A field that is `null` is not set; half a UTF-16 pair in an escape becomes U+FFFD.
    Raises MsgspecError or UnicodeError.
    """
    if _nests_too_deep(_utf8(content)):
        raise DecodeError(f"JSON is nested over {NESTING_LIMIT} levels deep")
    try:
        return decode(content)
    except DecodeError:
        readable = _readable(content, kind)
        if readable == content:
            raise
        return decode(readable)


def _utf8(data: bytes) -> bytes:
    # msgspec looks at the bytes of a string only when it makes a str of it, and a payload stays raw.
    if not data.isascii():
        data.decode()
    return data


def _command(line: bytes) -> Command:
    try:
        command = _decode_command(line)
    except MsgspecError:
        readable = _readable(line, Command)
        if readable == line:
            raise
        command = _decode_command(readable)
    if NULL in line:
        unset_nulls(command)
    return command


def _readable(text: bytes, kind: type[Struct]) -> bytes:
    """Bring what the decoder refused, but the protocol allows, into a form that it takes."""
    text = _replace_surrogates(text)
    return without_nulls(text, kind) if NULL in text else text


def _replace_surrogates(text: bytes) -> bytes:
    # RFC 8259 section 8.2 allows them and browsers send them, for a text cut inside an emoji; msgspec refuses them.
    if b"\\u" not in text:
        return text
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], text)


def _nests_too_deep(text: bytes) -> bool:
    if text.count(b"[") + text.count(b"{") <= NESTING_LIMIT:
        return False
    outside_strings = b"".join(text.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    steps = memoryview(outside_strings.translate(_STEPS, _NOT_BRACKETS)).cast("b")
    return max(accumulate(steps), default=0) > NESTING_LIMIT


def _classes_in(annotation: Any) -> Iterator[type]:
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _classes_in(argument)


def _find_payloads(message: type[Struct], found: dict[type[Struct], tuple[str, ...]]) -> bool:
    """Note in `found` which fields of `message`, and of those inside it, hold or contain payloads."""
    names = []
    for name, annotation in get_type_hints(message).items():
        classes = list(_classes_in(annotation))
        inner = [_find_payloads(each, found) for each in classes if issubclass(each, Struct)]
        if Raw in classes or any(inner):
            names.append(name)
    found[message] = tuple(names)
    return bool(names)


_PAYLOADS: dict[type[Struct], tuple[str, ...]] = {}
_find_payloads(Reply, _PAYLOADS)


def _check_payloads(message: Struct) -> None:
    """Raise CommandRefused for a payload that is no JSON; make an empty one the default, which is left out."""
    for name in _PAYLOADS[type(message)]:
        value = getattr(message, name)
        if value is None or value is NO_PAYLOAD:
            continue
        if isinstance(value, Raw):
            if not value:
                setattr(message, name, NO_PAYLOAD)
            elif not is_json(bytes(value)):
                raise CommandRefused(DISCONNECT_INAPPROPRIATE_PROTOCOL)
        elif isinstance(value, Struct):
            _check_payloads(value)
        else:
            for item in value.values() if isinstance(value, dict) else value:
                _check_payloads(item)
