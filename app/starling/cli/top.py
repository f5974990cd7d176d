"""`starling top`: what every node does, and the busiest channels, looked at again and again."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from starling.cli.service import JsonOption, KeyOption, ServiceAddress, UrlOption, duration

# Of what grows, the difference between two looks by the node's own clock is told.
RATES = {
    "received_per_second": "messages_in",
    "sent_per_second": "messages_out",
    "received_bytes_per_second": "bytes_in",
    "sent_bytes_per_second": "bytes_out",
    "publications_per_second": "publications",
    "cores": "cpu_seconds",
}
SUMMED = ("connections", "users", "subscriptions", *RATES, "memory_bytes")
FIRST_SECONDS = 1.0

Snapshot = dict[str, Any]


def top(
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 2.0,
    limit: Annotated[int, typer.Option(min=0, max=100, help="Channels shown, the busiest ones.")] = 10,
    once: Annotated[bool, typer.Option("--once", help="Look for a second, show it, and end.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show nodes, connections, rates, and the busiest channels, until Ctrl-C."""
    snapshots = _snapshots(ServiceAddress(url, key), FIRST_SECONDS if once else interval, limit)
    console = Console()
    try:
        if once or as_json or not console.is_terminal:
            for snapshot in snapshots:
                if as_json:
                    print(json.dumps(snapshot), flush=True)
                else:
                    console.print(_view(snapshot))
                if once:
                    return
        else:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                for snapshot in snapshots:
                    live.update(_view(snapshot), refresh=True)
    except KeyboardInterrupt:
        return


def _snapshots(service: ServiceAddress, interval: float, limit: int) -> Iterator[Snapshot]:
    """One after each interval, the first one soon."""
    before = service.call("top", {"limit": 0})
    time.sleep(min(interval, FIRST_SECONDS))
    while True:
        now = service.call("top", {"limit": limit})
        yield snapshot_of(before, now)
        before = now
        time.sleep(interval)


def snapshot_of(before: Mapping[str, Any], now: Mapping[str, Any]) -> Snapshot:
    """What two answers of the API's `top` say together; a node that was not there before has no rates yet (null)."""
    known = {node["uid"]: node for node in before["nodes"]}
    nodes = [_node(known.get(node["uid"]), node) for node in now["nodes"]]
    total = {name: sum(node[name] or 0 for node in nodes) for name in SUMMED}
    total["lag_seconds"] = max((node["lag_seconds"] for node in nodes), default=0.0)
    told = {"time": round(time.time(), 3), "nodes": nodes, "total": total}
    return {**told, "channels": now["channels"], "missing": now["missing"]}


def _node(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    node = {name: value for name, value in now.items() if name not in RATES.values()}
    seconds = now["uptime"] - before["uptime"] if before is not None else 0.0
    for rate, counter in RATES.items():
        node[rate] = None
        if before is not None and seconds > 0:
            node[rate] = round((now[counter] - before[counter]) / seconds, 3)
    return node


def _view(snapshot: Snapshot) -> Group:
    parts: list[Table | Text] = [_nodes(snapshot), _channels(snapshot)]
    if snapshot["missing"]:
        parts.append(Text(f"No answer in time: {', '.join(snapshot['missing'])}", style="yellow"))
    return Group(*parts)


def _nodes(snapshot: Snapshot) -> Table:
    nodes, total = snapshot["nodes"], snapshot["total"]
    table = Table(title=f"Nodes: {len(nodes)}, {time.strftime('%H:%M:%S', time.localtime(snapshot['time']))}")
    table.add_column("node")
    table.add_column("state")
    for column in ("connections", "subscriptions", "in/s", "out/s", "out", "published/s", "cpu", "memory", "lag", "up"):
        table.add_column(column, justify="right")
    for node in nodes:
        state, style = "draining" if node["draining"] else "ready" if node["ready"] else "not ready", ""
        if not node["ready"]:
            style = "yellow"
        table.add_row(node["name"], state, *_stats(node), duration(int(node["uptime"])), style=style)
    if len(nodes) > 1:
        table.add_row("all", "", *_stats(total), "", style="bold")
    return table


def _stats(node: Mapping[str, Any]) -> list[str]:
    return [
        f"{node['connections']:,}",
        f"{node['subscriptions']:,}",
        _rate(node["received_per_second"]),
        _rate(node["sent_per_second"]),
        "-" if node["sent_bytes_per_second"] is None else f"{_bytes(node['sent_bytes_per_second'])}/s",
        _rate(node["publications_per_second"]),
        "-" if node["cores"] is None else f"{100 * node['cores']:.0f} %",
        _bytes(node["memory_bytes"]),
        f"{1000 * node['lag_seconds']:.1f} ms",
    ]


def _channels(snapshot: Snapshot) -> Table:
    table = Table("channel", title="Busiest channels")
    for column in ("subscribers", "messages/s", "deliveries/s", "bytes", "dropped/s"):
        table.add_column(column, justify="right")
    for one in snapshot["channels"]:
        rates = [_rate(one[f"{name}_per_second"]) for name in ("messages", "deliveries")]
        sent = f"{_bytes(one['bytes_per_second'])}/s"
        table.add_row(Text(one["channel"]), f"{one['subscribers']:,}", *rates, sent, _rate(one["dropped_per_second"]))
    return table


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
