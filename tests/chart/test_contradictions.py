"""Values that contradict one another, or that are no values, are refused with words that name the remedy."""

from typing import Any

import pytest

from tests.chart.rendering import RefusedError, merged, render, render_exactly

AUTOSCALED = {"autoscaling": {"enabled": True, "targetConnections": 100}}
OWN_TOKEN: dict[str, Any] = {"secrets": {"tokenHmacSecret": {"existingSecret": "tokens"}}}
OWN_BROKER: dict[str, Any] = {"secrets": {"brokerUrl": {"existingSecret": "broker"}}}

CONTRADICTIONS = [
    ({"terminationGracePeriodSeconds": 59}, "terminationGracePeriodSeconds is 59, but .* need 60"),
    ({"settings": {"drainSeconds": 100}, "terminationGracePeriodSeconds": 60}, "need 140"),
    ({"settings": {"maxConnections": 50000}, "terminationGracePeriodSeconds": 60}, "need 140"),
    ({"settings": {"drainDelaySeconds": 5.2}, "terminationGracePeriodSeconds": 60}, "need 61"),
    ({"replicaCount": 10, "progressDeadlineSeconds": 700}, "progressDeadlineSeconds is 700, .* may take 700 seconds"),
    ({"replicaCount": 1, "minReadySeconds": 900, "progressDeadlineSeconds": 900}, "progressDeadlineSeconds"),
    (merged(AUTOSCALED, {"progressDeadlineSeconds": 600}), "progressDeadlineSeconds is 600"),
    ({"rollingUpdate": {"maxSurge": 0}}, "maxSurge and rollingUpdate.maxUnavailable are both 0"),
    ({"rollingUpdate": {"maxSurge": "0%"}}, "maxSurge and rollingUpdate.maxUnavailable are both 0"),
    ({"settings": {"internalPort": 8000}}, "settings.port and settings.internalPort are both 8000"),
    ({"podDisruptionBudget": {"minAvailable": 1}}, "minAvailable and .maxUnavailable are both set"),
    ({"podDisruptionBudget": {"maxUnavailable": None}}, "podDisruptionBudget needs minAvailable or maxUnavailable"),
    (merged(AUTOSCALED, {"autoscaling": {"minReplicas": 11}}), "minReplicas is more than autoscaling.maxReplicas"),
    ({"autoscaling": {"enabled": True}}, "settings.maxConnections .*, or autoscaling.targetConnections"),
    ({"redis": {"enabled": True}}, "redis.enabled and secrets.brokerUrl are both set"),
    ({"secrets": {"tokenHmacSecret": {"value": "x" * 32}}}, "secrets.tokenHmacSecret: set only one"),
    ({"secrets": {"tokenHmacSecret": {"generate": True}}}, "secrets.tokenHmacSecret: set only one"),
    ({"settings": {"dev": True, "tokenJwksUrl": "https://issuer"}}, "settings.dev lets everyone in"),
    ({"brokerCa": {"existingSecret": "ca"}, "settings": {"brokerCaFile": "/ca"}}, "brokerCa.existingSecret and"),
    (
        {"brokerClientCert": {"existingSecret": "client"}, "settings": {"brokerKeyFile": "/key"}},
        "brokerClientCert.existingSecret and",
    ),
    ({"channels": {"default": {}}, "settings": {"channelsFile": "/c"}}, "channels and settings.channelsFile"),
    ({"tracing": {"enabled": True, "endpoint": "http://c"}, "settings": {"tracing": True}}, "unset settings.tracing"),
    ({"tracing": {"enabled": True}}, "tracing.enabled without tracing.endpoint"),
    (merged(AUTOSCALED, {"keda": {"enabled": True, "serverAddress": "http://p"}}), "would fight over the number"),
    ({"keda": {"enabled": True}, "autoscaling": {"targetConnections": 9}}, "keda.enabled without keda.serverAddress"),
    ({"keda": {"enabled": True, "serverAddress": "http://p"}}, "settings.maxConnections .*, or autoscaling.targetCo"),
    ({"extraEnv": [{"name": "TZ", "value": "UTC"}, {"name": "TZ", "value": "CET"}]}, "extraEnv has TZ twice"),
    ({"certificate": {"enabled": True, "dnsNames": ["a.example.com"]}}, "certificate.enabled without .*issuerRef.name"),
    ({"certificate": {"enabled": True, "issuerRef": {"name": "i"}}}, "certificate.enabled without a name to certify"),
    (
        {"lifecycle": {"preStop": {"sleep": {"seconds": 10}}}, "terminationGracePeriodSeconds": 69},
        "terminationGracePeriodSeconds is 69, but .* need 70",
    ),
    ({"ingress": {"enabled": True}}, "ingress.enabled without ingress.hosts"),
    ({"httpRoute": {"enabled": True}}, "httpRoute.enabled without httpRoute.parentRefs"),
    ({"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}, "scraped twice"),
]


@pytest.mark.parametrize(("values", "words"), CONTRADICTIONS, ids=[words for _, words in CONTRADICTIONS])
def test_a_contradiction_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        render(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            merged(OWN_BROKER, {"secrets": {"tokenHmacSecret": {"generate": False}}}),
            "no key to check tokens with: set secrets.tokenHmacSecret.existingSecret",
        ),
        (
            merged(OWN_TOKEN, {"replicaCount": 2}),
            "2 pods, but no broker joins them: set secrets.brokerUrl.existingSecret",
        ),
        (
            merged(OWN_TOKEN, {"replicaCount": 2, "secrets": {"brokerUrl": {"value": "memory://"}}}),
            "2 pods, but no broker",
        ),
        (merged(OWN_TOKEN, {"replicaCount": 1, "settings": {"workers": 2}}), "settings.workers is 2, but no broker"),
        (merged(OWN_TOKEN, {"replicaCount": 1, **AUTOSCALED}), "10 pods, but no broker joins them"),
    ],
)
def test_what_is_missing_is_named_with_how_to_set_it(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        render_exactly(values)


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    keyless = {"secrets": {"tokenHmacSecret": {"generate": False}}}
    with pytest.raises(RefusedError) as refused:
        render_exactly({"terminationGracePeriodSeconds": 1, "replicaCount": 2, **keyless})
    message = str(refused.value)
    assert all(words in message for words in ("terminationGracePeriodSeconds is 1", "no key", "no broker"))


@pytest.mark.parametrize(
    "values",
    [
        merged(OWN_TOKEN, {"replicaCount": 1}),
        merged(OWN_TOKEN, {"extraEnv": [{"name": "STARLING_BROKER_URL_FILE", "value": "/vault/broker"}]}),
        merged(OWN_BROKER, {"extraEnv": [{"name": "STARLING_TOKEN_HMAC_SECRET_FILE", "value": "/vault/hmac"}]}),
        {"extraEnvFrom": [{"secretRef": {"name": "everything"}}]},
        merged(OWN_BROKER, {"settings": {"tokenPublicKey": "-----BEGIN PUBLIC KEY-----"}}),
    ],
)
def test_what_may_come_from_elsewhere_is_not_missing(values: dict[str, Any]) -> None:
    assert render_exactly(values).of("Deployment")


SLIPS = [
    ({"replicas": 3}, "replicas"),
    ({"settings": {"drainSecs": 3}}, "drainSecs"),
    ({"settings": {"drainSeconds": "20"}}, "drainSeconds"),
    ({"settings": {"drainSeconds": -1}}, "drainSeconds"),
    ({"settings": {"port": 70000}}, "port"),
    ({"settings": {"port": None}}, "port"),
    ({"settings": {"logLevel": "loud"}}, "logLevel"),
    ({"settings": {"tokenHmacSecret": "in the open"}}, "tokenHmacSecret"),
    ({"settings": {"brokerUrl": "redis://:password@redis"}}, "brokerUrl"),
    ({"replicaCount": -1}, "replicaCount"),
    ({"image": {"digest": "sha256:short"}}, "digest"),
    ({"autoscaling": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 3601}}}}, "stabilizationWindowSeconds"),
    ({"prometheusRule": {"alerts": {"StarlingBrokerDwon": {"enabled": False}}}}, "StarlingBrokerDwon"),
    ({"prometheusRule": {"alerts": {"StarlingAbsent": {"threshold": 1}}}}, "threshold"),
    ({"rollingUpdate": {"maxSurge": "many"}}, "maxSurge"),
    ({"channels": {"defaults": {}}}, "defaults"),
    ({"channels": {"default": {"presense": True}}}, "presense"),
    ({"channels": {"namespaces": {"chat": {"history_ttl": "5 minutes"}}}}, "history_ttl"),
    ({"service": {"type": "ExternalName"}}, "type"),
    ({"service": {"trafficDistribution": "Near"}}, "trafficDistribution"),
    ({"service": {"clusterIP": "none"}}, "clusterIP"),
    ({"service": {"ipFamilies": ["IPv5"]}}, "ipFamilies"),
    ({"resources": {"limits": {"memory": "512MB"}}}, "memory"),
    ({"resources": {"request": {"cpu": 1}}}, "request"),
    ({"test": {"resources": {"requests": {"cpu": "1 core"}}}}, "cpu"),
    ({"podDisruptionBudget": {"maxUnavailable": "101%"}}, "maxUnavailable"),
    ({"ingress": {"hosts": [{"host": "*.*"}]}}, "host"),
    ({"ingress": {"hosts": [{"host": "Live.example.com"}]}}, "host"),
    ({"httpRoute": {"hostnames": ["https://live.example.com"]}}, "hostnames"),
    ({"namespaceOverride": "My.Namespace"}, "namespaceOverride"),
]


@pytest.mark.parametrize(("values", "name"), SLIPS, ids=[str(values) for values, _ in SLIPS])
def test_the_schema_refuses_a_typo(values: dict[str, Any], name: str) -> None:
    with pytest.raises(RefusedError, match="values don't meet the specifications of the schema") as refused:
        render(values)
    assert name in str(refused.value)


def test_a_chart_that_holds_this_one_may_pass_what_helm_passes() -> None:
    assert render({"global": {"imageRegistry": "r", "deep": {"x": 1}}, "enabled": True}).of("Deployment")
