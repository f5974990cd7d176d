"""Settings: read from the environment or files, and every mistake named with its remedy, all at once."""

import importlib
import re
from pathlib import Path

import pytest

import starling
from starling.channels_file import build_channels
from starling.options import Options, Unit
from starling.settings import DECLARATIONS, SECTIONS, Settings, SettingsError, load_settings
from starling.variables import CLIENT_VARIABLES, variable

SECRET = "x" * 32
PACKAGE = Path(starling.__file__).parent
# Examples of files and of names that Kubernetes sets.
NOT_SETTINGS = {"STARLING_NAME_FILE"}


def problems_of(environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment)
    return caught.value.problems


def test_every_setting_is_declared_once_in_a_section_of_the_list() -> None:
    assert set(DECLARATIONS) == set(Settings.model_fields)
    assert list(dict.fromkeys(each.section for each in DECLARATIONS.values())) == list(SECTIONS)


def test_every_class_of_options_belongs_to_the_settings() -> None:
    for path in PACKAGE.glob("*/**/options.py"):
        importlib.import_module(".".join(("starling", *path.relative_to(PACKAGE).with_suffix("").parts)))
    classes = [Options]
    for each in classes:
        classes += each.__subclasses__()
    described = {name for each in classes for name, field in each.model_fields.items() if field.description}

    assert described == set(DECLARATIONS)


def test_every_number_of_seconds_bytes_or_a_share_declares_its_unit() -> None:
    ends = {"_seconds": Unit.SECONDS, "_bytes": Unit.BYTES, "_share": Unit.SHARE, "_per_second": Unit.PER_SECOND}
    by_name = {
        name: unit
        for name, unit in (
            (name, ends.get(next((end for end in ends if name.endswith(end)), ""))) for name in DECLARATIONS
        )
        if unit is not None
    }

    assert {name: DECLARATIONS[name].unit for name in by_name} == by_name


def test_an_error_carries_its_field() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            {"STARLING_DEV": "1", "STARLING_PORT": "x", "STARLING_PONG_SECONDS": "25", "STARLING_WORKERS": "2"}
        )

    assert {each.field for each in caught.value.found} == {"port", "pong_seconds", "workers"}


def test_a_secret_is_enough_to_start_on_memory() -> None:
    settings = load_settings({"STARLING_TOKEN_HMAC_SECRET": SECRET})

    assert (settings.port, settings.internal_port, settings.worker_count) == (8000, 9090, 1)


def test_the_internal_port_is_for_this_machine_alone_unless_it_is_said() -> None:
    # It has no authentication: anyone who reaches it reads names of channels, and so of users.
    assert load_settings({"STARLING_TOKEN_HMAC_SECRET": "x" * 32}).internal_host == "127.0.0.1"


def test_developer_mode_needs_no_secret() -> None:
    assert load_settings({"STARLING_DEV": "true"}).dev


def test_without_a_key_the_ways_to_set_one_are_named() -> None:
    (problem,) = problems_of({})

    for name in ("STARLING_TOKEN_HMAC_SECRET", "STARLING_TOKEN_PUBLIC_KEY", "STARLING_TOKEN_JWKS_URL", "STARLING_DEV"):
        assert name in problem


def test_all_problems_are_named_at_once() -> None:
    problems = problems_of(
        {
            "STARLING_PORT": "eighty",
            "STARLING_BROKER_URL": "kafka://x",
            "STARLING_WROKERS": "2",
            "STARLING_LOG_LEVEL": "loud",
        }
    )

    text = "\n".join(problems)
    assert len(problems) == 5
    assert "STARLING_PORT: " in text
    assert "'eighty'" in text
    assert "STARLING_BROKER_URL: it must start with memory://" in text
    assert "STARLING_WROKERS is not a setting: did you mean STARLING_WORKERS?" in text
    assert "STARLING_LOG_LEVEL: " in text
    assert "STARLING_TOKEN_HMAC_SECRET" in text


def test_two_workers_on_memory_are_refused_with_both_fixes() -> None:
    (problem,) = problems_of({"STARLING_DEV": "1", "STARLING_WORKERS": "2"})

    assert "STARLING_WORKERS=1" in problem
    assert "STARLING_BROKER_URL=redis://" in problem


def test_a_secret_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")

    settings = load_settings({"STARLING_TOKEN_HMAC_SECRET_FILE": str(tmp_path / "secret")})

    assert settings.token_hmac_secret is not None
    assert settings.token_hmac_secret.get_secret_value() == SECRET


BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_byte_order_mark_is_no_part_of_what_a_file_holds(tmp_path: Path, end: bytes) -> None:
    secret, keys, channels = tmp_path / "secret", tmp_path / "keys", tmp_path / "channels.yaml"
    secret.write_bytes(BYTE_ORDER_MARK + b"a secret of more than thirty-two bytes" + end)
    keys.write_bytes(BYTE_ORDER_MARK + b"0123456789abcdef0123" + end)
    channels.write_bytes(BYTE_ORDER_MARK + b"default: {presence: true}" + end)
    settings = load_settings(
        {
            "STARLING_TOKEN_HMAC_SECRET_FILE": str(secret),
            "STARLING_API_KEYS_FILE": str(keys),
            "STARLING_CHANNELS_FILE": str(channels),
        }
    )
    assert settings.token_hmac_secret is not None
    assert settings.token_hmac_secret.get_secret_value() == "a secret of more than thirty-two bytes"
    assert settings.api_key_list == ("0123456789abcdef0123",)
    assert build_channels(settings).default.presence


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    problems = problems_of({"STARLING_DEV": "1", "STARLING_BROKER_URL_FILE": str(tmp_path / "none")})

    assert len(problems) == 1
    assert problems[0].startswith("STARLING_BROKER_URL_FILE: cannot read")


def test_a_value_and_its_file_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("8001")

    (problem,) = problems_of(
        {"STARLING_DEV": "1", "STARLING_PORT": "8000", "STARLING_PORT_FILE": str(tmp_path / "port")}
    )

    assert "STARLING_PORT_FILE and STARLING_PORT are both set" in problem


def test_a_short_secret_is_refused_outside_developer_mode() -> None:
    (problem,) = problems_of({"STARLING_TOKEN_HMAC_SECRET": "short"})

    assert "shorter than 32 bytes" in problem
    assert "openssl rand" in problem


def test_a_refused_secret_is_not_repeated() -> None:
    text = "\n".join(problems_of({"STARLING_BROKER_URL": "mysql://user:hunter2@host", "STARLING_DEV": "1"}))

    assert "hunter2" not in text


def test_developer_mode_with_an_issuer_is_refused() -> None:
    (problem,) = problems_of({"STARLING_DEV": "1", "STARLING_TOKEN_JWKS_URL": "https://issuer.example/keys"})

    assert "STARLING_TOKEN_JWKS_URL" in problem


def test_what_kubernetes_sets_for_a_service_of_this_name_is_passed_over() -> None:
    settings = load_settings(
        {
            "STARLING_DEV": "1",
            "STARLING_SERVICE_HOST": "10.0.0.1",
            "STARLING_SERVICE_PORT": "8000",
            "STARLING_SERVICE_PORT_HTTP": "8000",
            "STARLING_PORT_8000_TCP": "tcp://10.0.0.1:8000",
            "STARLING_PORT_8000_TCP_PROTO": "tcp",
            "STARLING_INTERNAL_SERVICE_HOST": "10.0.0.2",
        }
    )

    assert settings.port == 8000


def test_the_port_that_kubernetes_overwrites_is_explained() -> None:
    (problem,) = problems_of({"STARLING_DEV": "1", "STARLING_PORT": "tcp://10.0.0.1:8000"})

    assert "enableServiceLinks" in problem


def test_the_pong_time_must_be_shorter_than_the_ping_time() -> None:
    (problem,) = problems_of({"STARLING_DEV": "1", "STARLING_PING_SECONDS": "5", "STARLING_PONG_SECONDS": "5"})

    assert "STARLING_PONG_SECONDS" in problem


def test_lists_are_split_at_commas() -> None:
    settings = load_settings(
        {"STARLING_DEV": "1", "STARLING_ALLOWED_ORIGINS": "https://a.example, https://*.b.example"}
    )

    assert settings.allowed_origins == ("https://a.example", "https://*.b.example")


def test_every_setting_is_documented() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


WEBHOOKS = {
    "STARLING_TOKEN_HMAC_SECRET": SECRET,
    "STARLING_WEBHOOK_URL": "https://backend.example.com/hooks",
    "STARLING_WEBHOOK_SECRET": "y" * 24,
}


def test_webhooks_report_everything_unless_said_otherwise() -> None:
    assert len(load_settings(WEBHOOKS).webhook_events) == 6
    chosen = load_settings(WEBHOOKS | {"STARLING_WEBHOOK_EVENTS": "occupied, vacated"})
    assert chosen.webhook_events == ("occupied", "vacated")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"STARLING_WEBHOOK_URL": "backend/secret-path"}, "STARLING_WEBHOOK_URL: write it like https://"),
        ({"STARLING_WEBHOOK_URL": "https://backend:port/secret-path"}, "STARLING_WEBHOOK_URL: write it like https://"),
        *(
            ({"STARLING_WEBHOOK_URL": f"https://{address}/secret-path"}, "STARLING_WEBHOOK_URL: write it like https://")
            for address in ("a host", "host..example", "x" * 70, "\u200b", "host\t", "host/\n", "host/" + "x" * 9000)
        ),
        ({"STARLING_WEBHOOK_SECRET": "short"}, "STARLING_WEBHOOK_SECRET is shorter than 24 bytes"),
        ({"STARLING_WEBHOOK_SECRET": ""}, "STARLING_WEBHOOK_URL without STARLING_WEBHOOK_SECRET"),
        ({"STARLING_WEBHOOK_EVENTS": "connect,publish"}, "unknown is publish; known are connect, disconnect"),
        ({"STARLING_BROKER_URL": "postgresql://db/x"}, "STARLING_WEBHOOK_EVENTS=connect,disconnect,subscribe"),
    ],
)
def test_webhooks_that_cannot_be_are_refused_with_the_remedy(changes: dict[str, str], words: str) -> None:
    (problem,) = problems_of(WEBHOOKS | changes)

    assert words in problem
    assert "secret-path" not in problem


def test_developer_mode_sends_webhooks_without_a_signature() -> None:
    assert load_settings({"STARLING_DEV": "true", "STARLING_WEBHOOK_URL": "http://localhost:9000"}).webhook_url


def drain(**variables: str) -> Settings:
    return load_settings(
        {"STARLING_DEV": "1", "STARLING_BROKER_URL": "redis://r", "STARLING_WORKERS": "4"}
        | {f"STARLING_{name}": value for name, value in variables.items()}
    )


def test_a_drain_takes_as_long_as_a_full_pod_needs_at_the_rate() -> None:
    assert drain().drain_time == 20
    assert drain(MAX_CONNECTIONS="1000").drain_time == 20
    assert drain(MAX_CONNECTIONS="10001").drain_time == 81
    assert drain(MAX_CONNECTIONS="10000", DRAIN_RATE="100").drain_time == 400
    assert drain(MAX_CONNECTIONS="10000", DRAIN_RATE="1").drain_time == 3600
    assert drain(MAX_CONNECTIONS="10000", DRAIN_RATE="0").drain_time == 20
    assert drain(MAX_CONNECTIONS="10000", DRAIN_SECONDS="7.5").drain_time == 7.5


def test_a_pod_that_holds_more_than_goes_in_time_at_the_rate_is_warned_of() -> None:
    (warning,) = drain(MAX_CONNECTIONS="10000", DRAIN_SECONDS="30").warnings()
    assert "40000 connections" in warning
    assert "needs 80 s at STARLING_DRAIN_RATE=500" in warning
    assert "set STARLING_DRAIN_SECONDS to 80" in warning
    (beyond,) = drain(MAX_CONNECTIONS="10000", DRAIN_RATE="1").warnings()
    assert "needs 40000 s" in beyond
    assert "set STARLING_DRAIN_RATE to 12 or more" in beyond

    for fits in (
        drain(),
        drain(DRAIN_SECONDS="1"),
        drain(MAX_CONNECTIONS="10000"),
        drain(MAX_CONNECTIONS="10000", DRAIN_SECONDS="80"),
        drain(MAX_CONNECTIONS="10000", DRAIN_SECONDS="30", DRAIN_RATE="0"),
    ):
        assert fits.warnings() == []


def test_a_rate_that_postgresql_cannot_share_is_warned_of_only_where_it_was_set() -> None:
    assert drain(BROKER_URL="postgresql://p").warnings() == []
    (warning,) = drain(BROKER_URL="postgresql://p", DRAIN_RATE="100").warnings()
    assert "STARLING_DRAIN_RATE is shared through redis:// only" in warning


def test_connections_of_a_user_are_not_counted_on_postgresql() -> None:
    environment = {"STARLING_DEV": "true", "STARLING_BROKER_URL": "postgresql://db/x"}
    (problem,) = problems_of(environment | {"STARLING_MAX_CONNECTIONS_PER_USER": "5"})

    assert "STARLING_MAX_CONNECTIONS_PER_USER" in problem
    assert "redis://" in problem
    assert load_settings(environment).max_connections_per_user == 0


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_value_that_a_setting_does_not_take_is_refused_in_plain_words(name: str) -> None:
    for value in ("", "a word", "-1", "0", "1.5", "nan", "1e999", "9" * 30, "x" * 5000, "\N{SNOWMAN}"):
        try:
            load_settings({"STARLING_DEV": "true", f"STARLING_{name.upper()}": value})
        except SettingsError as error:
            for problem in error.problems:
                assert "\n" not in problem
                for leak in ("nput should", "Value error", "alue error,", "unable to", "Errno", "type="):
                    assert leak not in problem, problem


@pytest.mark.parametrize("name", ["CHANNELS_FILE", "API_KEYS_FILE", "TOKEN_PUBLIC_KEY_FILE"])
@pytest.mark.parametrize(("path", "why"), [("absent", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named_with_the_reason(name: str, path: str, why: str, tmp_path: Path) -> None:
    found = tmp_path / path
    with pytest.raises(SettingsError) as refused:
        build_channels(load_settings({"STARLING_DEV": "true", f"STARLING_{name}": str(found)}))
    assert f"STARLING_{name}: cannot read {found}: {why}" in refused.value.problems


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: [1\nb: {", "line 2, column 2: expected ',' or ']', but got ':'"),
        ("a:\n\t- b\n", "line 2, column 1: found character '\\t' that cannot start any token"),
        ("a: 'b", "line 1, column 6: found unexpected end of stream"),
        ("a: *b", "line 1, column 4: found undefined alias 'b'"),
        ("a: \x00", "unacceptable character #x0000: special characters are not allowed"),
    ],
)
def test_a_channels_file_that_is_no_yaml_is_refused_in_one_line(text: str, where: str, tmp_path: Path) -> None:
    file = tmp_path / "channels.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        build_channels(load_settings({"STARLING_DEV": "true", "STARLING_CHANNELS_FILE": str(file)}))
    (problem,) = refused.value.problems
    assert "\n" not in problem
    assert problem.startswith(f"STARLING_CHANNELS_FILE: {file} is no YAML: {where}")


def test_every_variable_that_a_message_of_the_package_names_is_a_setting() -> None:
    named = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"\bSTARLING_[A-Z_]*[A-Z]\b(?![*_…])", path.read_text())
    }
    known = {variable(name) + end for name in DECLARATIONS for end in ("", "_FILE")}

    assert named - known - CLIENT_VARIABLES.keys() - NOT_SETTINGS == set()
