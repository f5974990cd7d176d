"""How many pods: replicas, the autoscaler and the disruption budget."""

import re
from typing import Any

import pytest

from tests.chart.exposition import exposed_names, names_in
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, render

AUTOSCALED: dict[str, Any] = {
    "autoscaling": {"enabled": True, "minReplicas": 3},
    "settings": {"maxConnections": 10000, "workers": 2},
}


def test_the_autoscaler_aims_at_seventy_percent_of_what_a_pod_holds() -> None:
    (metric,) = render(AUTOSCALED).one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric == {
        "type": "Pods",
        "pods": {
            "metric": {"name": "starling_connections"},
            "target": {"type": "AverageValue", "averageValue": "14000"},
        },
    }


def test_the_aim_can_be_given() -> None:
    values = {"autoscaling": {"enabled": True, "targetConnections": 5000}}
    (metric,) = render(values).one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["target"]["averageValue"] == "5000"


def test_pods_come_at_once_and_go_slowly() -> None:
    behavior = render(AUTOSCALED).one("HorizontalPodAutoscaler")["spec"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behavior["scaleDown"] == {
        "stabilizationWindowSeconds": 1800,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
    }


def test_keda_follows_the_release_s_connections_within_the_same_bounds() -> None:
    keda = {
        "enabled": True,
        "serverAddress": "http://prometheus:9090",
        "fallback": {"failureThreshold": 3, "replicas": 6},
    }
    objects = render({**AUTOSCALED, "autoscaling": {"minReplicas": 3, "maxReplicas": 7}, "keda": keda})
    specification = objects.one("ScaledObject")["spec"]
    assert specification["scaleTargetRef"] == {"name": RELEASE}
    assert (specification["minReplicaCount"], specification["maxReplicaCount"]) == (3, 7)
    assert specification["fallback"] == {"failureThreshold": 3, "replicas": 6}
    behavior = specification["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == render(AUTOSCALED).one("HorizontalPodAutoscaler")["spec"]["behavior"]
    (trigger,) = specification["triggers"]
    assert trigger["metadata"] == {
        "serverAddress": "http://prometheus:9090",
        "query": f'sum(starling_connections{{job="{RELEASE}",namespace="{NAMESPACE}"}})',
        "threshold": "14000",
    }
    assert names_in(trigger["metadata"]["query"]) <= exposed_names()
    assert objects.of("HorizontalPodAutoscaler") == []
    assert objects.of("PodDisruptionBudget"), "three pods at least"


def test_the_rule_for_an_adapter_asks_for_the_metric_that_the_autoscaler_reads() -> None:
    page = (CHART / "README.md").read_text()
    (rule,) = re.findall(r"seriesQuery: (\w+)", page)
    (metric,) = render(AUTOSCALED).one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert rule == metric["pods"]["metric"]["name"]
    assert rule in exposed_names()


def test_the_budget_removes_one_pod_at_a_time() -> None:
    budget = render().one("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_budget_can_name_what_must_stay() -> None:
    values = {"podDisruptionBudget": {"maxUnavailable": None, "minAvailable": 2}}
    budget = render(values).one("PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] == 2
    assert "maxUnavailable" not in budget


@pytest.mark.parametrize(
    ("values", "made"),
    [
        ({"replicaCount": 1}, False),
        ({"replicaCount": 2}, True),
        ({"replicaCount": 1, **AUTOSCALED}, True),
        ({"replicaCount": 5, "autoscaling": {"enabled": True, "minReplicas": 1, "targetConnections": 9}}, False),
        ({"replicaCount": 2, "podDisruptionBudget": {"enabled": False}}, False),
    ],
)
def test_a_budget_is_made_only_where_it_cannot_block_a_node(values: dict[str, Any], made: bool) -> None:
    assert bool(render(values).of("PodDisruptionBudget")) is made
