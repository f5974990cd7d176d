"""Pictures of a run: how the cost of a delivery grows with the receivers, and how the servers compare."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.results import Results, Series
from tests.bench.scenarios import CONNECTS, KIB, P50, P99, RATE, Scale, fan_out_case
from tests.bench.servers import SERVERS

OWN = "#0b6e4f"
OTHER = "#9aa5b1"
LIMIT = "#c9a227"
LINES = ("starling", "starling-redis", "tutorial", "broadcaster", "ws", "socketio", "nchan", "c-single")


def draw(results: Results, scale: Scale, into: Path) -> list[str]:
    """Draw what the run has numbers for; returns the names of the pictures."""
    into.mkdir(parents=True, exist_ok=True)
    for old in into.glob("*.png"):
        old.unlink()
    drawn = []
    if "fanout" in results.scenarios():
        drawn.append(_save(_growth(results, scale), into, "growth"))
    for name, scenario, case, measure, title in (
        ("fan-out", "fanout", fan_out_case(1_000, 128), RATE, "Fan-out to 1,000 x 128 B: deliveries per CPU-second"),
        (
            "burst",
            "burst",
            f"{scale.receivers:,}, 16 in flight",
            RATE,
            "16 messages in flight: deliveries per CPU-second",
        ),
        ("memory", "memory", f"{scale.idle:,} connections", KIB, "Memory of an idle connection, KiB"),
        ("connects", "connects", f"{scale.idle:,} connections", CONNECTS, "New connections per CPU-second"),
        (
            "latency",
            "latency",
            fan_out_case(scale.receivers, 128),
            P99,
            "Latency at half load, p99 (p50 as a line), ms",
        ),
    ):
        bars = [
            (server, results.median(Series(scenario, server, case, measure))) for server in results.servers(scenario)
        ]
        known = [(server, value) for server, value in bars if value is not None]
        if known:
            marks = [results.median(Series(scenario, server, case, P50)) for server, _ in known]
            drawn.append(_save(_bars(known, marks, title), into, name))
    return drawn


def _growth(results: Results, scale: Scale) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for server in LINES:
        points = []
        for receivers in scale.counts:
            rate = results.median(Series("fanout", server, fan_out_case(receivers, scale.sizes[0]), RATE))
            if rate:
                points.append((receivers, 1e6 / rate))
        if points:
            style = {"linewidth": 2.5, "color": OWN} if server == "starling" else {"linewidth": 1.3}
            axes.plot(*zip(*points, strict=True), marker="o", label=SERVERS[server].title, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(scale.counts, [f"{n:,}" for n in scale.counts])
    axes.minorticks_off()
    ticks = (5, 10, 20, 50, 100)
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("receivers")
    axes.set_title(f"CPU time for one delivery of {scale.sizes[0]} B, µs", loc="left")
    _clean(axes)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _bars(bars: Sequence[tuple[str, float]], marks: Sequence[float | None], title: str) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 0.34 * len(bars) + 1))
    for row, ((server, value), mark) in enumerate(zip(bars, marks, strict=True)):
        colour = OWN if server.startswith("starling") else LIMIT if server.startswith("c-") else OTHER
        axes.barh(row, value, color=colour)
        label = f" {value:,.0f}" if value >= 100 else f" {value:.1f}"
        axes.text(value, row, label, va="center", fontsize=8)
        if mark is not None:
            axes.plot([mark, mark], [row - 0.4, row + 0.4], color="black", linewidth=1.5)
    axes.set_yticks(range(len(bars)), [SERVERS[server].title for server, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_title(title, loc="left")
    _clean(axes)
    return figure


def _clean(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: Figure, into: Path, name: str) -> str:
    figure.tight_layout()
    figure.savefig(into / f"{name}.png", dpi=110)
    plt.close(figure)
    return name
