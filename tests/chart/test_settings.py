"""Chart and application agree on every setting, in both directions, and secrets stay in Secrets."""

import base64
import json
import typing
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from starling.engine.append_options import AppendStreamOptions
from starling.engine.channels import ChannelOptions
from starling.engine.channels_document import parse_channels
from starling.settings import DECLARATIONS, Settings, load_settings
from starling.web.options import PROXY_EVENTS
from tests.chart.rendering import (
    CHART,
    NAMESPACE,
    RELEASE,
    channels_file,
    environment_of,
    render,
    render_exactly,
    value_files,
)

# Settings whose value a test chooses so that they fit together; each differs from the application's own default.
CHOSEN: dict[str, Any] = {
    "host": "127.0.0.1",
    "api_docs": True,
    "internal_host": "127.0.0.2",
    "port": 8001,
    "internal_port": 9091,
    "workers": 3,
    "runtime_dir": "/run/elsewhere",
    "broker_url": "redis://:word@redis:6379/1",
    "token_hmac_secret": "a test's own secret of more than 32 bytes",
    "token_hmac_secret_previous": "another secret of more than thirty-two bytes",
    "log_level": "debug",
    "log_format": "console",
    "max_message_bytes": 1048576,
    "write_buffer_bytes": 16777216,
    "allowed_origins": ["https://a.example.com", "https://*.b.example.com"],
    "trusted_proxies": ["10.0.0.0/8"],
    "api_keys": "a test's own key for the API,another one of its keys",
    "api_allowed_networks": ["192.0.2.0/24", "2001:db8::1"],
    "console_password": "a test's own password of operators",
    "console_read_password": "a test's own password of readers",
    "webhook_url": "https://backend.example.com/webhooks",
    "webhook_secret": "a test's own secret of thirty or more bytes",
    "webhook_events": ["connect", "disconnect"],
    **{f"proxy_{event}": f"https://backend.example.com/{event}" for event in PROXY_EVENTS},
    "proxy_headers": ["authorization", "x-shop"],
    "proxy_client_headers": ["x-device-token"],
    "proxy_cookies": ["sessionid"],
    "max_memory_share": 0.75,
    "waiting_memory_share": 0.3,
    "ping_seconds": 30,
    "pong_seconds": 9,
    "drain_seconds": 21,
    # With a JWKS address developer mode is refused, so this one keeps its default.
    "dev": False,
}


NO_BROKER = {"secrets": {"brokerUrl": {"existingSecret": ""}}}
TRACED = {"tracing": {"enabled": True, "endpoint": "http://collector.monitoring:4318"}}


def camel_case(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(word.title() for word in rest)


def is_secret(field: str) -> bool:
    def parts(annotation: Any) -> set[Any]:
        return {annotation}.union(*(parts(part) for part in typing.get_args(annotation)))

    return SecretStr in parts(Settings.model_fields[field].annotation)


SECRETS = [field for field in DECLARATIONS if is_secret(field)]
OPEN = [field for field in DECLARATIONS if not is_secret(field)]


def other_than_default(field: str) -> Any:
    """A value of the right kind that is not the default."""
    if field in CHOSEN:
        return CHOSEN[field]
    default = Settings.model_fields[field].default
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1
    if isinstance(default, tuple):
        return "one,two" if field in SECRETS else ["one", "two"]
    return f"{default}-x" if default else "given"


def test_every_setting_can_be_set_from_the_chart_and_arrives_as_it_was_meant() -> None:
    wanted = {field: other_than_default(field) for field in Settings.model_fields}
    values = {
        "settings": {camel_case(field): wanted[field] for field in OPEN},
        "secrets": {camel_case(field): {"value": wanted[field]} for field in SECRETS},
    }
    settings = load_settings(environment_of(render_exactly(values)))
    for field, value in wanted.items():
        assert as_given(getattr(settings, field), value) == value, field


def as_given(arrived: Any, given: Any) -> Any:
    """A setting that arrived, as it would have been given."""
    if isinstance(arrived, SecretStr):
        return arrived.get_secret_value()
    if isinstance(arrived, tuple):
        parts = [as_given(part, "") for part in arrived]
        return parts if isinstance(given, list) else ",".join(parts)
    return type(given)(arrived)


@pytest.mark.parametrize("values", value_files(), ids=lambda path: path.name)
def test_every_variable_the_chart_sets_is_a_setting(values: Any) -> None:
    objects = render_exactly(yaml.safe_load(values.read_text()))
    own = {name for name in objects.environment if name.startswith("STARLING_")}
    assert own
    assert own <= {f"STARLING_{field.upper()}" for field in Settings.model_fields}


def test_the_values_offer_every_setting_and_nothing_else() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert list(values["settings"]) == [camel_case(field) for field in OPEN]
    assert list(values["secrets"]) == [camel_case(field) for field in SECRETS]


def test_what_the_values_say_themselves_is_the_application_s_default_or_the_chart_s_own() -> None:
    said = {
        field: value
        for field in OPEN
        if (value := yaml.safe_load((CHART / "values.yaml").read_text())["settings"][camel_case(field)]) is not None
    }
    own = {"internal_host": "0.0.0.0", "workers": 1, "runtime_dir": "/run/starling", "log_format": "json"}
    assert {field: said.pop(field) for field in own} == own
    assert said == {field: Settings.model_fields[field].default for field in said}


def test_a_setting_that_is_null_is_left_to_the_application() -> None:
    assert "STARLING_PING_SECONDS" not in render().environment
    assert render({"settings": {"pingSeconds": 20}}).environment["STARLING_PING_SECONDS"] == "20"


@pytest.mark.parametrize("field", SECRETS)
def test_a_secret_is_read_from_a_secret_of_the_users(field: str) -> None:
    values = {"secrets": {camel_case(field): {"existingSecret": "mine", "key": "here"}}}
    assert render(values).environment[f"STARLING_{field.upper()}"] == {"name": "mine", "key": "here"}


@pytest.mark.parametrize("field", SECRETS)
def test_a_secret_that_is_given_stands_in_the_secret_and_nowhere_else(field: str) -> None:
    word = "never-to-be-seen-elsewhere-" + "x" * 32
    value = f"redis://:{word}@redis" if field == "broker_url" else word
    objects = render({"secrets": {camel_case(field): {"existingSecret": "", "value": value}}})
    holders = [document["kind"] for document in objects.documents if word in json.dumps(document)]
    assert holders == []
    reference = objects.environment[f"STARLING_{field.upper()}"]
    assert reference["name"] == f"{RELEASE}-values"
    assert reference["key"].startswith(field.replace("_", "-") + ".")
    secret = objects.one("Secret", reference["name"])
    assert base64.b64decode(secret["data"][reference["key"]]).decode() == value
    assert "helm.sh/resource-policy" not in secret["metadata"]["annotations"], "it goes with the release"


def test_without_secrets_of_its_own_the_chart_makes_none() -> None:
    assert render().of("Secret") == []


def test_channels_become_a_file_that_the_server_reads() -> None:
    objects = render({"channels": {"namespaces": {"chat": {"presence": True}}}})
    (mount,) = [mount for mount in objects.container["volumeMounts"] if mount["name"] == "channels"]
    assert parse_channels(yaml.safe_load(channels_file(objects)), developer=False).namespaces["chat"].presence
    assert objects.environment["STARLING_CHANNELS_FILE"] == f"{mount['mountPath']}/channels.yaml"
    assert "STARLING_CHANNELS_FILE" not in render().environment


def test_every_option_of_a_channel_can_be_set_from_the_chart() -> None:
    defaults = {name: field.default for name, field in ChannelOptions.model_fields.items()}
    streams = {name: defaults.pop(name) for name in AppendStreamOptions.model_fields} | {
        "stream": "text",
        "stream_ttl": "7d",
        "append_window": "50ms",
        "producer_timeout": "1m",
    }
    options = {**defaults, "history_size": 100_000, "history_ttl": "1000000s", "history_meta_ttl": "365d"}
    objects = render({"channels": {"default": options, "namespaces": {"chat": options, "answers": streams}}})
    document = yaml.safe_load(channels_file(objects))
    channels = parse_channels(document, developer=False)
    assert channels.default == ChannelOptions(**options)
    assert channels.namespaces["answers"] == ChannelOptions(**streams)


def test_the_channels_of_the_chart_s_own_values_are_good() -> None:
    values = yaml.safe_load((CHART / "ci" / "production-values.yaml").read_text())
    assert parse_channels(values["channels"], developer=False).namespaces.keys() == {"chat"}


def test_the_broker_s_certificates_are_mounted_where_the_setting_says() -> None:
    objects = render({"brokerCa": {"existingSecret": "authority", "key": "root.pem"}})
    (mount,) = [mount for mount in objects.container["volumeMounts"] if mount["name"] == "broker-ca"]
    (volume,) = [volume for volume in objects.pod["volumes"] if volume["name"] == "broker-ca"]
    assert volume["secret"] == {"secretName": "authority"}
    assert objects.environment["STARLING_BROKER_CA_FILE"] == f"{mount['mountPath']}/root.pem"


def test_the_certificate_shown_to_the_broker_is_mounted_where_the_settings_say() -> None:
    objects = render({"brokerClientCert": {"existingSecret": "client"}})
    (mount,) = [mount for mount in objects.container["volumeMounts"] if mount["name"] == "broker-client-cert"]
    (volume,) = [volume for volume in objects.pod["volumes"] if volume["name"] == "broker-client-cert"]
    assert volume["secret"] == {"secretName": "client"}
    assert objects.environment["STARLING_BROKER_CERT_FILE"] == f"{mount['mountPath']}/tls.crt"
    assert objects.environment["STARLING_BROKER_KEY_FILE"] == f"{mount['mountPath']}/tls.key"
    assert "STARLING_BROKER_CERT_FILE" not in render().environment


def test_the_redis_for_trying_out_is_the_broker() -> None:
    objects = render_exactly(yaml.safe_load((CHART / "ci" / "try-out-values.yaml").read_text()))
    service = objects.one("Service", f"{RELEASE}-redis")
    assert objects.environment["STARLING_BROKER_URL"] == f"redis://{service['metadata']['name']}:6379/0"
    assert service["metadata"]["namespace"] == NAMESPACE
    labels = objects.one("Deployment", f"{RELEASE}-redis")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_redis_is_off_by_default() -> None:
    assert [name for name in render().names if "redis" in name] == []


def test_tracing_is_turned_on_with_what_the_sdk_reads_itself() -> None:
    values = {"enabled": True, "endpoint": "http://collector.monitoring:4318", "sampleRatio": 0.25}
    more = {"OTEL_BSP_SCHEDULE_DELAY": 1000, "OTEL_SERVICE_NAME": "birds"}
    objects = render({"tracing": {**values, "env": more}})
    reported = {name: value for name, value in objects.environment.items() if name.startswith("OTEL_")}
    assert reported == {
        "OTEL_BSP_SCHEDULE_DELAY": "1000",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.monitoring:4318",
        "OTEL_RESOURCE_ATTRIBUTES": f"k8s.namespace.name={NAMESPACE},k8s.deployment.name={RELEASE},"
        "k8s.pod.name=$(POD_NAME)",
        "OTEL_SERVICE_NAME": "birds",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
    }
    assert load_settings({"STARLING_TRACING": objects.environment["STARLING_TRACING"], "STARLING_DEV": "1"}).tracing
    names = [variable["name"] for variable in objects.container["env"]]
    # Kubernetes fills in only what stands before.
    assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")
    assert not any(name.startswith("OTEL_") for name in render().environment)


@pytest.mark.parametrize(
    ("values", "variable", "value"),
    [
        ({}, {"name": "STARLING_LOG_FORMAT", "value": "console"}, "console"),
        ({"redis": {"enabled": True}, **NO_BROKER}, {"name": "STARLING_BROKER_URL", "value": "redis://a"}, "redis://a"),
        ({}, {"name": "STARLING_BROKER_URL", "value": "redis://b"}, "redis://b"),
        (TRACED, {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://other"}, "http://other"),
        (TRACED, {"name": "POD_NAME", "value": "fixed"}, "fixed"),
    ],
    ids=lambda part: part.get("name") if isinstance(part, dict) else None,
)
def test_a_variable_of_extra_env_replaces_the_chart_s_own(
    values: dict[str, Any], variable: dict[str, str], value: str
) -> None:
    """A name twice would be refused by a server-side apply, which Helm 4 and Argo CD do."""
    objects = render({**values, "extraEnv": [variable, {"name": "TZ", "value": "UTC"}]})
    names = [each["name"] for each in objects.container["env"]]
    assert len(set(names)) == len(names)
    assert objects.environment[variable["name"]] == value
    assert names[-1] == "TZ"
    if "POD_NAME" in names:
        assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")


def test_a_file_of_extra_env_replaces_the_setting_itself() -> None:
    """The application refuses a setting that comes by both ways."""
    objects = render({"extraEnv": [{"name": "STARLING_BROKER_URL_FILE", "value": "/vault/broker"}]})
    assert "STARLING_BROKER_URL" not in objects.environment
    assert objects.environment["STARLING_BROKER_URL_FILE"] == "/vault/broker"
