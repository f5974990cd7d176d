"""What a release is made of: the chart that it packs, its notes, materials and provenance, and where it says no.

Pushing needs a registry and podman, so `make release` is run by hand and in the workflows: docs/releases.md says how.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from starling import __version__
from tests.chart.rendering import CHART, HELM, render_exactly
from tools.release.changelog import changes, release_notes
from tools.release.chart import Origin, released_chart
from tools.release.commands import buildable
from tools.release.provenance import provenance
from tools.release.sbom import LISTING, sbom

ROOT = Path(__file__).parents[1]
ORIGIN = Origin("https://git.example.com/starling", __version__)
DIGEST = "sha256:" + "1" * 64
CREATED = "2026-11-29T00:00:00+00:00"
CHANGELOG = """# Changelog

## [Unreleased]

### Added

- A thing
  on two lines.

### Fixed

- Another thing.

## [0.1.0] - 2026-01-01

- The first.
"""


@pytest.mark.processes
def test_the_released_chart_runs_the_released_image_and_links_to_the_project(tmp_path: Path) -> None:
    image = f"registry.example.com/team/starling@{DIGEST}"
    chart = released_chart(CHART, tmp_path, ORIGIN, image, [("added", "A thing: with a colon.")])
    assert render_exactly({}, chart=chart).container["image"] == image
    metadata = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert metadata["home"] == ORIGIN.project_url
    assert metadata["sources"] == [ORIGIN.project_url]
    assert (ROOT / metadata["icon"].removeprefix(f"{ORIGIN.project_url}/raw/v{__version__}/")).is_file()
    assert metadata["maintainers"]
    annotations = metadata["annotations"]
    assert yaml.safe_load(annotations["artifacthub.io/changes"]) == [
        {"kind": "added", "description": "A thing: with a colon."}
    ]
    assert yaml.safe_load(annotations["artifacthub.io/images"]) == [{"name": "starling", "image": image}]
    linted = subprocess.run([HELM, "lint", "--strict", str(chart)], capture_output=True, text=True, timeout=30)
    assert linted.returncode == 0, linted.stdout


def test_no_link_of_the_packed_readme_leads_out_of_the_chart(tmp_path: Path) -> None:
    chart = released_chart(CHART, tmp_path, ORIGIN, f"r/starling@{DIGEST}", [])
    readme = (chart / "README.md").read_text()
    assert "](../" not in readme
    assert f"]({ORIGIN.project_url}/blob/v{__version__}/docs/deploy-on-kubernetes.md)" in readme


def test_notes_are_the_version_s_part_of_the_changelog_else_what_is_unreleased() -> None:
    assert release_notes(CHANGELOG, "0.1.0") == "- The first.\n"
    unreleased = release_notes(CHANGELOG, "9.9.9")
    assert changes(unreleased) == [("added", "A thing on two lines."), ("fixed", "Another thing.")]
    with pytest.raises(ValueError, match=r"says nothing of 9\.9\.9"):
        release_notes("# Changelog\n", "9.9.9")
    assert release_notes((ROOT / "CHANGELOG.md").read_text(), __version__)


@pytest.mark.processes
def test_the_bill_of_materials_lists_what_an_environment_holds() -> None:
    listed = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, timeout=30, check=True)
    document = json.loads(sbom(listed.stdout, "starling", __version__, CREATED))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["serialNumber"].startswith("urn:uuid:")
    purls = [component["purl"] for component in document["components"]]
    assert len(set(purls)) == len(purls)
    assert any(purl.startswith("pkg:pypi/fastapi@") for purl in purls)
    assert any(purl.startswith("pkg:generic/python@3.") for purl in purls)
    assert document["metadata"]["component"]["name"] == "starling"


def test_equal_releases_have_equal_bills_of_materials() -> None:
    listing = json.dumps({"python": [["A_b", "1"]], "debian": [["libc6", "2+x", "amd64"]], "runtime": "3.14.0"})
    one, other = (sbom(listing, "starling", "1", CREATED) for _ in range(2))
    assert one == other
    purls = [component["purl"] for component in json.loads(one)["components"]]
    assert purls == ["pkg:deb/debian/libc6@2%2Bx?arch=amd64", "pkg:generic/python@3.14.0", "pkg:pypi/a-b@1"]


def test_the_provenance_names_what_was_built_from_which_commit_and_by_which() -> None:
    text = provenance(
        {"a.whl": "2" * 64},
        source=ORIGIN.project_url,
        revision="3" * 40,
        builder="https://builder.example.com",
        parameters={"VERSION": "1"},
        created=CREATED,
    )
    statement = json.loads(text)
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [{"name": "a.whl", "digest": {"sha256": "2" * 64}}]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["resolvedDependencies"] == [
        {"uri": f"git+{ORIGIN.project_url}", "digest": {"gitCommit": "3" * 40}}
    ]
    assert statement["predicate"]["runDetails"]["builder"] == {"id": "https://builder.example.com"}


def test_another_architecture_is_built_only_where_the_kernel_runs_it(tmp_path: Path) -> None:
    assert buildable("linux/amd64", "amd64", tmp_path)
    assert not buildable("linux/arm64", "amd64", tmp_path)
    (tmp_path / "qemu-aarch64").touch()
    assert buildable("linux/arm64", "amd64", tmp_path)


@pytest.mark.parametrize("path", [".github/workflows/release.yaml", ".github/workflows/test.yaml", ".gitlab-ci.yml"])
def test_workflows_call_the_targets_that_people_call(path: str) -> None:
    text = (ROOT / path).read_text()
    assert yaml.safe_load(text)
    targets = {word for line in text.splitlines() if "make " in line for word in line.partition("make ")[2].split()[:1]}
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets), targets
