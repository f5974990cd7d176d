"""`starling channels` and `starling info`: what they print of an answer that is not complete."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from starling.cli.entry import cli
from starling.cli.service import ServiceAddress

PAGES = {
    "": {"channels": {"a": {"num_clients": 1}}, "missing": ["pod-2"], "cursor": "a"},
    "a": {"channels": {"b": {"num_clients": 2}}, "missing": ["pod-1", "pod-2"]},
}


@pytest.fixture(autouse=True)
def _service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service of which nodes do not answer: a real one would need nodes that freeze between two pages."""

    def call(_: ServiceAddress, method: str, body: dict[str, Any]) -> Any:
        return {"nodes": []} if method == "info" else PAGES[body["cursor"]]

    monkeypatch.setattr(ServiceAddress, "call", call)


@pytest.mark.parametrize("command", ["channels", "info"])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nodes_that_did_not_answer_are_named_with_the_channels_of_the_others(command: str, form: list[str]) -> None:
    result = CliRunner().invoke(cli, [command, *form], catch_exceptions=False)

    assert result.exit_code == 0
    if form and command == "info":
        assert json.loads(result.stdout)["missing"] == ["pod-1", "pod-2"]
        return
    assert "no answer from pod-1, pod-2: clients there are not counted" in result.stderr
    if form:
        assert [json.loads(line)["channel"] for line in result.stdout.splitlines()] == ["b", "a"]
    else:
        assert [line.split() for line in result.stdout.splitlines()[-2:]] == [["b", "2"], ["a", "1"]]
