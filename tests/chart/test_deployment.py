"""The Deployment: times that fit into one another, how pods are replaced, and what runs in them."""

from typing import Any

import pytest

from starling.server.application import BEYOND_DRAIN_SECONDS
from starling.settings import load_settings
from tests.chart.rendering import RELEASE, render


def test_the_grace_is_computed_from_the_drain() -> None:
    assert render().pod["terminationGracePeriodSeconds"] == 60
    slower = render({"settings": {"drainDelaySeconds": 15.5, "drainSeconds": 120}})
    assert slower.pod["terminationGracePeriodSeconds"] == 171


@pytest.mark.parametrize(
    ("settings", "drain", "grace"),
    [
        ({}, 20, 60),
        ({"maxConnections": 10_000}, 20, 60),
        ({"maxConnections": 10_001}, 21, 61),
        ({"maxConnections": 10_000, "workers": 4}, 80, 120),
        ({"maxConnections": 10_000, "workers": 4, "drainRate": 300}, 134, 174),
        ({"maxConnections": 10_000, "drainRate": 0.5}, 3600, 3640),
        ({"maxConnections": 10_000, "workers": 4, "drainRate": 0}, 20, 60),
        ({"maxConnections": 10_000, "workers": 4, "drainSeconds": 30}, 30, 70),
        ({"drainRate": 1}, 20, 60),
    ],
)
def test_drain_and_grace_are_computed_from_what_a_pod_holds_and_the_rate(
    settings: dict[str, float], drain: int, grace: int
) -> None:
    objects = render({"settings": settings})

    assert objects.environment["STARLING_DRAIN_SECONDS"] == str(drain)
    assert objects.pod["terminationGracePeriodSeconds"] == grace
    if "drainSeconds" not in settings:
        names = ("STARLING_MAX_CONNECTIONS", "STARLING_WORKERS", "STARLING_DRAIN_RATE")
        reported = {name: objects.environment[name] for name in names if name in objects.environment}
        reported |= {"STARLING_DEV": "true", "STARLING_BROKER_URL": "redis://localhost"}
        assert load_settings(reported).drain_time == drain, "the application computes the same by itself"


def test_a_longer_grace_is_taken_as_given() -> None:
    assert render({"terminationGracePeriodSeconds": 300}).pod["terminationGracePeriodSeconds"] == 300


def test_the_grace_is_longer_than_the_server_takes_to_end() -> None:
    objects = render({"settings": {"drainDelaySeconds": 7, "drainSeconds": 33}})
    reported = objects.environment
    assert (reported["STARLING_DRAIN_DELAY_SECONDS"], reported["STARLING_DRAIN_SECONDS"]) == ("7", "33")
    assert objects.pod["terminationGracePeriodSeconds"] == 7 + 33 + BEYOND_DRAIN_SECONDS + 20


def test_a_rolling_update_takes_no_pod_before_it_has_brought_one() -> None:
    specification = render().one("Deployment")["spec"]
    assert specification["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    assert specification["minReadySeconds"] == 10


@pytest.mark.parametrize(("pods", "deadline"), [(2, 600), (20, 20 * (60 + 10) + 120)])
def test_the_progress_deadline_outlasts_a_rolling_update(pods: int, deadline: int) -> None:
    specification = render({"replicaCount": pods}).one("Deployment")["spec"]
    assert specification["progressDeadlineSeconds"] == deadline > pods * 60


def test_the_three_probes_ask_three_things_of_the_internal_port() -> None:
    container = render().container
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {
        "startupProbe": {"path": "/startupz", "port": "internal"},
        "livenessProbe": {"path": "/livez", "port": "internal"},
        "readinessProbe": {"path": "/readyz", "port": "internal"},
    }


def test_a_pod_that_hangs_does_not_get_the_grace_of_one_that_drains() -> None:
    assert render().container["livenessProbe"]["terminationGracePeriodSeconds"] == 10


def test_no_pod_waits_in_a_hook_before_sigterm() -> None:
    assert "lifecycle" not in render().container


def test_service_links_are_off_since_they_would_set_the_port() -> None:
    assert render().pod["enableServiceLinks"] is False


def test_the_server_gets_no_token_of_kubernetes() -> None:
    objects = render()
    assert objects.pod["automountServiceAccountToken"] is False
    assert objects.one("ServiceAccount")["automountServiceAccountToken"] is False


def test_what_the_server_writes_lies_in_memory_and_is_bounded() -> None:
    objects = render({"settings": {"runtimeDir": "/run/other"}})
    assert objects.pod["volumes"] == [
        {"name": "runtime", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "32Mi"}},
    ]
    assert {mount["name"]: mount["mountPath"] for mount in objects.container["volumeMounts"]} == {
        "runtime": "/run/other",
        "tmp": "/tmp",
    }
    assert objects.environment["STARLING_RUNTIME_DIR"] == "/run/other"


def test_pods_of_one_revision_spread_over_zones_and_nodes() -> None:
    for constraint in render().pod["topologySpreadConstraints"]:
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
        assert constraint["matchLabelKeys"] == ["pod-template-hash"]
        assert (
            constraint["labelSelector"]["matchLabels"] == render().one("Deployment")["spec"]["selector"]["matchLabels"]
        )
    keys = [constraint["topologyKey"] for constraint in render().pod["topologySpreadConstraints"]]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


def test_a_digest_wins_over_the_tag() -> None:
    digest = "sha256:" + "0" * 64
    assert render({"image": {"repository": "r/s", "tag": "9"}}).container["image"] == "r/s:9"
    assert render({"image": {"repository": "r/s", "tag": "9", "digest": digest}}).container["image"] == f"r/s@{digest}"


def test_selectors_never_hold_a_version() -> None:
    objects = render({"redis": {"enabled": False}})
    for deployment in objects.of("Deployment"):
        labels = deployment["spec"]["selector"]["matchLabels"]
        assert sorted(labels) == [f"app.kubernetes.io/{name}" for name in ("component", "instance", "name")]
        assert labels.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_a_change_of_channels_or_of_a_given_secret_restarts_the_pods() -> None:
    def template(values: dict[str, object]) -> object:
        return render(values).template

    before = template({"channels": {"default": {"history_size": 1, "history_ttl": 60}}})
    after = template({"channels": {"default": {"history_size": 2, "history_ttl": 60}}})
    assert before != after
    given = [
        template({"secrets": {"tokenHmacSecretPrevious": {"value": value}}}) for value in ("a" * 32, "b" * 32, "b" * 32)
    ]
    assert given[0] != given[1] == given[2]


def test_a_secret_that_is_generated_does_not_restart_the_pods_at_every_upgrade() -> None:
    generated = {"tokenHmacSecret": {"existingSecret": "", "generate": True}}
    rendered = [render({"secrets": generated, "replicaCount": pods}) for pods in (2, 3)]
    assert rendered[0].one("Secret") != rendered[1].one("Secret")
    assert rendered[0].template == rendered[1].template


PLACES: dict[str, Any] = {
    "nodeSelector": {"pool": "live"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "priorityClassName": "high",
    "runtimeClassName": "gvisor",
    "schedulerName": "packed",
    "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["redis"]}],
    "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
}


def test_every_pod_runs_where_the_values_say() -> None:
    node: dict[str, Any] = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    apart: dict[str, Any] = {"preferredDuringSchedulingIgnoredDuringExecution": []}
    values = {**PLACES, "affinity": {"nodeAffinity": node, "podAntiAffinity": apart}, "redis": {"enabled": True}}
    objects = render({**values, "secrets": {"brokerUrl": {"existingSecret": ""}}})
    test = objects.one("Pod", f"{RELEASE}-round-trip")["spec"]
    redis = objects.one("Deployment", f"{RELEASE}-redis")["spec"]["template"]["spec"]
    for pod in (objects.pod, test, redis):
        assert {name: pod[name] for name in PLACES} == PLACES
        assert pod["affinity"]["nodeAffinity"] == node
    assert "podAntiAffinity" in objects.pod["affinity"]
    assert "podAntiAffinity" not in test["affinity"], "a test must fit next to the server"


def test_common_annotations_reach_every_object_and_pod_and_labels_of_selectors_stay() -> None:
    owner = {"example.com/owner": "platform"}
    labels = {"app.kubernetes.io/component": "other", "team": "live"}
    values = {"commonAnnotations": owner, "commonLabels": labels, "podLabels": labels, "dashboards": {"enabled": True}}
    objects = render({**values, "deploymentAnnotations": {"reloader.stakater.com/auto": "true"}})
    for document in objects.documents:
        assert owner.items() <= document["metadata"]["annotations"].items(), document["kind"]
        assert document["metadata"]["labels"]["team"] == "live"
        assert document["metadata"]["labels"]["app.kubernetes.io/component"] != "other"
    assert owner.items() <= objects.template["metadata"]["annotations"].items()
    assert objects.one("Deployment")["metadata"]["annotations"]["reloader.stakater.com/auto"] == "true"


def test_everything_goes_to_another_namespace_where_one_is_given() -> None:
    objects = render({"namespaceOverride": "elsewhere", "serviceMonitor": {"enabled": True}})
    assert {document["metadata"]["namespace"] for document in objects.documents} == {"elsewhere"}
    assert objects.one("ServiceMonitor")["spec"]["namespaceSelector"] == {"matchNames": ["elsewhere"]}


def test_extra_objects_are_made_from_maps_and_from_text() -> None:
    text = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "{{ .Release.Name }}-text", labels: {}}\n'
    mapped = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Values.service.port }}-map"}}
    names = [found["metadata"]["name"] for found in render({"extraObjects": [text, mapped]}).of("ConfigMap")]
    assert sorted(names) == ["80-map", f"{RELEASE}-text"]


def test_seconds_of_a_pre_stop_hook_are_added_to_the_grace() -> None:
    hook = {"preStop": {"sleep": {"seconds": 10}}}
    objects = render({"lifecycle": hook})
    assert objects.container["lifecycle"] == hook
    assert objects.pod["terminationGracePeriodSeconds"] == 70
