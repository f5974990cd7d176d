"""The tables of values in the chart's README, made from values.yaml and its comments."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

MARK = "# -- "


@dataclass(frozen=True)
class Value:
    """One value of the chart: where it stands (`a.b.c`), its meaning and its default."""

    path: str
    meaning: str
    default: str


def values_of(text: str) -> list[Value]:
    """Every value of a values.yaml that has a meaning above it, in order.

    Raises ValueError for a value that neither has one nor holds values that do.
    """
    lines = text.splitlines()
    document = yaml.compose(text)
    assert isinstance(document, yaml.MappingNode)  # noqa: S101 - a values.yaml is a map
    return list(_walk(document, "", lines))


def values_tables(text: str) -> str:
    """Tables in Markdown: one for what stands alone, then one for each group."""
    alone: list[Value] = []
    groups: dict[str, list[Value]] = {}
    for value in values_of(text):
        group, dot, _ = value.path.partition(".")
        (groups.setdefault(group, []) if dot else alone).append(value)
    tables = [_table("Pods and objects", alone)] + [_table(f"`{name}`", values) for name, values in groups.items()]
    return "\n".join(tables)


def _walk(mapping: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[Value]:
    for key, value in mapping.value:
        path = f"{prefix}{key.value}"
        meaning = _meaning_above(lines, key.start_mark.line)
        if meaning:
            yield Value(path, meaning, json.dumps(_construct(value), ensure_ascii=False))
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _walk(value, f"{path}.", lines)
        else:
            raise ValueError(
                f"values.yaml line {key.start_mark.line + 1}: {path} has no comment that begins with {MARK!r}"
            )


def _construct(node: yaml.Node) -> object:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _meaning_above(lines: list[str], line: int) -> str:
    """The comment right above `line` that begins with the mark, on one line."""
    found: list[str] = []
    for above in reversed(lines[:line]):
        comment = above.strip()
        if comment.startswith(MARK):
            return " ".join([comment.removeprefix(MARK), *reversed(found)])
        if not comment.startswith("# "):
            break
        found.append(comment.removeprefix("# "))
    return ""


def _table(title: str, values: list[Value]) -> str:
    rows = [f"### {title}", "", "| Value | Default | Meaning |", "|---|---|---|"]
    rows += [f"| `{value.path}` | `{value.default}` | {value.meaning} |".replace(" | `` |", " | |") for value in values]
    return "\n".join(rows) + "\n"
