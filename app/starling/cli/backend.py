"""Commands that do over the server API what a backend does: publish, look, disconnect."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from starling.cli.service import EXIT_USAGE, JsonOption, KeyOption, ServiceAddress, UrlOption, duration, fail

INFO_LIMIT = 20


def publish(
    channel: Annotated[str, typer.Argument(help="Name of the channel.")],
    data: Annotated[str, typer.Argument(help="JSON to publish, or - to read it from standard input.", metavar="JSON")],
    tag: Annotated[list[str] | None, typer.Option(help="A text that travels along, as NAME=VALUE.")] = None,
    key_of_publication: Annotated[
        str, typer.Option("--idempotency-key", help="Publish once, however often this is called with it.")
    ] = "",
    skip_history: Annotated[bool, typer.Option("--skip-history", help="Only to those who are there now.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish to a channel."""
    text = sys.stdin.read() if data == "-" else data
    try:
        content = json.loads(text)
    except ValueError as error:
        fail(f"JSON: {error}; a text needs quotes of its own, as in '\"hello\"'", EXIT_USAGE)
    body: dict[str, Any] = {"channel": channel, "data": content, "skip_history": skip_history}
    if key_of_publication:
        body["idempotency_key"] = key_of_publication
    tags = [one.partition("=") for one in tag or ()]
    if any(not name or not separator for name, separator, _ in tags):
        fail("--tag: write it as NAME=VALUE", EXIT_USAGE)
    if tags:
        body["tags"] = {name: value for name, _, value in tags}
    result = ServiceAddress(url, key).call("publish", body)
    if as_json:
        print(json.dumps(result))
    elif result:
        print(f"Published to {channel} at offset {result['offset']} of epoch {result['epoch']}.")
    else:
        print(f"Published to {channel}, which keeps no history.")


def disconnect(
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    client: Annotated[str, typer.Option(help="Only the connection of this id.")] = "",
    session: Annotated[str, typer.Option(help="Only connections of this session.")] = "",
    code: Annotated[
        int, typer.Option(min=3000, max=4999, help="3000-3499 and 4000-4499 let the client come back, others do not.")
    ] = 3503,
    reason: Annotated[str, typer.Option(help="Told to the client.")] = "force disconnect",
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Close a user's connections, on every node."""
    body = {"user": user, "client": client, "session": session, "disconnect": {"code": code, "reason": reason}}
    result = ServiceAddress(url, key).call("disconnect", body)
    print(json.dumps(result) if as_json else f"Every node was told to disconnect {user} with {code} ({reason}).")


def info(
    pattern: Annotated[str, typer.Option("--channels", help="Only channels that fit, such as 'news:*'.")] = "*",
    limit: Annotated[int, typer.Option(min=0, help="Channels shown, those with the most clients.")] = INFO_LIMIT,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the nodes, their connections, and the channels with the most clients."""
    service = ServiceAddress(url, key)
    nodes = service.call("info", {})["nodes"]
    channels = service.call("channels", {"pattern": pattern})["channels"]
    if as_json:
        print(json.dumps({"nodes": nodes, "channels": channels}))
        return
    console = Console()
    table = Table("node", "version", "connections", "users", "subscriptions", "channels", "up", title="Nodes")
    for column in table.columns[2:]:
        column.justify = "right"
    stats = ("num_clients", "num_users", "num_subs", "num_channels")
    for node in nodes:
        table.add_row(node["name"], node["version"], *(str(node[name]) for name in stats), duration(node["uptime"]))
    console.print(table)
    busiest = sorted(channels.items(), key=lambda one: (-one[1]["num_clients"], one[0]))
    shown = Table("channel", "clients", title=f"Channels: {len(channels)}")
    shown.columns[1].justify = "right"
    for name, count in busiest[:limit]:
        shown.add_row(name, str(count["num_clients"]))
    console.print(shown)
    if len(busiest) > limit:
        console.print(f"and {len(busiest) - limit} more: see --limit and --channels")
