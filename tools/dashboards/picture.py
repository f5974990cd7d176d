"""Draws a panel as Grafana would show it, close enough to review it."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.figure
import matplotlib.ticker
from PIL import Image

from tools.dashboards.dashboard import Number, Panel

DOTS_PER_INCH = 80
GRAPH_INCHES = (6.0, 2.4)
NUMBER_INCHES = (1.8, 1.2)
COLORS = 32

Line = tuple[str, Sequence[float], Sequence[float]]
"""Legend, times in seconds since 1970, values."""


def draw(panel: Panel, lines: Sequence[Line], path: Path) -> None:
    """Write the panel's picture to `path`."""
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        if isinstance(panel, Number):
            _draw_number(panel, lines).savefig(path, dpi=DOTS_PER_INCH)
        else:
            _draw_graph(panel, lines).savefig(path, dpi=DOTS_PER_INCH)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLORS).save(path, optimize=True)


def with_unit(value: float, unit: str) -> str:
    """A value as a person reads it, by Grafana's names of units."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    if unit in {"bytes", "Bps"}:
        power = min(3, int(math.log(abs(value), 1024))) if abs(value) >= 1 else 0
        return f"{value / 1024**power:.3g} {('', 'Ki', 'Mi', 'Gi')[power]}B" + ("/s" if unit == "Bps" else "")
    thousands = abs(value) >= 1000 and unit != "s"
    shown = f"{value / 1000:.3g} K" if thousands else f"{value:.3g}"
    return shown + {"s": " s", "ops": "/s"}.get(unit, "")


def _draw_graph(panel: Panel, lines: Sequence[Line]) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=GRAPH_INCHES, layout="constrained")
    axes = figure.add_subplot()
    began = min(times[0] for _, times, _ in lines)
    for legend, times, values in lines:
        axes.plot([at - began for at in times], values, linewidth=1, label=legend)
    axes.set_title(panel.title, loc="left", fontsize=9, fontweight="bold")
    axes.set_ylim(0, panel.maximum and panel.maximum * 1.05)
    if axes.get_ylim()[1] <= 0:
        axes.set_ylim(0, 1)
    axes.grid(visible=True, linewidth=0.3)
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: with_unit(value, panel.unit)))
    axes.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(15))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda at, _: f"{at:.0f} s"))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=7)
    return figure


def _draw_number(panel: Number, lines: Sequence[Line]) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=NUMBER_INCHES)
    legend, _, values = lines[0]
    text, color = panel.words.get(f"{values[-1]:g}", (with_unit(values[-1], panel.unit), "black"))
    figure.text(0.5, 0.85, panel.title, ha="center", fontsize=8)
    figure.text(0.5, 0.35, legend if panel.by_name else text, ha="center", fontsize=17, color=color)
    return figure
