"""How commands print: on a terminal of 80 columns, in a pipe, and without colours."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from starling import __version__
from starling.cli.entry import cli
from starling.cli.output import Column, duration, shown_json, shown_text, table_lines
from tests.support.commands import run_command
from tests.support.running import Starling

COMMAND = str(Path(sys.executable).with_name("starling"))
BOXES = re.compile(r"[\u2500-\u259f]")
# Of the lines that a program drew in a terminal: where the cursor goes, and colours.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")


@pytest.fixture(scope="module")
def starling() -> Iterator[Starling]:
    with Starling() as running:
        yield running


def environment(**variables: str) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STARLING_", "FORCE_")) and name not in {"NO_COLOR", "COLUMNS", "LINES"}
    }
    return inherited | variables


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_command(arguments, environment(**variables))


def on_terminal(*arguments: str, columns: int = 80, code: int = 0, **variables: str) -> str:
    """What a command that ends with `code` writes to a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [COMMAND, *arguments], env=environment(TERM="xterm", **variables), stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        written += part
    os.close(master)
    assert process.wait(60) == code, written.decode()
    return written.decode()


@pytest.mark.processes
def test_version_imports_none_of_the_large_libraries() -> None:
    code = (
        "import sys; from starling.cli.entry import main; sys.argv = ['starling', 'version']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)

    version, imported = done.stdout.splitlines()
    assert version == __version__
    large = {
        "fastapi",
        "redis",
        "rich",
        "starlette",
        "uvicorn",
        "gunicorn",
        "httpx2",
        "jwt",
        "cryptography",
    }
    assert not large & set(imported.split())


@pytest.mark.parametrize("command", [(), ("serve",), ("top",), ("publish",), ("settings",)])
def test_h_is_help_in_a_pipe_without_boxes_and_escapes(command: tuple[str, ...]) -> None:
    short, long = run(*command, "-h"), run(*command, "--help")

    assert short.returncode == 0
    assert short.stdout == long.stdout
    assert "Usage: starling" in short.stdout
    assert not BOXES.search(short.stdout)
    assert "\x1b" not in short.stdout


@pytest.mark.processes
@pytest.mark.parametrize("columns", [None, 80])
def test_a_usage_error_names_the_command_without_its_directory(columns: int | None) -> None:
    arguments = ("publish", "--no-such-option")
    if columns:
        shown = on_terminal(*arguments, code=2)
    else:
        done = subprocess.run([COMMAND, *arguments], env=environment(), capture_output=True, text=True, timeout=60)
        shown = done.stderr
    assert "Try 'starling publish -h' for help." in ESCAPES.sub("", shown)
    assert str(Path(COMMAND).parent) not in shown


def test_a_switch_that_a_setting_can_turn_on_can_be_turned_off() -> None:
    switches = {
        option.opts[0]: option
        for command in get_command(cli).commands.values()  # type: ignore[attr-defined]
        for option in command.params
        if getattr(option, "is_flag", False)
    }
    # The rest are off unless they are given, so that leaving them out turns them off.
    with_setting = {"--dev"}
    assert {name for name, option in switches.items() if option.secondary_opts} == with_setting
    assert all(switches[name].default is False and not switches[name].envvar for name in switches.keys() - with_setting)
    done = run("serve", "--no-dev", STARLING_DEV="true")
    assert done.returncode == 2
    assert "STARLING_TOKEN_HMAC_SECRET" in done.stderr


def test_a_bare_command_is_help_and_no_failure() -> None:
    done = run()

    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: starling" in done.stdout


def test_settings_in_a_pipe_are_a_line_each_that_grep_finds() -> None:
    lines = run("settings").stdout.splitlines()

    (line,) = [line for line in lines if line.startswith("STARLING_DRAIN_RATE ")]
    assert line.split()[:2] == ["STARLING_DRAIN_RATE", "500"]
    assert "Unset" in next(line for line in lines if line.startswith("STARLING_DRAIN_SECONDS"))
    assert not BOXES.search("\n".join(lines))


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [("settings",), ("--help",), ("serve", "--help")])
def test_a_terminal_of_80_columns_suffices(arguments: tuple[str, ...]) -> None:
    shown = ESCAPES.sub("", on_terminal(*arguments))

    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


def test_no_color_leaves_no_escape_sequence_at_all(starling: Starling) -> None:
    for arguments in (("--help",), ("info", "--url", starling.http)):
        assert "\x1b" in on_terminal(*arguments)
        assert "\x1b" not in on_terminal(*arguments, NO_COLOR="1")


def test_top_and_info_fit_80_columns_with_every_head_whole(starling: Starling) -> None:
    for arguments in (("top", "--once"), ("info",)):
        shown = ESCAPES.sub("", on_terminal(*arguments, "--url", starling.http))

        assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
        (head,) = [line for line in shown.splitlines() if line.startswith("NODE")]
        assert "CONN" in head.split()
        assert "…" not in head


def test_info_in_a_pipe_has_as_many_words_in_each_row_as_heads(starling: Starling) -> None:
    head, row = run("info", "--url", starling.http).stdout.splitlines()[:2]

    assert head.split() == ["NODE", "VERSION", "CONN", "USERS", "SUBS", "CHANNELS", "UP"]
    assert len(row.split()) == len(head.split())


def test_output_json_and_json_are_the_same() -> None:
    both = run("settings", "--json"), run("settings", "--output", "json"), run("settings", "-o", "json")

    assert len({done.stdout for done in both}) == 1
    assert json.loads(both[0].stdout.splitlines()[0])["variable"] == "STARLING_HOST"
    assert run("settings", "--output", "xml").returncode == 2


def test_numbers_are_as_people_write_them_for_programs_too() -> None:
    defaults = {
        line["variable"]: line["default"] for line in map(json.loads, run("settings", "--json").stdout.splitlines())
    }

    assert (defaults["STARLING_DRAIN_RATE"], str(defaults["STARLING_DRAIN_RATE"])) == (500, "500")
    assert defaults["STARLING_MAX_MEMORY_SHARE"] == 0.9


def test_columns_that_do_not_fit_are_dropped_by_their_priority() -> None:
    columns = [Column("NAME"), Column("LESS", drop=2), Column("LEAST", drop=3), Column("N", right=True)]
    rows = [("a" * 10, "b" * 10, "c" * 10, "7"), ("x", "y", "z", "10")]

    assert table_lines(columns, rows, None)[0] == "NAME        LESS        LEAST        N"
    assert table_lines(columns, rows, 30) == [
        "NAME        LESS         N",
        f"{'a' * 10}  {'b' * 10}   7",
        "x           y           10",
    ]
    assert table_lines(columns, rows, 20)[0] == "NAME         N"
    assert table_lines(columns, rows, 10)[1] == "aaaaa…   7"


@pytest.mark.parametrize(
    "text", ["\x1b[31m", "\x9b31m", "\x7f", "\x85", "\u2028", "\u202e", "\u2066", "\ud800", "\U000e0041"]
)
def test_what_a_client_wrote_cannot_control_the_terminal(text: str) -> None:
    assert shown_text(f"a{text}").isprintable()
    shown = shown_json({text: ["é", text, "全角\u3000空白"]})
    assert shown.replace("\u3000", "").isprintable()
    assert json.loads(shown) == {text: ["é", text, "全角\u3000空白"]}
    assert "全角\u3000空白" in shown


def test_a_cell_cannot_break_its_line_or_control_the_terminal() -> None:
    (_, line) = table_lines([Column("A"), Column("B")], [("x\ny\x1b[31m", "")], None)

    assert line == r"x\ny\x1b[31m  -"


def test_wide_characters_take_two_cells() -> None:
    lines = table_lines([Column("A"), Column("B")], [("日本", "1"), ("ab", "2")], None)

    assert [line[-1] for line in lines] == ["B", "1", "2"]
    assert [line.index(line[-1]) for line in lines] == [6, 4, 6]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0s"), (53, "53s"), (247, "4m07s"), (7500, "2h05m"), (273_600, "3d04h")]
)
def test_a_duration_is_one_short_word(seconds: int, words: str) -> None:
    assert duration(seconds) == words
