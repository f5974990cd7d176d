"""Every file, or part of a file, that is made from the application or from another file."""

from pathlib import Path

from tools.dashboards.dashboard import dashboard_file
from tools.dashboards.internals import internals
from tools.dashboards.overview import overview
from tools.docs.alerts_table import alerts_table
from tools.docs.asyncapi import asyncapi_file
from tools.docs.capacity_tables import capacity_tables
from tools.docs.chart_files import chart_file, schema_file, values_file
from tools.docs.dashboards_page import dashboards_page
from tools.docs.marked import replace_marked
from tools.docs.settings_page import settings_page
from tools.docs.values_table import values_tables

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "starling"
RULES = CHART / "rules" / "starling.yaml"


def written_files() -> dict[Path, str]:
    """What each such file should hold now."""
    rules = RULES.read_text()
    values = values_file((CHART / "values.yaml").read_text())
    return {
        ROOT / "docs" / "asyncapi.json": asyncapi_file(),
        ROOT / "docs" / "settings.md": settings_page(),
        ROOT / "docs" / "dashboards.md": dashboards_page([overview(), internals()]),
        ROOT / "docs" / "alerts.md": _marked(ROOT / "docs" / "alerts.md", "alerts", alerts_table(rules)),
        ROOT / "docs" / "capacity.md": _marked(ROOT / "docs" / "capacity.md", "capacity", capacity_tables()),
        CHART / "values.yaml": values,
        CHART / "values.schema.json": schema_file((CHART / "values.schema.json").read_text(), rules),
        CHART / "Chart.yaml": chart_file((CHART / "Chart.yaml").read_text()),
        CHART / "README.md": _marked(CHART / "README.md", "values", values_tables(values)),
        CHART / "dashboards" / "overview.json": dashboard_file(overview()),
        CHART / "dashboards" / "internals.json": dashboard_file(internals()),
    }


def _marked(path: Path, name: str, part: str) -> str:
    return replace_marked(path.read_text(), name, part, comment="<!-- {} -->")
