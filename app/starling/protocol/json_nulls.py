"""`null` for a field that is not set, as proto3's JSON mapping has it: what serializers write that leave nothing out.

Payloads stay as they came: `null` is a value of the user's own data.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from msgspec import MsgspecError, Raw, Struct, json, structs

_decode_members = json.Decoder(dict[str, Raw]).decode
_decode_items = json.Decoder(list[Raw]).decode
_encode = json.Encoder().encode

NULL = b"null"


def without_nulls(content: bytes, kind: type[Struct]) -> bytes:
    """Return the JSON object `content` without the fields of `kind`, and of structs in it, that are `null`.

    Fields of type Raw stay. What is not the object that it should be is returned as it is.
    """
    return _encode(_object_without_nulls(Raw(content), kind))


def _object_without_nulls(value: Raw, kind: type[Struct]) -> Any:
    try:
        members: dict[str, Any] = _decode_members(value)
    except MsgspecError:
        return value
    for name, inner in _fields(kind).items():
        member = members.get(name)
        if member is None:
            continue
        if bytes(member) == NULL:
            del members[name]
        elif inner is not None:
            members[name] = _clean(member, *inner)
    return members


def _clean(value: Raw, kind: type[Struct], container: type | None) -> Any:
    if container is None:
        return _object_without_nulls(value, kind)
    try:
        if container is dict:
            return {key: _object_without_nulls(item, kind) for key, item in _decode_members(value).items()}
        return [_object_without_nulls(item, kind) for item in _decode_items(value)]
    except MsgspecError:
        return value


@lru_cache(maxsize=256)
def _fields(kind: type[Struct]) -> Mapping[str, tuple[type[Struct], type | None] | None]:
    """Each field that `null` unsets, by its name in JSON; of one that holds structs, which, and in which container."""
    hints = get_type_hints(kind)
    return {
        field.encode_name: next(_structs_in(hints[field.name]), None)
        for field in structs.fields(kind)
        if Raw not in _alternatives(hints[field.name])
    }


def _structs_in(annotation: Any) -> Iterator[tuple[type[Struct], type | None]]:
    for each in _alternatives(annotation):
        origin = get_origin(each)
        if origin in {list, dict}:
            inner = get_args(each)[-1]
            if isinstance(inner, type) and issubclass(inner, Struct):
                yield inner, origin
        elif isinstance(each, type) and issubclass(each, Struct):
            yield each, None


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation itself."""
    arguments = get_args(annotation)
    if get_origin(annotation) in {None, list, dict} or not arguments:
        return [annotation]
    return [argument for argument in arguments if argument is not NoneType]
