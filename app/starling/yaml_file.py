"""YAML that is read as it is written: no key twice, and plain values as YAML 1.2 has them (its core schema).

YAML 1.1, which PyYAML reads by itself, takes `no` for false, `1:30` for 90, `010` for 8 and `2001-01-01` for a date.
Here each of them is the text that it looks like, and an option that wants another type says so.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml


class DuplicateKeyError(yaml.YAMLError):
    """A key that stands twice in one mapping; the message has its path and both lines."""


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the plain values of YAML 1.2, without merge keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's name, filled below

    def construct_document(self, node: yaml.Node) -> Any:
        """Refuse a key that is given twice, anywhere. Raises DuplicateKeyError."""
        _check_keys(node, "")
        return super().construct_document(node)


def _check_keys(node: yaml.Node, path: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_keys(item, f"{path}[{index}]")
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[Hashable, int] = {}
    for key, value in node.value:
        name = key.value if isinstance(key.value, str) else str(key.start_mark)
        where = f"{path}.{name}" if path else name
        line = key.start_mark.line + 1
        if name in lines:
            raise DuplicateKeyError(f"{where}: it stands twice, in lines {lines[name]} and {line}: keep one of the two")
        lines[name] = line
        _check_keys(value, where)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?", "-+0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first.replace("\0", ""), ""]
    )


def read_yaml(text: str) -> object:
    """Return the document of `text`. Raises yaml.YAMLError, of that DuplicateKeyError."""
    return yaml.load(text, Loader=PlainLoader)  # noqa: S506 - a SafeLoader


def describe_syntax(error: yaml.YAMLError) -> str:
    """Return in one line what is wrong with a document, and where."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "context", None)
    if mark is None or not problem:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
