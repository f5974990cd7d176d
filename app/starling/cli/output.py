"""The output of commands: columns that fit a terminal, plain columns in a pipe, JSON for programs."""

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console

_GAP = "  "
_CUT = "…"
# Columns of a terminal that reports no size.
_USUAL_WIDTH = 80


class Output(StrEnum):
    """What a command prints."""

    table = "table"
    json = "json"


OutputOption = Annotated[
    Output,
    typer.Option("--output", "-o", help="table, or json: one object a line, for programs. --json is short for it."),
]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. On a terminal that is too narrow, those with the highest `drop` go first; 0 stays."""

    head: str
    drop: int = 0
    right: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on standard output: as it fits a terminal, or whole where standard output is none."""
    head, *lines = table_lines(columns, rows, terminal_width())
    print(_bold(head))
    for line in lines:
        print(line)


def print_heading(text: str) -> None:
    """Print the line above a table."""
    print(_bold(text))


def table_lines(columns: Sequence[Column], rows: Iterable[Sequence[str]], width: int | None) -> list[str]:
    """The lines of a table, its heads first. `width` in character cells, None where lines may have any length."""
    cells = [[_one_line(column.head) for column in columns], *([_one_line(cell) for cell in row] for row in rows)]
    shown = list(range(len(columns)))
    widths = [max(_cell_width(row[index]) for row in cells) for index in shown]
    while width is not None and _total([widths[index] for index in shown]) > width:
        dropped = max(shown, key=lambda index: columns[index].drop)
        if columns[dropped].drop == 0:
            widest = max(shown, key=lambda index: widths[index])
            excess = _total([widths[index] for index in shown]) - width
            widths[widest] = max(len(_CUT), widths[widest] - excess)
            break
        shown.remove(dropped)
    lines = []
    for row in cells:
        parts = [_fit(row[index], widths[index], right=columns[index].right) for index in shown]
        lines.append(_GAP.join(parts).rstrip())
    return lines


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Character cells of the terminal that `stream` (standard output) is; None where it is none."""
    stream = stream or sys.stdout
    return shutil.get_terminal_size((_USUAL_WIDTH, 24)).columns if stream.isatty() else None


def colours_wanted(stream: TextIO) -> bool:
    """Whether `stream` may get escape sequences: a terminal, unless NO_COLOR (no-color.org) or a dumb one forbids it.

    FORCE_COLOR, as many programs know it, wants them in a pipe too.
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def console(*, stderr: bool = False, **options: Any) -> "Console":
    """A rich console that writes no escape sequence at all where none is wanted."""
    # Most commands print without it, and it takes a tenth of a second to load.
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, highlight=False, color_system="auto" if colours_wanted(stream) else None, emoji=False, **options
    )


def duration(seconds: int) -> str:
    """How long, for people: `53s`, `4m07s`, `2h05m` or `3d04h`."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if colours_wanted(sys.stdout) else text


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def shown_text(text: str) -> str:
    """The text with escapes for characters that break the line, control the terminal or do not show."""
    return "".join(char if _shows(char) else char.encode("unicode_escape").decode() for char in text)


def shown_json(value: object) -> str:
    """`value` as JSON in one line, in its own characters where these show."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(char if _shows(char) else json.dumps(char)[1:-1] for char in text)


def _shows(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _one_line(text: str) -> str:
    """The text as it may be shown; a dash for none, for whole columns."""
    return shown_text(text) or "-"


def _cell_width(text: str) -> int:
    """Character cells that a terminal takes for `text`."""
    if text.isascii():
        return len(text)
    wide = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
    return wide - sum(unicodedata.combining(char) > 0 for char in text)


def _fit(text: str, width: int, *, right: bool) -> str:
    if _cell_width(text) > width:
        while text and _cell_width(text) > width - len(_CUT):
            text = text[:-1]
        text += _CUT
    room = " " * (width - _cell_width(text))
    return room + text if right else text + room
