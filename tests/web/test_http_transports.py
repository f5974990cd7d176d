"""The switch of the transports over HTTP, without which their paths are as any other that there is not; their names."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.main import build_application
from starling.settings import load_settings
from starling.telemetry.metric_list import TRANSPORTS

PAGE = Path(__file__).parents[2] / "docs" / "transports.md"
PATHS = ("/connection/http_stream", "/connection/sse", "/emulation", "/connection/uni_sse", "/sse/lobby")


@pytest.mark.parametrize(("switch", "status"), [("true", 400), ("false", 404)])
def test_the_transports_over_http_can_be_turned_off(switch: str, status: int) -> None:
    settings = load_settings({"STARLING_DEV": "true", "STARLING_HTTP_TRANSPORTS": switch})
    built = build_application(settings, CollectorRegistry())
    with TestClient(built.asgi) as client:
        assert client.post("/emulation", content=b"{}").status_code == status
        assert client.post("/connection/http_stream", content=b"{]").status_code == status
        for path in PATHS:
            assert (client.request("PUT", path).status_code == 404) is (switch == "false")


def test_the_page_of_transports_names_every_value_of_their_label() -> None:
    _, _, table = PAGE.read_text().partition("| `transport` |")
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert sorted(re.findall("`([a-z_]+)`", " ".join(cells))) == sorted(TRANSPORTS)
