"""`starling capture`: the frames of one user, or about one channel, as they pass."""

import getpass
import json
import socket
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starling.cli.output import Output, OutputOption, console
from starling.cli.service import (
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    KeyOption,
    ServiceAddress,
    UrlOption,
    fail,
    until_interrupted,
)

if TYPE_CHECKING:
    from rich.text import Text

MOST_SECONDS = 600
ARROWS = {"in": ("→", "green"), "out": ("←", "cyan"), "end": ("x", "yellow")}


class Kind(StrEnum):
    """What is traced."""

    user = "user"
    channel = "channel"


def capture(
    kind: Annotated[Kind, typer.Argument(help="Whether a user's frames are meant, or those about a channel.")],
    name: Annotated[str, typer.Argument(help="Id of the user, or name of the channel.")],
    seconds: Annotated[float, typer.Option(min=0.1, max=MOST_SECONDS, help="How long.")] = 30.0,
    payload: Annotated[bool, typer.Option("--payload", help="Show the data too, of each the beginning.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show the frames of a user's connections, or about a channel, on every node, for a while.

    The service's log notes who looked at what, and how long. Tokens are never shown.
    """
    body = {kind.value: name, "seconds": seconds, "payload": payload, "by": _asker()}
    printer = _FramePrinter(as_json=output is Output.json)
    ended = ""
    with until_interrupted():
        for line in ServiceAddress(url, key).stream("capture", body):
            told = json.loads(line)
            ended = told.get("ended", "")
            printer.show(line, told)
        if not ended:
            fail("the service ended the capture early: try again", EXIT_UNREACHABLE)
        if ended != "time is over":
            fail(f"the capture ended early: {ended}", EXIT_REFUSED)


class _FramePrinter:
    """Prints frames on standard output, and everything else on standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._out = console(soft_wrap=True)
        self._err = console(stderr=True, soft_wrap=True)

    def show(self, line: str, told: dict[str, Any]) -> None:
        """One line of the answer."""
        if self._as_json:
            print(line, flush=True)
        elif "frame" in told:
            self._out.print(_frame(told))
        elif "capture" in told:
            self._notice(f"tracing for {told['seconds']:g} s on {len(told['nodes'])} node(s)")
        elif "ended" in told:
            self._notice(f"{told['ended']}: {told['frames']} frames, {told['dropped']} dropped")
        else:
            self._notice(f"{told['node']} dropped {told['dropped']} frames: there were too many", "yellow")

    def _notice(self, text: str, style: str = "dim") -> None:
        from rich.text import Text

        self._err.print(Text(text, style=style))


def _frame(told: dict[str, Any]) -> "Text":
    from rich.highlighter import JSONHighlighter
    from rich.text import Text

    arrow, style = ARROWS[told["direction"]]
    line = Text()
    moment = datetime.fromtimestamp(told["time"] / 1000).astimezone()
    line.append(moment.strftime("%H:%M:%S.%f")[:-3] + " ", style="dim")
    line.append(arrow + " ", style=f"bold {style}")
    if "clients" in told:
        line.append(f"{told['clients']} client(s) ", style=style)
    else:
        line.append(f"{told.get('user') or 'anonymous'}/{told['client']} ", style=style)
    line.append(f"{told['node']} ", style="dim")
    line.append(JSONHighlighter()(Text(json.dumps(told["frame"], ensure_ascii=False))))
    return line


def _asker() -> str:
    """Who runs this command, as this machine knows."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "?"
    return f"{user}@{socket.gethostname()}"
