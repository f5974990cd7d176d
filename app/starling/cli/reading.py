"""Commands that read nodes, channels, presence and history through the server API."""

import json
import sys
from datetime import datetime
from typing import Annotated, Any

import typer

from starling.cli.backend import ChannelArgument
from starling.cli.output import Column, Output, OutputOption, duration, print_heading, print_table, shown_json
from starling.cli.service import EXIT_USAGE, KeyOption, ServiceAddress, UrlOption, fail

CHANNELS_LIMIT = 20
# The most that the service returns in one answer.
CHANNELS_PAGE = 10_000
HISTORY_LIMIT = 100


def info(
    pattern: Annotated[str, typer.Option("--channels", help="Only channels that match, such as 'news:*'.")] = "*",
    limit: Annotated[int, typer.Option(min=0, help="Channels shown, those with the most clients.")] = CHANNELS_LIMIT,
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show the nodes, their connections, and the channels with the most clients."""
    service = ServiceAddress(url, key)
    nodes = service.call("info", {})["nodes"]
    found, missing = _all_channels(service, pattern)
    if output is Output.json:
        print(json.dumps({"nodes": nodes, "channels": found, "missing": missing}))
        return
    columns = [
        Column("NODE"),
        Column("VERSION", drop=3),
        Column("CONN", right=True),
        Column("USERS", drop=1, right=True),
        Column("SUBS", right=True),
        Column("CHANNELS", drop=1, right=True),
        Column("UP", drop=2, right=True),
    ]
    stats = ("num_clients", "num_users", "num_subs", "num_channels")
    print_table(
        columns,
        [
            (node["name"], node["version"], *(str(node[name]) for name in stats), duration(node["uptime"]))
            for node in nodes
        ],
    )
    print()
    print_heading(f"Channels: {len(found)}")
    _print_channels(found, limit)
    _note_missing(missing)


def channels(
    pattern: Annotated[str, typer.Argument(help="Only channels that match, such as 'news:*'.")] = "*",
    limit: Annotated[int, typer.Option(min=0, help="Channels shown, those with the most clients; 0: all.")] = 0,
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List the channels that have subscribers, over all nodes."""
    found, missing = _all_channels(ServiceAddress(url, key), pattern)
    if output is Output.json:
        for name, count in _busiest(found)[: limit or None]:
            print(json.dumps({"channel": name, **count}))
    else:
        _print_channels(found, limit or len(found))
    _note_missing(missing)


def _all_channels(service: ServiceAddress, pattern: str) -> tuple[dict[str, Any], list[str]]:
    """Every channel that matches, read page by page, so that no number of channels is refused.

    Returns the names of nodes that did not answer for some page, too.
    """
    found: dict[str, Any] = {}
    missing: set[str] = set()
    cursor = ""
    while True:
        page = service.call("channels", {"pattern": pattern, "limit": CHANNELS_PAGE, "cursor": cursor})
        found.update(page["channels"])
        # A service of an earlier version does not report them.
        missing.update(page.get("missing", []))
        cursor = page.get("cursor", "")
        if not cursor:
            return found, sorted(missing)


def _note_missing(nodes: list[str]) -> None:
    if nodes:
        _note(
            f"no answer from {', '.join(nodes)}: clients there are not counted, and channels of theirs may be missing"
        )


def _busiest(found: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(found.items(), key=lambda one: (-one[1]["num_clients"], one[0]))


def _print_channels(found: dict[str, Any], limit: int) -> None:
    columns = [Column("CHANNEL"), Column("CLIENTS", right=True)]
    print_table(columns, [(name, str(count["num_clients"])) for name, count in _busiest(found)[:limit]])
    if len(found) > limit:
        _note(f"and {len(found) - limit} more: see --limit and --channels")


def presence(
    channel: ChannelArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List the clients that are in a channel."""
    found = ServiceAddress(url, key).call("presence", {"channel": channel})["presence"]
    if output is Output.json:
        for client in found.values():
            print(json.dumps(client))
        return
    columns = [Column("USER"), Column("CLIENT"), Column("CONNECTION INFO", drop=1), Column("CHANNEL INFO", drop=2)]
    rows = [
        (
            client["user"] or "(anonymous)",
            client["client"],
            _compact(client, "conn_info"),
            _compact(client, "chan_info"),
        )
        for client in sorted(found.values(), key=lambda client: (client["user"], client["client"]))
    ]
    print_table(columns, rows)


def history(
    channel: ChannelArgument,
    limit: Annotated[
        int, typer.Option(min=1, help="Publications shown, the oldest of those asked for.")
    ] = HISTORY_LIMIT,
    since: Annotated[
        str,
        typer.Option(help="Only what follows this position, with --reverse what precedes it.", metavar="OFFSET:EPOCH"),
    ] = "",
    reverse: Annotated[bool, typer.Option("--reverse", help="Begin with the newest.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show what a channel keeps, the oldest publication first."""
    body: dict[str, Any] = {"channel": channel, "limit": limit, "reverse": reverse}
    if since:
        offset, epoch = position_of(since)
        body["since"] = {"offset": offset, "epoch": epoch}
    result = ServiceAddress(url, key).call("history", body)
    publications = result["publications"]
    if output is Output.json:
        for publication in publications:
            print(json.dumps(publication))
    else:
        columns = [Column("OFFSET", right=True), Column("TIME", drop=1), Column("USER", drop=2), Column("DATA")]
        print_table(columns, [_row(publication) for publication in publications])
    newest = max((publication["offset"] for publication in publications), default=0)
    if len(publications) == limit and not reverse and newest < result["offset"]:
        _note(
            f"there are newer ones up to offset {result['offset']}: go on with --since {newest}:{result['epoch']}, "
            "or see the newest with --reverse"
        )


def position_of(text: str) -> tuple[int, str]:
    """The offset and the epoch of a position as people write it; ends the command for anything else."""
    offset, separator, epoch = text.partition(":")
    if not separator or not (offset.isascii() and offset.isdigit()):
        fail("--since: write it as OFFSET:EPOCH", EXIT_USAGE)
    return int(offset), epoch


def _row(publication: dict[str, Any]) -> tuple[str, str, str, str]:
    moment = ""
    if milliseconds := publication.get("time"):
        moment = datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    binary = publication.get("b64data")
    data = f"base64 {binary}" if binary else shown_json(publication["data"])
    user = (publication.get("info") or {}).get("user", "")
    return str(publication["offset"]), moment, user, data


def _compact(content: dict[str, Any], name: str) -> str:
    return shown_json(content[name]) if content.get(name) is not None else ""


def _note(text: str) -> None:
    print(text, file=sys.stderr)
