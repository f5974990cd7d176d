"""`starling capture`: the frames of one user, or about one channel, as they pass."""

import getpass
import json
import socket
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starling.cli.output import Output, OutputOption, console, shown_json, shown_text
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
    """What is captured."""

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
            event = json.loads(line)
            ended = event.get("ended", "")
            printer.show(event)
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

    def show(self, event: dict[str, Any]) -> None:
        """One line of the answer."""
        if self._as_json:
            print(json.dumps(event), flush=True)
        elif "frame" in event:
            self._out.print(_frame(event))
        elif "capture" in event:
            self._notice(f"capturing for {event['seconds']:g} s on {len(event['nodes'])} node(s)")
        elif "ended" in event:
            self._notice(f"{event['ended']}: {event['frames']} frames, {event['dropped']} dropped")
        else:
            self._notice(f"{event['node']} dropped {event['dropped']} frames: there were too many", "yellow")

    def _notice(self, text: str, style: str = "dim") -> None:
        from rich.text import Text

        self._err.print(Text(shown_text(text), style=style))


def _frame(event: dict[str, Any]) -> "Text":
    from rich.highlighter import JSONHighlighter
    from rich.text import Text

    arrow, style = ARROWS[event["direction"]]
    line = Text()
    moment = datetime.fromtimestamp(event["time"] / 1000).astimezone()
    line.append(moment.strftime("%H:%M:%S.%f")[:-3] + " ", style="dim")
    line.append(arrow + " ", style=f"bold {style}")
    if "clients" in event:
        line.append(f"{event['clients']} client(s) ", style=style)
    else:
        line.append(f"{shown_text(event.get('user') or 'anonymous')}/{event['client']} ", style=style)
    line.append(f"{event['node']} ", style="dim")
    line.append(JSONHighlighter()(Text(shown_json(event["frame"]))))
    return line


def _asker() -> str:
    """Who runs this command, as this machine knows."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "?"
    return f"{user}@{socket.gethostname()}"
