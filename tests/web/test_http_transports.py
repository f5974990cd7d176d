"""The switch of the transports over HTTP: without them their paths are as any other that there is not."""

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.main import build_application
from starling.settings import load_settings

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
