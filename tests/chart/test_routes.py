"""Where clients and Prometheus come in: Services, Ingress, HTTPRoute, NetworkPolicy, and the application's routes."""

import urllib.request
from typing import Any

import pytest

from starling.settings import Settings
from tests.chart.rendering import RELEASE, render
from tests.support.running import Starling

HTTP_ROUTE = {"enabled": True, "parentRefs": [{"name": "public"}]}


def test_public_and_internal_are_services_apart() -> None:
    objects = render()
    public, internal = objects.one("Service"), objects.one("Service", f"{RELEASE}-internal")
    assert [port["targetPort"] for port in public["spec"]["ports"]] == ["public"]
    assert [port["targetPort"] for port in internal["spec"]["ports"]] == ["internal"]
    assert internal["spec"]["type"] == "ClusterIP"
    assert internal["spec"]["publishNotReadyAddresses"] is True


def test_ports_are_those_of_the_application() -> None:
    ports = {port["name"]: port["containerPort"] for port in render().container["ports"]}
    assert ports == {
        "public": Settings.model_fields["port"].default,
        "internal": Settings.model_fields["internal_port"].default,
    }


def test_a_change_of_port_reaches_the_container_and_the_application() -> None:
    objects = render({"settings": {"port": 8123, "internalPort": 9123}})
    assert {port["name"]: port["containerPort"] for port in objects.container["ports"]} == {
        "public": 8123,
        "internal": 9123,
    }
    assert objects.environment["STARLING_PORT"] == "8123"
    assert objects.environment["STARLING_INTERNAL_PORT"] == "9123"


def test_probes_and_scrapes_ask_for_what_the_internal_port_has() -> None:
    objects = render({"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": False}})
    (endpoint,) = objects.one("ServiceMonitor")["spec"]["endpoints"]
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    asked = [objects.container[probe]["httpGet"]["path"] for probe in probes] + [endpoint["path"]]
    assert len(set(asked)) == 4
    with Starling() as starling:
        for path in asked:
            with urllib.request.urlopen(f"{starling.internal}{path}", timeout=5) as answer:
                assert answer.status == 200
        assert starling.get(f"{starling.internal}/elsewhere")[0] == 404
        assert starling.get(f"{starling.http}/metrics")[0] == 404


def test_services_select_the_server_s_pods_and_no_others() -> None:
    objects = render()
    server = objects.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    test = objects.one("Pod", f"{RELEASE}-round-trip")["metadata"]["labels"]
    for service in objects.of("Service"):
        assert service["spec"]["selector"].items() <= server.items()
        assert not service["spec"]["selector"].items() <= test.items()


def test_an_ingress_points_to_the_public_service_only() -> None:
    values = {"ingress": {"enabled": True, "hosts": [{"host": "a"}, {"host": "b", "paths": [{"path": "/ws"}]}]}}
    rules = render(values).one("Ingress")["spec"]["rules"]
    paths = [(rule["host"], path["path"], path["pathType"]) for rule in rules for path in rule["http"]["paths"]]
    assert paths == [("a", "/", "Prefix"), ("b", "/ws", "Prefix")]
    backends = [path["backend"]["service"] for rule in rules for path in rule["http"]["paths"]]
    assert backends == [{"name": RELEASE, "port": {"name": "public"}}] * 2


def test_a_route_points_to_the_public_service_only_and_names_no_timeouts() -> None:
    objects = render({"httpRoute": HTTP_ROUTE, "service": {"port": 8080}})
    (rule,) = objects.one("HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": RELEASE, "port": 8080}]
    assert "timeouts" not in rule


def test_rules_of_a_route_lead_to_the_public_service_unless_they_say_otherwise() -> None:
    redirect = {"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "a"}}]}
    elsewhere = {"backendRefs": [{"name": "other", "port": 1}]}
    rules: list[dict[str, Any]] = [{"timeouts": {"request": "0s"}}, redirect, elsewhere]
    rendered = render({"httpRoute": {**HTTP_ROUTE, "rules": rules}}).one("HTTPRoute")["spec"]["rules"]
    assert rendered == [{**rules[0], "backendRefs": [{"name": RELEASE, "port": 80}]}, redirect, elsewhere]


def test_a_certificate_is_for_all_hosts_and_the_ingress_uses_it() -> None:
    objects = render(
        {
            "certificate": {"enabled": True, "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}},
            "ingress": {"enabled": True, "hosts": [{"host": "a.example.com"}]},
            "httpRoute": {**HTTP_ROUTE, "hostnames": ["b.example.com"]},
        }
    )
    specification = objects.one("Certificate")["spec"]
    assert specification["dnsNames"] == ["a.example.com", "b.example.com"]
    assert specification["issuerRef"] == {"name": "letsencrypt", "kind": "ClusterIssuer"}
    (tls,) = objects.one("Ingress")["spec"]["tls"]
    assert tls == {"secretName": specification["secretName"], "hosts": specification["dnsNames"]}


def test_the_public_service_takes_what_a_cluster_s_network_is_tuned_by() -> None:
    values = {
        "trafficDistribution": "PreferClose",
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv6", "IPv4"],
        "clusterIP": "None",
        "labels": {"example.com/a": "b"},
    }
    objects = render({"service": values})
    service = objects.one("Service")
    assert {name: service["spec"][name] for name in values if name != "labels"} == {
        name: value for name, value in values.items() if name != "labels"
    }
    assert service["metadata"]["labels"]["example.com/a"] == "b"
    internal = objects.one("Service", f"{RELEASE}-internal")["spec"]
    assert internal["ipFamilyPolicy"] == "PreferDualStack"
    assert "clusterIP" not in internal


def test_no_route_is_open_by_default() -> None:
    objects = render()
    assert objects.of("Ingress") + objects.of("HTTPRoute") + objects.of("Certificate") == []
    assert {service["spec"]["type"] for service in objects.of("Service")} == {"ClusterIP"}


def policy(values: dict[str, Any] | None = None) -> dict[str, Any]:
    objects = render({"networkPolicy": {"enabled": True, **(values or {})}})
    specification: dict[str, Any] = objects.one("NetworkPolicy")["spec"]
    return specification


def test_the_policy_closes_the_internal_port_to_all_but_monitoring() -> None:
    rules = {rule["ports"][0]["port"]: rule.get("from") for rule in policy()["ingress"]}
    assert rules["public"] is None
    assert rules["internal"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_the_policy_lets_the_test_in_where_the_public_port_is_closed() -> None:
    values: dict[str, Any] = {"publicFrom": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}
    objects = render({"networkPolicy": {"enabled": True, **values}})
    rule = next(
        rule for rule in objects.one("NetworkPolicy")["spec"]["ingress"] if rule["ports"][0]["port"] == "public"
    )
    gateway, test = rule["from"]
    assert gateway == values["publicFrom"][0]
    labels = objects.one("Pod", f"{RELEASE}-round-trip")["metadata"]["labels"]
    assert test["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_policy_lets_out_to_names_and_to_the_broker_only() -> None:
    out = [(port["port"], port["protocol"]) for rule in policy()["egress"] for port in rule["ports"]]
    assert out == [(53, "UDP"), (53, "TCP"), (6379, "TCP")]


@pytest.mark.parametrize(
    "values",
    [
        {"settings": {"tokenJwksUrl": "https://issuer/keys"}},
        {"secrets": {"webhookUrl": {"value": "https://backend/hooks"}}},
        {"secrets": {"webhookUrl": {"existingSecret": "mine"}}},
        {"secrets": {"proxyConnect": {"value": "https://backend/connect"}}},
        {"secrets": {"proxyRpc": {"existingSecret": "mine"}}},
    ],
)
def test_the_policy_lets_the_issuer_s_keys_be_fetched_and_webhooks_out(values: Any) -> None:
    objects = render({"networkPolicy": {"enabled": True}, **values})
    out = [port["port"] for rule in objects.one("NetworkPolicy")["spec"]["egress"] for port in rule["ports"]]
    assert 443 in out


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("http://collector:4318", 4318), ("https://collector/otlp", 443), ("http://collector", 80), ("http://[::1]:5", 5)],
)
def test_the_policy_lets_spans_out_to_the_collector(endpoint: str, port: int) -> None:
    objects = render({"networkPolicy": {"enabled": True}, "tracing": {"enabled": True, "endpoint": endpoint}})
    out = [port["port"] for rule in objects.one("NetworkPolicy")["spec"]["egress"] for port in rule["ports"]]
    assert out == [53, 53, 6379, port]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_redis_for_trying_out_is_reached_by_the_server_only(enabled: bool) -> None:
    objects = render(
        {
            "networkPolicy": {"enabled": enabled},
            "redis": {"enabled": True},
            "secrets": {"brokerUrl": {"existingSecret": ""}},
        }
    )
    policies = [found for found in objects.of("NetworkPolicy") if found["metadata"]["name"].endswith("-redis")]
    assert len(policies) == int(enabled)
    if enabled:
        (rule,) = policies[0]["spec"]["ingress"]
        server = objects.one("Deployment")["spec"]["template"]["metadata"]["labels"]
        assert rule["from"][0]["podSelector"]["matchLabels"].items() <= server.items()
