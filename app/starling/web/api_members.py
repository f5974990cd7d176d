"""Names of members in requests to the server API: one that is given twice, or is misspelled, is an error that names it.

RFC 8259 section 4 leaves open which of two members with one name counts, and parsers differ: a proxy that checks a body
and Starling could read different channels. Payloads are the caller's own JSON and stay as they are. Other unknown
members are ignored, as the API that this one is compatible with does.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from functools import lru_cache
from json import JSONDecoder
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from msgspec import MsgspecError, Raw, Struct, ValidationError
from msgspec.json import Decoder

from starling.protocol.codec_json import read_json
from starling.web.api_batch_models import BatchCommand, BatchFrame, EnvelopeCommand, PlainBatch
from starling.web.api_publishing import BroadcastBody, PublishBody

Request = TypeVar("Request", bound=Struct)

# A member's name without escapes, up to its colon.
_NAME = re.compile(rb'"([^"\\]*+)"\s*+:')
# The beginning of most requests, which need no further look where the data is all that follows.
_PUBLISH_BEGINNING = rb'\{\s*+"channel"\s*+:\s*+"([^"\\]*+)"\s*+,\s*+"data"\s*+:\s*+'
_PLAIN_PUBLISH = re.compile(_PUBLISH_BEGINNING)
_PLAIN_BROADCAST = re.compile(rb'\{\s*+"channels"\s*+:\s*+\[[^\]\\]*+\]\s*+,\s*+"data"\s*+:\s*+')
_PLAIN_COMMAND = re.compile(rb'\{\s*+"publish"\s*+:\s*+' + _PUBLISH_BEGINNING)
_BATCH_BEGINNING = re.compile(rb'\{\s*+"commands"\s*+:\s*+\[\s*+')
_COMMAND_END = re.compile(rb"\s*+\}\s*+\}\s*+[,\]]\s*+")
# How msgspec reports a value that is none of an enumeration.
_NOT_CHOSEN = re.compile(r"Invalid enum value (?P<given>.*) - at `\$\.(?P<path>[\w.]+)`", re.DOTALL)
_WITH_MEMBERS = (b"{", b"[")
# How alike a misspelled name and the right one are at least, from 0 to 1.
_ALIKE = 0.8
# Each of their payloads is checked when it is published, or read as a request of its own.
_DEEP = (PublishBody, BroadcastBody, BatchFrame, EnvelopeCommand)
# Where an unknown member is a method that there is not, which has an error of its own, or one of older clients.
_OPEN = (BatchCommand, EnvelopeCommand)


class _Object(list[tuple[str, Any]]):
    """The members of a JSON object in their order, each as often as it stands there."""


# Numbers stay texts: the time to read one grows with the square of its length.
_decode_plain_batch = Decoder(PlainBatch).decode
_parse = JSONDecoder(object_pairs_hook=_Object, parse_int=str, parse_float=str, strict=False).decode


def read_request(content: bytes, decode: Callable[[bytes], Request], kind: type[Request]) -> Request:
    """Decode a request as read_json does, and refuse a member that stands twice or looks like a misspelled one.

    Raises MsgspecError, UnicodeError or RecursionError.
    """
    try:
        request = read_json(content, decode, kind, _may_be_deep)
    except ValidationError as error:
        raise _with_choices(error, kind) from None
    if _is_plain(content, request):
        return request
    shape = _shape(kind)
    names = _NAME.findall(_without_payloads(content, request, shape))
    distinct = set(names)
    if len(names) != len(distinct) or not distinct <= shape.names or content.find(b"\\u00") >= 0:
        _check(_parse(content.decode()), kind, "")
    return request


def read_plain_batch(content: bytes) -> list[tuple[str, bytes]] | None:
    """The channel and data of each command of a batch, where all publish and say nothing further; otherwise None.

    Then `read_request` reads the batch, or says what is the matter with it.
    """
    beginning = _BATCH_BEGINNING.match(content)
    if beginning is None:
        return None
    try:
        batch = read_json(content, _decode_plain_batch, PlainBatch)
    except (MsgspecError, UnicodeError, RecursionError):
        return None
    publications = [(command.publish.channel, bytes(command.publish.data)) for command in batch.commands]
    position = _end_of_alike(content, beginning.end(), publications)
    if position == 0:
        position = beginning.end()
        for _, data in publications:
            before = _PLAIN_COMMAND.match(content, position)
            if before is None or not content.startswith(data, before.end()):
                return None
            after = _COMMAND_END.match(content, before.end() + len(data))
            if after is None:
                return None
            position = after.end()
    return publications if content[position:].strip() == b"}" else None


def _end_of_alike(content: bytes, begin: int, publications: Sequence[tuple[str, bytes]]) -> int:
    """Where the list of commands ends that begins there, if each is written as the first one is; otherwise 0.

    A program writes all in one way, so this is one comparison in the place of two searches for each.
    """
    first = _PLAIN_COMMAND.match(content, begin)
    if first is None or not publications:
        return 0
    data_end = first.end() + len(publications[0][1])
    gap = _COMMAND_END.match(content, data_end)
    if gap is None:
        return 0
    channels = [channel for channel, _ in publications]
    joined = "".join(channels)
    if '"' in joined or "\\" in joined:
        return 0
    between = content[first.end(1) : first.end()]
    commands = [b"%b%b%b" % (channel.encode(), between, data) for channel, data in publications]
    written = (content[data_end : gap.end()] + content[begin : first.start(1)]).join(commands)
    end = content.startswith(written, first.start(1)) and _COMMAND_END.match(content, first.start(1) + len(written))
    return end.end() if end else 0


def _may_be_deep(request: Struct) -> bool:
    if isinstance(request, BatchCommand):
        return request.publish is not None or request.broadcast is not None
    return isinstance(request, _DEEP)


def _is_plain(content: bytes, request: object) -> bool:
    """Whether a publish, a broadcast or a command to publish says where to, then the data, and nothing else."""
    beginning, braces = _PLAIN_PUBLISH, b"}"
    if isinstance(request, BatchCommand):
        beginning, braces, request = _PLAIN_COMMAND, b"}}", request.publish
    elif isinstance(request, BroadcastBody):
        # A list of texts has a bracket within it only in one of the texts, and then this is not sure.
        beginning = _PLAIN_BROADCAST
    if not isinstance(request, PublishBody | BroadcastBody) or not content.endswith(braces):
        return False
    plain = beginning.match(content)
    return plain is not None and content[plain.end() : -len(braces)] == bytes(request.data)


def _without_payloads(content: bytes, request: Any, shape: "_Shape") -> bytes:
    """`content` without payloads that have members; what is left has every name of the request itself."""
    for name in shape.payloads:
        raw = bytes(getattr(request, name))
        if raw[:1] not in _WITH_MEMBERS:
            continue
        # Most often it is the last member, where no search is needed.
        end = len(content) - 1
        start = end - len(raw) if content[end - len(raw) : end] == raw else content.find(raw)
        content = content[:start] + content[start + len(raw) :]
    for name in shape.lists:
        # Where the name stands once, all between the first and the last item is in the list.
        items = getattr(request, name)
        if items and content.count(b'"%b"' % name.encode()) == 1:
            first, last = bytes(items[0]), bytes(items[-1])
            content = content[: content.find(first)] + content[content.rfind(last) + len(last) :]
    for name in shape.inner:
        value: object = getattr(request, name)
        if isinstance(value, Struct):
            content = _without_payloads(content, value, _shape(type(value)))
    return content


class _Shape(NamedTuple):
    """What the members of a kind of request hold: their names, payloads, lists of payloads, requests."""

    names: frozenset[bytes]
    payloads: tuple[str, ...]
    lists: tuple[str, ...]
    inner: tuple[str, ...]


@lru_cache(maxsize=256)
def _shape(kind: type[Struct]) -> _Shape:
    holding_raw = {name for name, classes in _fields(kind).items() if Raw in classes}
    lists = tuple(name for name in holding_raw if list in _fields(kind)[name])
    inner = tuple(name for name, classes in _fields(kind).items() if _struct_in(classes) and list not in classes)
    return _Shape(_names(kind), tuple(holding_raw - set(lists)), lists, inner)


@lru_cache(maxsize=256)
def _fields(kind: type[Struct]) -> Mapping[str, frozenset[type]]:
    """The classes that each field of a request may hold."""
    hints = get_type_hints(kind)
    return {name: frozenset(_classes(hints[name])) for name in kind.__struct_fields__}


def _classes(hint: Any) -> Iterator[type]:
    plain = get_origin(hint) or hint
    if isinstance(plain, type):
        yield plain
    for argument in get_args(hint):
        yield from _classes(argument)


def _names(kind: type[Struct]) -> frozenset[bytes]:
    """The names of all members of a request and of the structs in it."""
    found: set[type[Struct]] = set()
    waiting = [kind]
    while waiting:
        if (each := waiting.pop()) not in found:
            found.add(each)
            waiting += [inner for classes in _fields(each).values() for inner in classes if issubclass(inner, Struct)]
    return frozenset(name.encode() for each in found for name in each.__struct_fields__)


def _check(found: Any, kind: type[Struct] | None, path: str) -> None:
    """Raise ValidationError, in msgspec's form, for a member that stands twice or is misspelled."""
    if not isinstance(found, _Object):
        for number, item in enumerate(found if isinstance(found, list) else ()):
            _check(item, kind, f"{path}[{number}]")
        return
    fields = _fields(kind) if kind is not None else {}
    given = {name for name, _ in found}
    names = set()
    for name, value in found:
        where = f"{path}.{name}" if path else name
        if name in names:
            raise ValidationError(f"it is given twice - at `$.{where}`")
        names.add(name)
        classes = fields.get(name, frozenset())
        if kind is not None and kind not in _OPEN and name not in fields:
            if near := get_close_matches(name, fields.keys() - given, 1, _ALIKE):
                raise ValidationError(f"not a member of this request: did you mean {near[0]}? - at `$.{where}`")
        elif Raw not in classes:
            _check(value, _struct_in(classes), where)


def _with_choices(error: ValidationError, kind: type[Struct]) -> ValidationError:
    """`error`, with the values that are allowed where it is about one that is not."""
    found = _NOT_CHOSEN.fullmatch(str(error))
    if found is None:
        return error
    hint: Any = kind
    for name in found["path"].split("."):
        inner = _struct_in(frozenset(_classes(hint)))
        if inner is None or name not in inner.__struct_fields__:
            return error
        hint = get_type_hints(inner)[name]
    return ValidationError(f"{found['given']} is not one of {', '.join(_choices(hint))} - at `$.{found['path']}`")


def _choices(hint: Any) -> Iterator[str]:
    if isinstance(hint, type) and issubclass(hint, Enum):
        yield from (str(each.value) for each in hint)
    elif get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
    else:
        for argument in get_args(hint):
            yield from _choices(argument)


def _struct_in(classes: frozenset[type]) -> type[Struct] | None:
    return next((each for each in classes if issubclass(each, Struct)), None)
