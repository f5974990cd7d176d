"""`starling streams`: which append-only streams are open, what one holds as it grows, and the stop button."""

import base64
import json
import sys
import time
from enum import StrEnum
from typing import Annotated, Any

import typer

from starling.cli.output import Column, Output, OutputOption, print_table
from starling.cli.service import EXIT_USAGE, KeyOption, ServiceAddress, UrlOption, fail, until_interrupted

LISTED = 1000
PAGE = 500
# Between two looks at a stream that is open.
PAUSE_SECONDS = 0.3
OPEN = ("open", "interrupted")


class StreamAction(StrEnum):
    """What is done."""

    list = "list"
    tail = "tail"
    cancel = "cancel"


def streams(
    action: Annotated[StreamAction, typer.Argument(help="List open ones, follow one to its end, or cancel it.")],
    channel: Annotated[str, typer.Argument(help="Name of the channel, to follow or to cancel.")] = "",
    reason: Annotated[str, typer.Option(help="Why it is cancelled, for readers and producers.")] = "",
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List open append-only streams, show one from its start until it is closed, or cancel it.

    To cancel a stream closes it and notifies its producer, wherever that runs.
    """
    service = ServiceAddress(url, key)
    as_json = output is Output.json
    if action is StreamAction.list:
        _list(service, as_json=as_json)
        return
    if not channel:
        fail(f"CHANNEL: name the stream to {'follow' if action is StreamAction.tail else 'cancel'}", EXIT_USAGE)
    if action is StreamAction.cancel:
        found = service.call("stream_cancel", {"channel": channel, "reason": reason})
        print(json.dumps(found) if as_json else f"{channel}: {found['status']}, {found['size']} bytes")
        return
    with until_interrupted():
        _tail(service, channel, as_json=as_json)


def _list(service: ServiceAddress, *, as_json: bool) -> None:
    found = service.call("stream_list", {"limit": LISTED})["streams"]
    if as_json:
        for each in found:
            print(json.dumps(each))
        return
    columns = [Column("CHANNEL"), Column("TYPE"), Column("STATUS"), Column("BYTES", right=True)]
    print_table(columns, [(each["channel"], each["type"], each["status"], str(each["size"])) for each in found])


def _tail(service: ServiceAddress, channel: str, *, as_json: bool) -> None:
    info = service.call("stream_info", {"channel": channel})
    since = {"offset": 0, "epoch": info["epoch"]}
    while True:
        page = service.call("history", {"channel": channel, "limit": PAGE, "since": since})
        for publication in page["publications"]:
            since["offset"] = publication["offset"]
            if as_json:
                print(json.dumps({name: publication[name] for name in ("offset", "data", "tags")}), flush=True)
            else:
                _show(publication["data"])
            status = publication.get("tags", {}).get("status", "open")
            if status not in OPEN:
                if not as_json:
                    print(f"\n{status}", file=sys.stderr)
                return
        if since["offset"] >= page["offset"]:
            time.sleep(PAUSE_SECONDS)


def _show(data: dict[str, Any]) -> None:
    """Print what a publication holds: text as it is, a line for each item, or the bytes."""
    if "bytes" in data:
        sys.stdout.buffer.write(base64.b64decode(data["bytes"]))
        sys.stdout.buffer.flush()
        return
    for item in data.get("json", ()):
        print(json.dumps(item), flush=True)
    print(data.get("text", ""), end="", flush=True)
