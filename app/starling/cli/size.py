"""`starling size`: how many pods a load takes, and what each of them and Redis need."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starling.cli.output import Output, OutputOption, print_heading
from starling.cli.service import EXIT_REFUSED, EXIT_USAGE, fail

if TYPE_CHECKING:
    from starling.cli.capacity import Plan


def size(
    connections: Annotated[int, typer.Option(min=1, help="Clients at one time.")],
    rate: Annotated[float, typer.Option(min=0, help="Publications a second, over all channels.")],
    channels: Annotated[int, typer.Option(min=1, help="Channels at one time.")],
    subscribers: Annotated[
        float | None, typer.Option(min=0, help="Subscribers of a channel. Default: each client is in one channel.")
    ] = None,
    message_bytes: Annotated[int, typer.Option(min=0, help="Payload of a publication.")] = 200,
    history: Annotated[int, typer.Option(min=0, help="history_size of the channels; 0: no history.")] = 0,
    connects: Annotated[float, typer.Option(min=0, help="Clients that connect in a second, as usual.")] = 0.0,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Workers of a pod, one CPU each.")] = 1,
    tls: Annotated[bool, typer.Option("--tls", help="Include what TLS costs the proxy.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Estimate what a load needs: pods, memory, CPUs, Redis, the drain, and the chart's values.

    See docs/capacity.md for what this is computed from, and measure your own load before you rely on it.
    """
    each = connections / channels if subscribers is None else subscribers
    if each > connections:
        fail(f"--subscribers: {each:g} of a channel are more than --connections {connections}", EXIT_USAGE)
    # The defaults of settings come with Pydantic, which takes time to load.
    from starling.cli.capacity import Load, TooLargeError, plan

    try:
        found = plan(Load(connections, rate, channels, message_bytes, each, history, tls, connects), workers)
    except TooLargeError as error:
        fail(f"too large: {error}", EXIT_REFUSED)
    if output is Output.json:
        print(json.dumps(_as_json(found)))
        return
    import yaml

    print_heading(f"{connections:,} connections, {found.load.deliveries:,.0f} deliveries a second")
    rows = _rows(found)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    for warning in found.warnings():
        print(f"Warning: {warning}", file=sys.stderr)
    print(f"\n# values of the chart\n{yaml.safe_dump(found.values(), sort_keys=False)}", end="")


def _as_json(found: "Plan") -> dict[str, Any]:
    from starling.cli.capacity import proxy_tls_cores

    return {
        "pods": found.pods,
        "pod": asdict(found.pod),
        "redis": asdict(found.redis),
        "proxy_tls_cores": proxy_tls_cores(found.load),
        "deliveries_per_second": found.load.deliveries,
        "drain_seconds": found.drain_seconds,
        "grace_seconds": found.grace_seconds,
        "values": found.values(),
        "warnings": found.warnings(),
    }


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _rows(found: "Plan") -> list[tuple[str, str]]:
    from starling.cli.capacity import proxy_tls_cores

    pod, redis = found.pod, found.redis
    rows = [
        ("pods", f"{found.pods}, each with {_counted(found.workers, 'worker')}"),
        ("a pod", f"{pod.connections:,.0f} connections, {pod.cores:.2f} CPUs, {pod.memory_bytes / 1e6:.0f} MB"),
        ("Redis", f"{redis.cores:.2f} CPUs, {redis.memory_bytes / 1e6:.0f} MB"),
        ("drain", f"{found.drain_seconds} s for a full pod, grace {found.grace_seconds} s"),
    ]
    if found.load.tls:
        rows.append(("TLS at the proxy", f"{proxy_tls_cores(found.load):.2f} CPUs"))
    return rows
