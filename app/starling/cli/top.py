"""`starling top`: the load of every node, and the busiest channels, refreshed."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from starling.cli.output import Column, Output, OutputOption, console, duration, table_lines, terminal_width
from starling.cli.service import KeyOption, ServiceAddress, UrlOption, until_interrupted

# Of counters, the difference between two looks, by the node's own clock.
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
    output: OutputOption = Output.table,
) -> None:
    """Show nodes, connections, rates, and the busiest channels, until Ctrl-C."""
    snapshots = _snapshots(ServiceAddress(url, key), FIRST_SECONDS if once else interval, limit)
    with until_interrupted():
        if output is Output.json or once or terminal_width() is None:
            for snapshot in snapshots:
                print(json.dumps(snapshot) if output is Output.json else "\n".join(_view(snapshot)), flush=True)
                if once:
                    return
        else:
            _show_live(snapshots)


def _show_live(snapshots: Iterator[Snapshot]) -> None:
    """Each snapshot in place of the one before, in the whole terminal."""
    from rich.live import Live
    from rich.text import Text

    with Live(console=console(), screen=True, auto_refresh=False) as live:
        for snapshot in snapshots:
            live.update(Text("\n".join(_view(snapshot)), no_wrap=True, overflow="crop"), refresh=True)


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
    snapshot = {"time": round(time.time(), 3), "nodes": nodes, "total": total}
    return {**snapshot, "channels": now["channels"], "missing": now["missing"]}


def _node(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    node = {name: value for name, value in now.items() if name not in RATES.values()}
    seconds = now["uptime"] - before["uptime"] if before is not None else 0.0
    for rate, counter in RATES.items():
        node[rate] = None
        if before is not None and seconds > 0:
            node[rate] = round((now[counter] - before[counter]) / seconds, 3)
    return node


def _view(snapshot: Snapshot) -> list[str]:
    """The lines that people see."""
    moment = time.strftime("%H:%M:%S", time.localtime(snapshot["time"]))
    lines = [f"Nodes: {len(snapshot['nodes'])}, {moment}", *_nodes(snapshot), ""]
    lines += ["Busiest channels", *_channels(snapshot)]
    if snapshot["missing"]:
        lines.append(f"No answer in time: {', '.join(snapshot['missing'])}")
    return lines


def _nodes(snapshot: Snapshot) -> list[str]:
    columns = [
        Column("NODE"),
        Column("STATE", drop=2),
        Column("CONN", right=True),
        Column("SUBS", drop=3, right=True),
        Column("IN/s", right=True),
        Column("OUT/s", right=True),
        Column("BYTES/s", drop=5, right=True),
        Column("PUB/s", drop=4, right=True),
        Column("CPU", right=True),
        Column("MEM", right=True),
        Column("LAG", drop=1, right=True),
        Column("UP", drop=6, right=True),
    ]
    rows = [(node["name"], _state(node), *_stats(node), duration(int(node["uptime"]))) for node in snapshot["nodes"]]
    if len(rows) > 1:
        rows.append(("all", "", *_stats(snapshot["total"]), ""))
    return table_lines(columns, rows, terminal_width())


def _state(node: Mapping[str, Any]) -> str:
    if node["draining"]:
        return "draining"
    return "ready" if node["ready"] else "unready"


def _stats(node: Mapping[str, Any]) -> list[str]:
    return [
        f"{node['connections']:,}",
        f"{node['subscriptions']:,}",
        _rate(node["received_per_second"]),
        _rate(node["sent_per_second"]),
        "-" if node["sent_bytes_per_second"] is None else _bytes(node["sent_bytes_per_second"]),
        _rate(node["publications_per_second"]),
        "-" if node["cores"] is None else f"{100 * node['cores']:.0f}%",
        _bytes(node["memory_bytes"]),
        f"{1000 * node['lag_seconds']:.1f}ms",
    ]


def _channels(snapshot: Snapshot) -> list[str]:
    columns = [
        Column("CHANNEL"),
        Column("SUBS", right=True),
        Column("MSG/s", right=True),
        Column("OUT/s", right=True),
        Column("BYTES/s", drop=1, right=True),
        Column("DROP/s", drop=2, right=True),
    ]
    rows = [
        (
            one["channel"],
            f"{one['subscribers']:,}",
            _rate(one["messages_per_second"]),
            _rate(one["deliveries_per_second"]),
            _bytes(one["bytes_per_second"]),
            _rate(one["dropped_per_second"]),
        )
        for one in snapshot["channels"]
    ]
    return table_lines(columns, rows, terminal_width())


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.1f}GB"
