"""What the chart renders is valid: for Helm's linter, for each version of Kubernetes, and for custom resources."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.chart.rendering import CHART, HELM, render_exactly, value_files

CRDS = Path(__file__).parent / "crds"
CUSTOM = ("Certificate", "HTTPRoute", "PodMonitor", "PrometheusRule", "ScaledObject", "ServiceMonitor")
FAMILIES = {"Certificate": "cert-manager", "HTTPRoute": "gateway-api", "ScaledObject": "keda"}
OLDEST = 30
NEWEST = int(kubernetes_validate.latest_version().split(".")[1])


def rendered(path: Path) -> list[Mapping[str, Any]]:
    return list(render_exactly(yaml.safe_load(path.read_text())).documents)


@pytest.mark.parametrize("values", [None, *value_files()], ids=lambda path: path.name if path else "defaults")
def test_helm_s_linter_finds_nothing(values: Path | None) -> None:
    command = [HELM, "lint", "--strict", str(CHART), *(["--values", str(values)] if values else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def test_the_oldest_version_is_the_one_the_chart_asks_for() -> None:
    asked = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert asked == f">=1.{OLDEST}.0-0"


@pytest.mark.parametrize("values", value_files(), ids=lambda path: path.name)
@pytest.mark.parametrize(
    "version",
    [
        f"1.{OLDEST}",
        *(pytest.param(f"1.{minor}", marks=pytest.mark.long) for minor in range(OLDEST + 1, NEWEST)),
        f"1.{NEWEST}",
    ],
)
def test_objects_fit_the_schemas_of_kubernetes(values: Path, version: str) -> None:
    for document in rendered(values):
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(dict(document), version, strict=True)


def test_the_schemas_would_notice() -> None:
    (deployment,) = [each for each in rendered(CHART / "ci" / "one-pod-values.yaml") if each["kind"] == "Deployment"]
    broken = json.loads(json.dumps(deployment))
    broken["spec"]["template"]["spec"]["terminationGrace"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.31", strict=True)


def custom_resources() -> Iterator[Mapping[str, Any]]:
    for path in value_files():
        yield from (document for document in rendered(path) if document["kind"] in CUSTOM)


def require_node() -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed, so custom resources cannot be checked; on Debian: apt-get install nodejs")
    if not (CRDS / "node_modules").is_dir():
        pytest.skip("the schemas of custom resources are not installed; run: npm ci --prefix tests/chart/crds")


def wrong_values(resources: list[Mapping[str, Any]]) -> list[str]:
    """What is wrong with each resource's values, by the validators of its definition."""
    done = subprocess.run(
        ["node", CRDS / "validate.js"],
        input=json.dumps(resources),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    answer: list[str] = json.loads(done.stdout)
    return answer


def wrong_fields(resources: list[Mapping[str, Any]], directory: Path) -> str:
    """What TypeScript says of fields that a resource's definition does not have."""
    lines = []
    for position, resource in enumerate(resources):
        family = FAMILIES.get(resource["kind"], "prometheus-operator")
        kind = f"@kubernetes-models/{family}/{resource['apiVersion']}/{resource['kind']}"
        lines.append(f'import type {{ I{resource["kind"]} as Kind{position} }} from "{kind}";')
        lines.append(f"export const resource{position}: Kind{position} = {json.dumps(resource)};")
    (directory / "resources.ts").write_text("\n".join(lines))
    (directory / "package.json").write_text('{"type": "module"}')
    (directory / "node_modules").symlink_to(CRDS / "node_modules")
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"]
    done = subprocess.run(
        ["node_modules/.bin/tsc", *options, "resources.ts"], cwd=directory, capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


def test_custom_resources_fit_their_definitions(tmp_path: Path) -> None:
    require_node()
    resources = list(custom_resources())
    assert {resource["kind"] for resource in resources} == set(CUSTOM)
    assert wrong_values(resources) == [""] * len(resources)
    assert wrong_fields(resources, tmp_path) == ""


def test_the_definitions_would_notice(tmp_path: Path) -> None:
    require_node()
    rule = {"alert": "A", "expr": "up", "exprr": "up"}
    monitor = {"selector": {}, "endpoints": [{"interval": 15}]}
    broken: list[Mapping[str, Any]] = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "x"},
            "spec": {"groups": [{"name": "g", "rules": [rule]}]},
        },
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": {"name": "x"},
            "spec": monitor,
        },
    ]
    assert "'\"exprr\"' does not exist in type 'IRule'" in wrong_fields(broken, tmp_path)
    assert "interval must be string" in wrong_values(broken)[1]
