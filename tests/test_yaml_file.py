"""The channels file is read as it is written: no key twice, and no word, time or number turned into something else."""

from pathlib import Path
from typing import Any

import pytest

from starling.channels_file import build_channels
from starling.settings import SettingsError, load_settings
from starling.yaml_file import DuplicateKeyError, read_yaml


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("namespaces: {news: {presence: true}, news: {}}", "namespaces.news"),
        ("default:\n  presence: true\n  presence: false\n", "default.presence"),
        ("default: {}\nnamespaces: {}\ndefault: {}\n", "default"),
        ('{"namespaces": {"a": {"presence": true, "presence": true}}}', "namespaces.a.presence"),
        ("a: [{b: 1, b: 2}]", "a[0].b"),
        ("a: 1\n'a': 2", "a"),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_its_path(text: str, path: str, tmp_path: Path) -> None:
    with pytest.raises(DuplicateKeyError, match="it stands twice, in lines") as refused:
        read_yaml(text)
    assert str(refused.value).startswith(f"{path}: ")
    file = tmp_path / "channels.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as problems:
        build_channels(load_settings({"STARLING_DEV": "true", "STARLING_CHANNELS_FILE": str(file)}))
    assert f"channels.yaml: {path}: it stands twice" in str(problems.value)


@pytest.mark.parametrize(
    "written", ["no", "yes", "on", "off", "y", "1:30", "010", "0x10", "0b1", "1_000", "2001-01-01", ".inf", ".nan", "="]
)
def test_what_an_older_yaml_would_change_is_the_text_that_was_written(written: str) -> None:
    assert read_yaml(f"value: {written}") == {"value": written}
    assert read_yaml(f"{written}: value") == {written: "value"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [("true", True), ("False", False), ("~", None), ("", None), ("60", 60), ("-3", -3), ("1.5", 1.5), ("1e3", 1000.0)],
)
def test_values_of_the_core_schema_have_their_types(written: str, meant: Any) -> None:
    found: Any = read_yaml(f"value: {written}")
    assert found == {"value": meant}
    assert type(found["value"]) is type(meant)


@pytest.mark.parametrize("option", ["history_ttl: 60", "history_ttl: 1:30", "history_ttl: 60.5", "presence: yes"])
def test_an_option_of_another_type_is_refused_by_its_path(option: str, tmp_path: Path) -> None:
    file = tmp_path / "channels.yaml"
    file.write_text(f"namespaces: {{news: {{history_size: 1, {option}}}}}")
    with pytest.raises(SettingsError) as problems:
        build_channels(load_settings({"STARLING_TOKEN_HMAC_SECRET": "x" * 32, "STARLING_CHANNELS_FILE": str(file)}))
    assert f"namespaces.news.{option.partition(':')[0]}: " in str(problems.value)
