"""`starling import centrifugo`: configurations of both versions become settings and a channels file that are valid."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from starling.cli.centrifugo import SIMPLE, CentrifugoError, Translation, translate
from starling.cli.centrifugo_options import PROXIES
from starling.cli.entry import cli
from starling.cli.env_file import read_env_file

SECRET = "a-secret-of-at-least-thirty-two-bytes"
KEY = "a-key-of-the-server-api"
VERSION_5: dict[str, Any] = {
    "token_hmac_secret_key": SECRET,
    "api_key": KEY,
    "allowed_origins": ["https://app.example.com", "https://*.example.com"],
    "port": 9000,
    "engine": "redis",
    "redis_address": "redis.example:6379",
    "redis_password": "p@ss word",
    "redis_db": 2,
    "client_channel_limit": 512,
    "ping_interval": "20s",
    "pong_timeout": "5s",
    "shutdown_timeout": "1m30s",
    "client_history_max_publication_limit": 500,
    "websocket_compression": True,
    "user_subscribe_to_personal": True,
    "global_history_meta_ttl": "168h",
    "proxy_connect_endpoint": "https://backend.example.com/connect",
    "proxy_connect_timeout": "2s",
    "proxy_subscribe_endpoint": "https://backend.example.com/subscribe",
    "proxy_http_headers": ["X-Tenant", "Cookie"],
    "presence": True,
    "admin": True,
    "admin_password": "never-taken-over",
    "token_audience_regex": "^a",
    "namespaces": [
        {
            "name": "chat",
            "history_size": 100,
            "history_ttl": "24h",
            "force_recovery": True,
            "allow_publish_for_subscriber": True,
            "proxy_subscribe": True,
        },
        {"name": "news", "allow_subscribe_for_client": True, "allow_recovery": True, "presence": False},
    ],
}
VERSION_6: dict[str, Any] = {
    "client": {
        "token": {"hmac_secret_key": SECRET, "audience_regex": "^a"},
        "allowed_origins": ["https://app.example.com", "https://*.example.com"],
        "channel_limit": 512,
        "ping_interval": "20s",
        "pong_timeout": "5s",
        "history_max_publication_limit": 500,
        "subscribe_to_user_personal_channel": {"enabled": True},
        "proxy": {
            "connect": {
                "enabled": True,
                "endpoint": "https://backend.example.com/connect",
                "timeout": "2s",
                "http_headers": ["X-Tenant", "Cookie"],
            }
        },
    },
    "http_api": {"key": KEY},
    "http_server": {"port": 9000},
    "engine": {"type": "redis", "redis": {"address": ["redis.example:6379"], "password": "p@ss word", "db": 2}},
    "shutdown": {"timeout": "1m30s"},
    "websocket": {"compression": True},
    "admin": {"enabled": True, "password": "never-taken-over"},
    "channel": {
        "history_meta_ttl": "168h",
        "proxy": {"subscribe": {"endpoint": "https://backend.example.com/subscribe"}},
        "without_namespace": {"presence": True},
        "namespaces": [
            {
                "name": "chat",
                "history_size": 100,
                "history_ttl": "24h",
                "force_recovery": True,
                "allow_publish_for_subscriber": True,
                "subscribe_proxy_enabled": True,
            },
            {"name": "news", "allow_subscribe_for_client": True, "allow_recovery": True, "presence": False},
        ],
    },
}
SETTINGS = {
    "STARLING_TOKEN_HMAC_SECRET": SECRET,
    "STARLING_API_KEYS": KEY,
    "STARLING_ALLOWED_ORIGINS": "https://app.example.com,https://*.example.com",
    "STARLING_PORT": "9000",
    "STARLING_BROKER_URL": "redis://:p%40ss%20word@redis.example:6379/2",
    "STARLING_MAX_CHANNELS": "512",
    "STARLING_PING_SECONDS": "20",
    "STARLING_PONG_SECONDS": "5",
    "STARLING_DRAIN_SECONDS": "90",
    "STARLING_RECOVERY_LIMIT": "500",
    "STARLING_COMPRESSION": "true",
    "STARLING_SUBSCRIBE_TO_PERSONAL_CHANNEL": "true",
    "STARLING_PROXY_CONNECT": "https://backend.example.com/connect",
    "STARLING_PROXY_SUBSCRIBE": "https://backend.example.com/subscribe",
    "STARLING_PROXY_TIMEOUT_SECONDS": "2",
    "STARLING_PROXY_HEADERS": "X-Tenant",
}
CHANNELS = {
    "default": {"presence": True},
    "namespaces": {
        "chat": {
            "history_size": 100,
            "history_ttl": "86400s",
            "history_meta_ttl": "604800s",
            "force_recovery": True,
            "allow_publish_for_subscriber": True,
            "subscribe_proxy": True,
        },
        "news": {"allow_subscribe_for_client": True},
    },
}


@pytest.mark.parametrize("document", [VERSION_5, VERSION_6], ids=["version 5", "version 6"])
def test_settings_and_channel_options_are_taken_over(document: dict[str, Any]) -> None:
    found = translate(document)
    assert found.settings == SETTINGS
    assert found.channels == CHANNELS


@pytest.mark.parametrize("document", [VERSION_5, VERSION_6], ids=["version 5", "version 6"])
def test_each_option_without_a_counterpart_is_named_with_what_to_do(document: dict[str, Any]) -> None:
    left = {option.path: option.reason for option in translate(document).left}
    assert {path.replace("_", ".") for path in left} == {
        "client.token.audience.regex" if document is VERSION_6 else "token.audience.regex",
        "admin.password",
        "http.headers: Cookie",
        "namespaces.news.allow.recovery",
    }
    assert "STARLING_PROXY_COOKIES" in left["http_headers: Cookie"]
    assert "force_recovery" in left["namespaces.news.allow_recovery"]


@pytest.mark.parametrize(
    ("redis", "address"),
    [
        ({}, "redis://127.0.0.1:6379"),
        ({"address": "redis://user:word@redis.example:6380/1"}, "redis://user:word@redis.example:6380/1"),
        ({"address": ["redis.example:6379"], "tls": {"enabled": True}}, "rediss://redis.example:6379"),
        (
            {"cluster_address": ["one:6379", "two:6379"], "user": "u", "password": "p"},
            "redis+cluster://u:p@one:6379,two:6379",
        ),
        (
            {"sentinel_address": ["one:26379"], "sentinel_master_name": "main", "sentinel_password": "s/p", "db": 3},
            "redis+sentinel://one:26379/main?db=3&sentinel_password=s%2Fp",
        ),
    ],
)
def test_redis_in_each_of_its_forms_becomes_one_address(redis: dict[str, Any], address: str) -> None:
    assert translate({"engine": {"type": "redis", "redis": redis}}).settings == {"STARLING_BROKER_URL": address}


def test_redis_that_the_memory_engine_does_not_use_is_not_taken_over() -> None:
    assert translate({"engine": {"type": "memory", "redis": {"address": "redis:6379"}}}) == Translation()


def test_options_that_are_off_or_empty_count_for_nothing() -> None:
    document = {"grpc_api": {"enabled": False}, "token_audience_regex": "", "consumers": [], "history_size": 0}
    assert translate(document) == Translation()


def test_an_option_that_is_not_known_is_named_and_not_dropped() -> None:
    (left,) = translate({"something": {"new": 5}}).left
    assert left == ("something.new", "no counterpart")


def test_a_named_proxy_of_a_namespace_becomes_its_address() -> None:
    document = {
        "proxies": [
            {"name": "rights", "endpoint": "https://rights.example.com"},
            {"name": "old", "endpoint": "grpc://old:1"},
        ],
        "channel": {
            "namespaces": [
                {"name": "a", "publish_proxy_name": "rights", "publish_proxy_enabled": True},
                {"name": "b", "publish_proxy_name": "old", "publish_proxy_enabled": True},
            ]
        },
    }
    found = translate(document)
    assert found.channels["namespaces"] == {"a": {"publish_proxy": "https://rights.example.com"}, "b": {}}
    assert [option.path for option in found.left] == ["namespaces.b.publish_proxy_name"]


@pytest.mark.parametrize(
    ("document", "said"), [([], "an object"), ({"namespaces": [{"presence": True}]}, r"namespaces\[0\]")]
)
def test_what_is_no_configuration_is_refused(document: object, said: str) -> None:
    with pytest.raises(CentrifugoError, match=said):
        translate(document)


@pytest.mark.processes
class TestTheCommand:
    """In an empty directory, without a setting in the environment."""

    @pytest.fixture(autouse=True)
    def _project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.chdir(tmp_path)
        before = dict(os.environ)
        for name in [name for name in os.environ if name.startswith("STARLING_")]:
            del os.environ[name]
        yield
        os.environ.clear()
        os.environ.update(before)

    def invoke(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments)

    @pytest.mark.parametrize("name", ["config.json", "config.yaml"])
    def test_it_writes_files_that_check_accepts(self, name: str) -> None:
        Path(name).write_text(json.dumps(VERSION_6) if name.endswith("json") else yaml.safe_dump(VERSION_6))

        done = self.invoke("import", "centrifugo", name)

        assert done.exit_code == 0, done.output
        assert "Not taken over: namespaces.news.allow_recovery: set force_recovery" in done.output
        assert read_env_file(Path(".env")) == {**SETTINGS, "STARLING_CHANNELS_FILE": "channels.yaml"}
        assert stat.S_IMODE(Path(".env").stat().st_mode) == 0o600
        assert yaml.safe_load(Path("channels.yaml").read_text()) == CHANNELS
        checked = self.invoke("check")
        assert checked.exit_code == 0, checked.output

    def test_toml_is_read_as_well(self) -> None:
        Path("config.toml").write_text(f'[client.token]\nhmac_secret_key = "{SECRET}"\n')
        assert self.invoke("import", "centrifugo", "config.toml").exit_code == 0
        assert read_env_file(Path(".env"))["STARLING_TOKEN_HMAC_SECRET"] == SECRET

    def test_no_secret_is_printed(self) -> None:
        Path("config.json").write_text(json.dumps(VERSION_5))
        output = self.invoke("import", "centrifugo", "config.json").output
        assert not any(secret in output for secret in (SECRET, KEY, "p@ss", "never-taken-over"))

    def test_what_starling_does_not_accept_is_named_and_the_files_are_written(self) -> None:
        Path("config.json").write_text(json.dumps({"api_key": "short", "namespaces": [{"name": "a b"}]}))

        done = self.invoke("import", "centrifugo", "config.json")

        assert done.exit_code == 1
        assert "Change this: STARLING_API_KEYS" in done.output
        assert "Change this: namespaces.a b" in done.output
        assert Path("channels.yaml").exists()

    def test_files_that_exist_stay_without_force(self) -> None:
        Path("config.json").write_text(json.dumps({"token_hmac_secret_key": SECRET}))
        Path(".env").write_text("MINE=1\n")
        done = self.invoke("import", "centrifugo", "config.json")
        assert done.exit_code == 2
        assert Path(".env").read_text() == "MINE=1\n"
        assert self.invoke("import", "centrifugo", "config.json", "--force").exit_code == 0

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("config.json", "{", "it cannot be read"),
            ("config.yaml", "a: [", "it cannot be read"),
            ("config.json", "[]", "an object"),
            ("missing.json", None, "No such file"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_one_line(self, name: str, content: str | None, said: str) -> None:
        if content is not None:
            Path(name).write_text(content)
        done = self.invoke("import", "centrifugo", name)
        assert done.exit_code == 2
        assert said in done.output
        assert len(done.output.splitlines()) == 1


def test_the_page_has_a_row_for_each_option_that_is_taken_over() -> None:
    page = (Path(__file__).parents[2] / "docs" / "from-centrifugo.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    expected = {path: variable for path, (variable, _) in SIMPLE.items()}
    expected |= {f"{path}.endpoint": f"PROXY_{kind.upper()}" for kind, path in PROXIES.items()}
    for path, variable in expected.items():
        assert any(f"`{path}`" in row and f"`STARLING_{variable}`" in row for row in rows), path
