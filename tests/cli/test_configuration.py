"""Commands about the configuration: init, .env files, the options of serve, explain."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from starling.cli.entry import cli
from starling.cli.explanations import CODES, OPTIONS
from starling.engine.channels import ChannelOptions
from starling.engine.channels_document import parse_channels
from starling.protocol import codes
from starling.settings import Settings
from tests.support.running import SECRET


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory, which is the current one, and no setting in the environment, also for the next test."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    clear_settings()
    yield tmp_path
    clear_settings()
    os.environ.update(before)


def clear_settings() -> None:
    for name in [name for name in os.environ if name.startswith("STARLING_")]:
        del os.environ[name]


def invoke(*arguments: str) -> Result:
    """Each command begins with the environment that the test made."""
    before = dict(os.environ)
    try:
        return CliRunner().invoke(cli, arguments)
    finally:
        clear_settings()
        os.environ.update(before)


def settings_of(*arguments: str) -> dict[str, object]:
    done = invoke("check", "--json", *arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_init_writes_a_project_that_check_takes(project: Path) -> None:
    done = invoke("init")

    assert done.exit_code == 0, done.output
    assert invoke("check").exit_code == 0
    assert stat.S_IMODE((project / ".env").stat().st_mode) == 0o600
    parse_channels(yaml.safe_load((project / "channels.yaml").read_text()), developer=False)


def test_init_makes_new_secrets_each_time_and_replaces_nothing_unasked(project: Path) -> None:
    invoke("init")
    first = (project / ".env").read_text()
    again = invoke("init")
    forced = invoke("init", "--force")

    assert (again.exit_code, "--force" in again.stderr) == (2, True)
    assert forced.exit_code == 0
    second = (project / ".env").read_text()
    secrets = [set(text.splitlines()) for text in (first, second)]
    changed = secrets[0] - secrets[1]
    assert {line.partition("=")[0] for line in changed} == {"STARLING_TOKEN_HMAC_SECRET", "STARLING_API_KEYS"}


def test_a_file_of_this_directory_is_read_and_the_environment_counts_more(project: Path) -> None:
    (project / ".env").write_text(
        f'export STARLING_TOKEN_HMAC_SECRET="{SECRET}"\n# a comment\nOTHER=x\nSTARLING_BROKER_URL=redis://a # here\n'
        "STARLING_WORKERS=3\n"
    )
    assert settings_of() == {"workers": 3, "broker": "redis", "warnings": []}

    os.environ["STARLING_WORKERS"] = "2"
    assert settings_of()["workers"] == 2


def test_a_file_that_is_named_takes_the_place_of_the_usual_one(project: Path) -> None:
    (project / ".env").write_text("STARLING_DEV=true\nSTARLING_WORKERS=4\nSTARLING_BROKER_URL=redis://a\n")
    (project / "production.env").write_text(f"\ufeffSTARLING_TOKEN_HMAC_SECRET={SECRET}\r\n", encoding="utf-8")

    assert settings_of("--env-file", "production.env") == {"workers": 1, "broker": "memory", "warnings": []}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"STARLING_DEV=true\nSTARLING_PORT\n", "production.env, line 2: write NAME=VALUE"),
        (b"STARLING_DEV=true\n=x\n", "production.env, line 2: write NAME=VALUE"),
        (b"STARLING_DEV=true\nSTARLING_DEV=false\n", "production.env, line 2: STARLING_DEV is set a second time"),
        (b"STARLING_DEV=\xff\n", "production.env: this is not UTF-8 text"),
        (b"STARLING_PROT=1\nSTARLING_DEV=true\n", "STARLING_PROT is not a setting: did you mean STARLING_PORT?"),
    ],
)
def test_a_mistake_in_a_file_is_named_by_its_line(project: Path, content: bytes, problem: str) -> None:
    (project / "production.env").write_bytes(content)

    done = invoke("check", "--env-file", "production.env")

    assert done.exit_code == 2
    assert done.stderr.startswith(problem)
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_not_there_is_named(project: Path) -> None:
    done = invoke("serve", "--env-file", "nowhere.env")

    assert (done.exit_code, done.stderr) == (
        2,
        "nowhere.env: No such file or directory: name another file with --env-file\n",
    )


def test_options_of_serve_count_more_than_the_environment(project: Path) -> None:
    os.environ["STARLING_PORT"] = "eighty"
    os.environ["STARLING_CHANNELS_FILE_FILE"] = "elsewhere"

    done = invoke("serve", "--port", "0", "--dev", "--channels", "nowhere.yaml")

    assert done.exit_code == 2
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["STARLING_PORT"]
    assert "'0'" in done.stderr


# --- explain ---


def constants() -> dict[int, str]:
    kinds = (codes.Error, codes.Unsubscribe, codes.Disconnect)
    return {
        value.code: value.message if isinstance(value, codes.Error) else value.reason
        for value in vars(codes).values()
        if isinstance(value, kinds)
    }


def test_every_code_and_every_option_is_explained() -> None:
    assert CODES.keys() == constants().keys()
    described = {name for name, field in ChannelOptions.model_fields.items() if field.description}
    assert OPTIONS.keys() | described == set(ChannelOptions.model_fields)


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_is_explained_with_its_words_and_a_remedy(code: int) -> None:
    shown = invoke("explain", str(code)).stdout.splitlines()

    assert shown[0] == f"{code} {constants()[code]}"
    assert [line.partition(":")[0] for line in shown[1:]] == ["kind", "client", "meaning", "remedy"]


def test_what_a_client_does_after_a_code_is_as_the_protocol_has_it() -> None:
    after = {
        code: json.loads(invoke("explain", code, "--json").stdout)["client"]
        for code in ("3008", "3500", "4001", "4500")
    }

    assert after == {
        "3008": "reconnects",
        "3500": "does not reconnect",
        "4001": "reconnects",
        "4500": "does not reconnect",
    }


@pytest.mark.parametrize("name", ["STARLING_DRAIN_RATE", "drain_rate", "drain-rate", "Starling_Drain_Rate"])
def test_a_setting_is_explained_however_it_is_written(name: str) -> None:
    shown = invoke("explain", name).stdout

    assert shown.startswith("STARLING_DRAIN_RATE\n")
    assert "default: 500\n" in shown
    assert "at most: 100000\n" in shown


def test_every_setting_and_every_option_can_be_explained() -> None:
    for name in (*Settings.model_fields, *ChannelOptions.model_fields, "api_url", "token_hmac_secret_file"):
        done = invoke("explain", name, "--json")
        assert done.exit_code == 0, name
        assert json.loads(done.stdout)["meaning"], name


@pytest.mark.parametrize(
    ("name", "near"),
    [("histry_ttl", "history_ttl"), ("STARLING_PROT", "STARLING_PORT"), ("max_conections", "STARLING_MAX_CONNECTIONS")],
)
def test_an_unknown_name_gets_the_nearest_one(name: str, near: str) -> None:
    done = invoke("explain", name)

    assert (done.exit_code, f"did you mean {near}?" in done.stderr) == (1, True)
    assert invoke("explain", "999").exit_code == 1
