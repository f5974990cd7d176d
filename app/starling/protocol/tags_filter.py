"""Filters by tags: which publications a subscriber of a channel wants, as `tf` of a subscribe request; no I/O.

A filter is a tree of FilterNode. Leaves compare one tag, the others combine (`and`, `or`, `not`). The meaning of each
comparison is that of the client protocol's public definition (the message FilterNode of its proto3 file).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache

from msgspec import Struct

Tags = Mapping[str, str]
Matches = Callable[[Tags], bool]
# The form of a filter that two subscribers with the same one share: nested tuples of its fields.
FilterKey = tuple[object, ...]

MOST_NODES = 256
MOST_DEPTH = 32
# Of all its nodes. A subscription keeps its filter, so these bound what a client takes of memory.
MOST_VALUES = 1_000
_ONE_VALUE = frozenset({"eq", "neq", "sw", "ew", "ct", "gt", "gte", "lt", "lte"})
_NUMERIC = frozenset({"gt", "gte", "lt", "lte"})
_MANY_VALUES = frozenset({"in", "nin"})
_NO_VALUE = frozenset({"ex", "nex"})
# More digits than any counter or price has; a longer tag is no number.
_LONGEST_NUMBER = 64
_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


class FilterNode(Struct, omit_defaults=True, frozen=True):
    """One node. `op` is `and`, `or`, `not`, or empty for a leaf: `cmp` compares the tag `key` with `val` or `vals`."""

    op: str = ""
    key: str = ""
    cmp: str = ""
    val: str = ""
    vals: tuple[str, ...] = ()
    nodes: tuple["FilterNode", ...] = ()


class ForcedFilterNode(FilterNode, omit_defaults=True, frozen=True, forbid_unknown_fields=True):
    """A node of a filter that a backend forces on a client: a misspelled field must not widen it."""

    nodes: tuple["ForcedFilterNode", ...] = ()


class FilterInvalid(ValueError):
    """The filter breaks a rule; the message names the node and the remedy."""


class TagsFilter:
    """A valid filter, ready to be asked. Two filters with equal `key` are equal, and share what is encoded for them."""

    __slots__ = ("_hash", "key", "matches")

    def __init__(self, key: FilterKey, matches: Matches) -> None:
        self.key = key
        self.matches = matches
        # It is asked for with each publication.
        self._hash = hash(key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TagsFilter) and self.key == other.key

    def __hash__(self) -> int:
        return self._hash

    def narrowed(self, other: "TagsFilter | None") -> "TagsFilter":
        """What matches this filter and `other`, so that neither can widen the other."""
        if other is None or other == self:
            return self
        mine, theirs = self.matches, other.matches
        return TagsFilter(("and", self.key, other.key), lambda tags: mine(tags) and theirs(tags))


# Few, because they stay in memory after the subscriptions that they were made for.
@lru_cache(maxsize=128)
def compile_filter(node: FilterNode, name: str = "tf") -> TagsFilter:
    """Check a filter and make it ready. Raises FilterInvalid, whose message begins with `name`, the filter's field."""
    values = 0
    for count, (depth, each) in enumerate(_walk(node), start=1):
        values += len(each.vals)
        if count > MOST_NODES:
            raise FilterInvalid(f"{name}: a filter has at most {MOST_NODES} nodes")
        if depth > MOST_DEPTH:
            raise FilterInvalid(f"{name}: a filter is at most {MOST_DEPTH} nodes deep")
        if values > MOST_VALUES:
            raise FilterInvalid(f"{name}: a filter has at most {MOST_VALUES} vals in all its nodes")
    return TagsFilter(_key(node), _compile(node, name))


def size_of(node: FilterNode) -> int:
    """How many nodes and values a filter has, be it valid or not."""
    return sum([1 + len(each.vals) for _, each in _walk(node)])


def _walk(node: FilterNode) -> Iterator[tuple[int, FilterNode]]:
    waiting = [(1, node)]
    while waiting:
        depth, node = waiting.pop()
        yield depth, node
        waiting += [(depth + 1, child) for child in node.nodes]


def _key(node: FilterNode) -> FilterKey:
    return (node.op, node.key, node.cmp, node.val, node.vals, tuple(map(_key, node.nodes)))


def _compile(node: FilterNode, path: str) -> Matches:
    if node.op == "":
        return _compile_leaf(node, path)
    if node.op not in {"and", "or", "not"}:
        raise FilterInvalid(f"{path}.op: {node.op!r} is none of and, or, not")
    if node.key or node.cmp or node.val or node.vals:
        raise FilterInvalid(f"{path}: {node.op} takes nodes only, put key, cmp, val and vals into one of them")
    if node.op == "not" and len(node.nodes) != 1:
        raise FilterInvalid(f"{path}.nodes: not takes exactly 1 node")
    if not node.nodes:
        raise FilterInvalid(f"{path}.nodes: {node.op} takes 1 node or more")
    parts = [_compile(child, f"{path}.nodes[{index}]") for index, child in enumerate(node.nodes)]
    if node.op == "not":
        inner = parts[0]
        return lambda tags: not inner(tags)
    if node.op == "and":
        return lambda tags: all(part(tags) for part in parts)
    return lambda tags: any(part(tags) for part in parts)


def _compile_leaf(node: FilterNode, path: str) -> Matches:
    if node.nodes:
        raise FilterInvalid(f"{path}.op: nodes are combined by and, or, not: name one of them")
    if node.cmp in _ONE_VALUE:
        if not node.val or node.vals:
            raise FilterInvalid(f"{path}: {node.cmp} takes val, which is not empty, and no vals")
    elif node.cmp in _MANY_VALUES:
        if not node.vals or node.val:
            raise FilterInvalid(f"{path}: {node.cmp} takes vals, which are not empty, and no val")
    elif node.cmp in _NO_VALUE:
        if node.val or node.vals:
            raise FilterInvalid(f"{path}: {node.cmp} takes neither val nor vals")
    else:
        known = ", ".join(sorted(_ONE_VALUE | _MANY_VALUES | _NO_VALUE))
        raise FilterInvalid(f"{path}.cmp: {node.cmp!r} is none of {known}")
    if not node.key and node.cmp not in _NO_VALUE:
        raise FilterInvalid(f"{path}.key: {node.cmp} names the tag that it compares")
    if node.cmp in _NUMERIC:
        return _compile_number(node)
    return _TEXT[node.cmp](node.key, node.val, frozenset(node.vals))


def _compile_number(node: FilterNode) -> Matches:
    wanted = _number(node.val)
    key, compare = node.key, _COMPARE[node.cmp]
    if wanted is None:
        return lambda tags: False

    def matches(tags: Tags) -> bool:
        number = _number(tags.get(key, ""))
        return number is not None and compare(number, wanted)

    return matches


def _number(text: str) -> Decimal | None:
    """The decimal number that `text` is; None for anything else, which compares with no number."""
    return Decimal(text) if len(text) <= _LONGEST_NUMBER and _DECIMAL.fullmatch(text) else None


_COMPARE: Mapping[str, Callable[[Decimal, Decimal], bool]] = {
    "gt": lambda number, wanted: number > wanted,
    "gte": lambda number, wanted: number >= wanted,
    "lt": lambda number, wanted: number < wanted,
    "lte": lambda number, wanted: number <= wanted,
}

_TEXT: Mapping[str, Callable[[str, str, frozenset[str]], Matches]] = {
    "eq": lambda key, val, _: lambda tags: tags.get(key) == val,
    "neq": lambda key, val, _: lambda tags: tags.get(key) != val,
    "in": lambda key, _, vals: lambda tags: tags.get(key, "") in vals,
    "nin": lambda key, _, vals: lambda tags: key not in tags or tags[key] not in vals,
    "ex": lambda key, _, __: lambda tags: key in tags,
    "nex": lambda key, _, __: lambda tags: key not in tags,
    "sw": lambda key, val, _: lambda tags: tags.get(key, "").startswith(val),
    "ew": lambda key, val, _: lambda tags: tags.get(key, "").endswith(val),
    "ct": lambda key, val, _: lambda tags: val in tags.get(key, ""),
}
