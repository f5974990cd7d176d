"""Files made from others say what those say today, and every link and value that the chart's pages name exists."""

import re
from pathlib import Path

import pytest
import yaml

from starling import __version__
from tools.dashboards.internals import internals
from tools.dashboards.overview import overview
from tools.docs.marked import replace_marked
from tools.docs.values_table import values_of
from tools.docs.written import CHART, ROOT, written_files

LINK = re.compile(r"\]\((?!https?://)([^)#]+)(#[^)]*)?\)")
PAGES = [
    ROOT / "docs" / "deploy-on-kubernetes.md",
    ROOT / "docs" / "settings.md",
    ROOT / "docs" / "alerts.md",
    ROOT / "docs" / "capacity.md",
    ROOT / "docs" / "dashboards.md",
    CHART / "README.md",
    *sorted((ROOT / "docs" / "runbooks").glob("*.md")),
]


@pytest.mark.parametrize(
    ("path", "text"), written_files().items(), ids=lambda one: one.name if isinstance(one, Path) else ""
)
def test_a_made_file_is_current(path: Path, text: str) -> None:
    assert path.read_text() == text, f"{path.relative_to(ROOT)} is out of date: run `make docs`"


def test_the_chart_has_the_application_s_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_every_value_has_a_meaning() -> None:
    values = (CHART / "values.yaml").read_text()
    assert len(values_of(values)) > 100
    with pytest.raises(ValueError, match="other has no comment"):
        values_of("# -- Known.\nknown: 1\nother: 2\n")


def test_a_part_is_replaced_between_its_marks_only() -> None:
    text = "before\n# BEGIN x\nold\n# END x\nafter\n"
    assert replace_marked(text, "x", "new\n", comment="# {}") == "before\n# BEGIN x\nnew\n# END x\nafter\n"
    with pytest.raises(ValueError, match="once each"):
        replace_marked(text, "y", "new", comment="# {}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [target for target, _ in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert broken == []


def test_every_panel_has_its_picture_and_every_picture_its_panel() -> None:
    pictures = {path.name for path in (ROOT / "docs" / "pictures").glob("*.png")}
    assert pictures == {panel.picture for panel in (*overview().panels, *internals().panels)}, (
        "run `make dashboard-preview`"
    )


def test_every_value_that_a_page_names_exists() -> None:
    known = {value.path for value in values_of((CHART / "values.yaml").read_text())}
    groups = {path.split(".")[0] for path in known if "." in path}
    named = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(r"`((?:[a-z][A-Za-z]+\.)+[a-zA-Z]+)(?:=[^`]*)?`", page.read_text())
        if name.split(".")[0] in groups
    }
    unknown = [
        (page, name)
        for page, name in named
        if name not in known and not any(path.startswith(name + ".") for path in known)
    ]
    assert named
    assert unknown == []
