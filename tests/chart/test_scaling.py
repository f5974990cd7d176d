"""How many pods: replicas, the autoscaler and the disruption budget."""

from typing import Any

import pytest

from tests.chart.rendering import render

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


def test_the_autoscaler_owns_the_number_of_pods_but_for_the_first_installation() -> None:
    assert render(AUTOSCALED).one("Deployment")["spec"]["replicas"] == 3
    assert "replicas" not in render(AUTOSCALED, options=["--is-upgrade"]).one("Deployment")["spec"]
    unseeded = {**AUTOSCALED, "autoscaling": {**AUTOSCALED["autoscaling"], "seedReplicas": False}}
    assert "replicas" not in render(unseeded).one("Deployment")["spec"]
    assert render(options=["--is-upgrade"]).one("Deployment")["spec"]["replicas"] == 2


def test_the_budget_lets_one_pod_go_at_a_time() -> None:
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
