"""Builds dashboards for Grafana 11 or newer: what all panels share is defined here, once."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

WIDTH = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Every query is bound to what the variables choose; a label that is not there fits `.*`.
CHOSEN = 'cluster=~"$cluster",namespace=~"$namespace",job=~"$job",pod=~"$pod"'


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and the legend of its series (`{{label}}` is filled in)."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A panel of `width` of 24 columns. `unit` is Grafana's: short, ops, s, bytes, Bps, percentunit."""

    title: str
    meaning: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    maximum: float | None = None

    @property
    def picture(self) -> str:
        """The name of its picture: the title in small letters and dashes."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower().replace("%", "percent")).strip("-") + ".png"


@dataclass(frozen=True)
class Number(Panel):
    """One large number. `words` replaces a value by a word and a colour; `by_name` shows legends instead of values."""

    width: int = 3
    words: dict[str, tuple[str, str]] = field(default_factory=dict)
    by_name: bool = False


@dataclass(frozen=True)
class Row:
    """Panels under one title; a folded row asks nothing of Prometheus until it is opened."""

    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; `uid` is its address in Grafana and never changes."""

    uid: str
    title: str
    meaning: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> list[Panel]:
        """The panels of all rows."""
        return [panel for row in self.rows for panel in row.panels]


def dashboard_file(dashboard: Dashboard) -> str:
    """The dashboard as Grafana reads it."""
    return json.dumps(_dashboard(dashboard), indent=2) + "\n"


def _dashboard(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "id": None,
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.meaning,
        "tags": ["starling"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "title": "Starling", "tags": ["starling"], "asDropdown": True}],
        "annotations": {"list": _annotations()},
        "templating": {"list": list(_variables())},
        "panels": list(_positioned(dashboard.rows)),
    }


def _annotations() -> list[dict[str, Any]]:
    build = f"starling_build_info{{{CHOSEN}}}"
    return [
        _annotation(
            "New versions",
            "blue",
            f"count by (version) ({build}) unless count by (version) ({build} offset 5m)",
            "Version {{version}} started",
        ),
        _annotation(
            "Alerts",
            "red",
            'ALERTS{alertname=~"Starling.+",alertstate="firing",namespace=~"$namespace",job=~"$job"}',
            "{{alertname}} {{pod}}",
        ),
    ]


def _annotation(name: str, color: str, expression: str, title: str) -> dict[str, Any]:
    return {
        "name": name,
        "enable": True,
        "iconColor": color,
        "datasource": DATASOURCE,
        "expr": expression,
        "step": "60s",
        "titleFormat": title,
        "useValueForTime": False,
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}
    before = ""
    for name, label in (("cluster", "Cluster"), ("namespace", "Namespace"), ("job", "Job"), ("pod", "Pod")):
        query = f"label_values(starling_build_info{{{before}}}, {name})"
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": DATASOURCE,
            "definition": query,
            "query": {"qryType": 1, "query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }
        before = f'{before}{"," if before else ""}{name}=~"${name}"'
    quantiles = ["0.5", "0.9", "0.99", "0.999"]
    yield {
        "name": "quantile",
        "label": "Quantile",
        "type": "custom",
        "query": ",".join(quantiles),
        "options": [{"text": each, "value": each, "selected": each == "0.99"} for each in quantiles],
        "current": {"text": "0.99", "value": "0.99"},
    }


def _positioned(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """The panels with their positions and numbers, row by row."""
    number, y = 1, 0
    for row in rows:
        line = {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": row.folded,
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
            "panels": [],
        }
        number, y, x, height = number + 1, y + 1, 0, 0
        panels = []
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            height = 4 if isinstance(panel, Number) else 8
            panels.append(_panel(panel, number, {"h": height, "w": panel.width, "x": x, "y": y}))
            number, x = number + 1, x + panel.width
        y += height
        if row.folded:
            line["panels"] = panels
            yield line
        else:
            yield line
            yield from panels


def _panel(panel: Panel, number: int, grid: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "stat" if isinstance(panel, Number) else "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": DATASOURCE,
        "gridPos": grid,
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": True,
            }
            for position, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _number_options(panel) if isinstance(panel, Number) else _GRAPH_OPTIONS,
    }


_GRAPH_OPTIONS = {
    "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
    "tooltip": {"mode": "multi", "sort": "desc"},
}


def _number_options(panel: Number) -> dict[str, Any]:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value" if panel.words else "none",
        "graphMode": "none" if panel.words or panel.by_name else "area",
        "textMode": "name" if panel.by_name else "auto",
        "justifyMode": "auto",
        "orientation": "auto",
    }


def _field(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if isinstance(panel, Number):
        words = {value: {"text": text, "color": color} for value, (text, color) in panel.words.items()}
        defaults["mappings"] = [{"type": "value", "options": words}] if words else []
    else:
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 10,
            "showPoints": "never",
            "spanNulls": False,
        }
    return defaults
