"""docs/dashboards.md: what each panel of a dashboard tells, with its picture."""

from collections.abc import Sequence

from tools.dashboards.dashboard import Dashboard, Figure, Panel

_INTRODUCTION = """\
# Dashboards

<!-- Made by `make docs` from tools/dashboards/: change it there. -->

For Grafana 11 or newer. With the chart's `dashboards.enabled=true` a ConfigMap carries them to Grafana's sidecar;
without it, import the files of [helm/starling/dashboards](../helm/starling/dashboards) by hand. Variables choose the
data source, cluster, namespace, job and pods. Targets need a label `pod`: the Prometheus operator gives it, elsewhere
it takes a line of relabeling.

The pictures are drawn by `make dashboard-preview`: two pods of two workers each under a small load, Redis away for six
seconds.
"""


def dashboards_page(dashboards: Sequence[Dashboard]) -> str:
    """The page's text."""
    parts = [_INTRODUCTION]
    for dashboard in dashboards:
        parts.append(f"## {dashboard.title}\n\n{dashboard.meaning}\n")
        for row in dashboard.rows:
            parts.append(f"### {row.title}\n\n| | |\n|---|---|")
            parts += [_line(panel) for panel in row.panels]
            parts.append("")
    return "\n".join(parts)


def _line(panel: Panel) -> str:
    width = 120 if isinstance(panel, Figure) else 400
    return f'| **{panel.title}**<br>{panel.meaning} | <img src="pictures/{panel.picture}" width="{width}" alt=""> |'
