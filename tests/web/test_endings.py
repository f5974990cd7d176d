"""How conversations of the real-time protocol end, and that nothing of them stays behind."""

import base64
import json
import time
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.main import create_app
from starling.settings import load_settings
from tests.support.waiting import DEADLINE

CHANNELS = "namespaces: {kept: {presence: true, publication_data_format: any}}"
KEY = {"X-API-Key": "dev"}


def result_of(client: TestClient, method: str, body: Any) -> Any:
    return client.post(f"/api/{method}", json=body, headers=KEY).json()["result"]


def test_a_client_that_cannot_read_its_subscription_is_disconnected_and_gone_from_the_channel(tmp_path: Path) -> None:
    channels = tmp_path / "channels.yaml"
    channels.write_text(CHANNELS)
    settings = load_settings({"STARLING_DEV": "true", "STARLING_CHANNELS_FILE": str(channels)})
    with TestClient(create_app(settings, CollectorRegistry())) as client:
        with client.websocket_connect("/connection/websocket") as socket:
            socket.send_text(json.dumps({"id": 1, "connect": {}}))
            connected = json.loads(socket.receive_text())["connect"]
            data = base64.b64encode(b"\xff").decode()
            order = {"user": "", "client": connected["client"], "channel": "kept:a", "b64data": data}
            result_of(client, "subscribe", order)
            assert socket.receive()["code"] == 3506

        end = time.monotonic() + DEADLINE
        while result_of(client, "presence_stats", {"channel": "kept:a"})["num_clients"]:
            assert time.monotonic() < end, "the client is still in the channel"
            time.sleep(0.02)
        assert result_of(client, "channels", {})["channels"] == {}
