"""Every pod of the chart fits the Pod Security Standard "restricted" (checked against its published rules)."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.chart.rendering import RELEASE, Objects, render, render_exactly, value_files

ALLOWED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def pods_of(objects: Objects) -> Iterator[Mapping[str, Any]]:
    yield from (pod["spec"] for pod in objects.of("Pod"))
    yield from (deployment["spec"]["template"]["spec"] for deployment in objects.of("Deployment"))


def own_containers(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Those of the chart, not those that a user added."""
    yield from (
        container for container in pod["containers"] if container["name"] in {"starling", "redis", "round-trip"}
    )


@pytest.mark.parametrize("values", value_files(), ids=lambda path: path.name)
def test_pods_are_restricted(values: Any) -> None:
    for pod in pods_of(render_exactly(yaml.safe_load(values.read_text()))):
        assert not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["automountServiceAccountToken"] is False
        assert "sysctls" not in pod["securityContext"]
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= ALLOWED_VOLUMES
        for container in own_containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not any("hostPort" in port for port in container.get("ports", ()))


@pytest.mark.parametrize("values", value_files(), ids=lambda path: path.name)
def test_every_container_has_a_memory_limit_and_asks_for_what_it_needs(values: Any) -> None:
    for pod in pods_of(render_exactly(yaml.safe_load(values.read_text()))):
        for container in own_containers(pod):
            assert container["resources"]["limits"]["memory"]
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}


@pytest.mark.parametrize("values", value_files(), ids=lambda path: path.name)
def test_every_volume_in_memory_is_bounded(values: Any) -> None:
    for pod in pods_of(render_exactly(yaml.safe_load(values.read_text()))):
        for volume in pod["volumes"]:
            if "emptyDir" in volume and volume["name"] != "more":
                assert volume["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize("values", value_files(), ids=lambda path: path.name)
def test_every_object_has_its_labels_and_namespace(values: Any) -> None:
    for document in render_exactly(yaml.safe_load(values.read_text())).documents:
        metadata = document["metadata"]
        assert metadata["namespace"] == "live"
        assert metadata["labels"]["app.kubernetes.io/instance"] == RELEASE
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "starling"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert len(metadata["name"]) <= 63


def test_no_role_is_asked_for() -> None:
    kinds = {name.split()[0] for name in render().names}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


def test_two_long_names_that_differ_at_their_end_stay_apart() -> None:
    names = {
        render({"fullnameOverride": "a" * 55 + end}).of("Deployment")[0]["metadata"]["name"] for end in ("-one", "-two")
    }
    assert len(names) == 2


def test_a_release_with_a_dot_in_its_name_has_names_that_a_service_may_have() -> None:
    objects = render({"fullnameOverride": "a.b"})
    assert {service["metadata"]["name"] for service in objects.of("Service")} == {"a-b", "a-b-internal"}


def test_long_names_stay_within_what_kubernetes_allows() -> None:
    objects = render({"fullnameOverride": "a" * 50 + "-and-more", "dashboards": {"enabled": True}})
    assert max(len(document["metadata"]["name"]) for document in objects.documents) <= 63
