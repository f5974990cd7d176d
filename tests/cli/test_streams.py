"""`starling streams`: what it lists, shows and cancels, against a service in this process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from starling.cli.entry import cli
from starling.cli.service import ServiceAddress
from tests.web.test_streams_api import _client, call, done


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The API of a node on memory, which the command calls without a network."""
    with _client(tmp_path / "channels.yaml") as client:
        monkeypatch.setattr(
            ServiceAddress, "call", lambda _, method, body: client.post(f"/api/{method}", json=body).json()["result"]
        )
        yield client


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["streams", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_open_streams_are_listed_shown_to_the_end_and_cancelled(api: Any) -> None:
    done(api, "stream_open", channel="answers:1")
    done(api, "stream_append", channel="answers:1", text="Grüße, ")
    done(api, "stream_append", channel="answers:1", text="Welt")
    assert run("list").split() == ["CHANNEL", "TYPE", "STATUS", "BYTES", "answers:1", "text", "open", "13"]

    assert run("cancel", "answers:1", "--reason", "enough").strip() == "answers:1: cancelled, 13 bytes"
    assert call(api, "stream_info", channel="answers:1")["result"]["reason"] == "enough"
    assert run("tail", "answers:1").startswith("Grüße, Welt")
    assert json.loads(run("tail", "answers:1", "--json").splitlines()[-1])["tags"]["status"] == "cancelled"
    assert "answers:1" not in run("list")


def test_json_is_a_line_for_each_item(api: Any) -> None:
    done(api, "stream_open", channel="events:1")
    done(api, "stream_append", channel="events:1", json=[{"a": 1}, 2])
    done(api, "stream_close", channel="events:1")
    assert run("tail", "events:1").splitlines()[:2] == ['{"a": 1}', "2"]


def test_without_a_channel_it_says_what_is_missing(api: Any) -> None:
    result = CliRunner().invoke(cli, ["streams", "cancel"])
    assert result.exit_code == 2
    assert "CHANNEL: name the stream to cancel" in result.output
