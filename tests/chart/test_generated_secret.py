"""Secrets that the chart generates: kept in an upgrade, new at every rendering without a cluster, and only for a trial.

Helm reads the standing Secret back from the cluster. Here a few answers of a Kubernetes API stand in for one, since
rendering needs no more; tests/chart/test_cluster.py does the same with a real cluster where there is one.
"""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.cluster_api import cluster_with, path_of
from tests.chart.rendering import CHART, NAMESPACE, RELEASE, Objects, render_exactly

STANDING = "the secret of the first installation"
TRIAL: dict[str, Any] = {"secrets": {"tokenHmacSecret": {"existingSecret": ""}}}


def generated(objects: Objects) -> dict[str, str]:
    """What the generated Secret holds, in the clear."""
    data = objects.one("Secret")["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def secret(data: dict[str, str]) -> dict[str, Any]:
    coded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    metadata = {"name": RELEASE, "namespace": NAMESPACE}
    return {"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "data": coded}


def test_the_secret_that_stands_is_kept_and_what_it_lacks_is_generated(tmp_path: Path) -> None:
    standing = secret({"token-hmac-secret": STANDING})
    with cluster_with([standing], tmp_path) as api:
        held = generated(api.upgrade(TRIAL))
        assert path_of(standing) in api.asked
    assert held["token-hmac-secret"] == STANDING
    assert len(held["api-keys"]) == 64


def test_without_one_it_is_generated(tmp_path: Path) -> None:
    with cluster_with([], tmp_path) as api:
        held = generated(api.upgrade(TRIAL))
        assert f"/api/v1/namespaces/{NAMESPACE}/secrets/{RELEASE}" in api.asked
    assert sorted(held) == ["api-keys", "token-hmac-secret"]
    assert all(len(value) == 64 and value.isalnum() for value in held.values())


def test_it_outlives_the_release() -> None:
    assert render_exactly({}).one("Secret")["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_rendered_without_a_cluster_it_is_new_each_time_but_a_secret_of_the_users_is_not() -> None:
    """What Argo CD does at each sync: nothing may differ there, or every token in use would be void."""
    renderings = [render_exactly({"podAnnotations": {"sync": time}}) for time in ("1", "2")]
    assert generated(renderings[0]) != generated(renderings[1])
    production = yaml.safe_load((CHART / "production.yaml").read_text())
    first, second = ([str(one) for one in synced(production, time)] for time in ("1", "2"))
    assert first == second


def synced(values: dict[str, Any], time: str) -> list[dict[str, Any]]:
    """Every object of one of several equal renderings; `time` distinguishes them for Helm alone."""
    return [dict(document) for document in render_exactly(values, options=["--set", f"global.sync={time}"]).documents]


@pytest.mark.parametrize(
    "values",
    [
        {"secrets": {"tokenHmacSecret": {"existingSecret": "mine"}}},
        {"secrets": {"tokenHmacSecret": {"value": "x" * 32}}},
        {"settings": {"tokenJwksUrl": "https://issuer.example.com/keys"}},
        {"settings": {"tokenPublicKey": "-----BEGIN PUBLIC KEY-----"}},
        {"settings": {"dev": True}},
        {"extraEnvFrom": [{"secretRef": {"name": "everything"}}]},
        {"extraEnv": [{"name": "STARLING_TOKEN_HMAC_SECRET_FILE", "value": "/vault/hmac"}]},
        {"extraEnv": [{"name": "STARLING_TOKEN_JWKS_URL", "value": "https://issuer.example.com/keys"}]},
    ],
    ids=str,
)
def test_nothing_is_generated_where_something_else_checks_tokens(values: dict[str, Any]) -> None:
    objects = render_exactly(values)
    assert [secret for secret in objects.of("Secret") if secret["metadata"]["name"] == RELEASE] == []
    assert "STARLING_API_KEYS" not in objects.environment


def test_a_generated_secret_can_be_asked_for_one_by_one() -> None:
    mine = {"tokenHmacSecret": {"existingSecret": "mine"}, "apiKeys": {"generate": True}}
    assert list(generated(render_exactly({"secrets": mine}))) == ["api-keys"]
    closed = {"apiKeys": {"generate": False}}
    assert list(generated(render_exactly({"secrets": closed}))) == ["token-hmac-secret"]
