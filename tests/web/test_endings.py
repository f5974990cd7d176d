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

CHANNELS = "namespaces: {kept: {history_size: 10, history_ttl: 60s, presence: true}}"
KEY = {"X-API-Key": "dev"}


def result_of(client: TestClient, method: str, body: Any) -> Any:
    return client.post(f"/api/{method}", json=body, headers=KEY).json()["result"]


def test_who_is_told_what_it_cannot_read_as_it_leaves_is_gone_from_the_channel(tmp_path: Path) -> None:
    channels = tmp_path / "channels.yaml"
    channels.write_text(CHANNELS)
    settings = load_settings({"STARLING_DEV": "true", "STARLING_CHANNELS_FILE": str(channels)})
    with TestClient(create_app(settings, CollectorRegistry())) as client:
        result_of(client, "publish", {"channel": "kept:a", "b64data": base64.b64encode(b"\xff").decode()})
        with client.websocket_connect("/connection/websocket") as socket:
            asked: list[dict[str, Any]] = [{"connect": {}}, {"subscribe": {"channel": "kept:a"}}]
            for number, command in enumerate(asked, 1):
                socket.send_text(json.dumps({"id": number, **command}))
                assert json.loads(socket.receive_text())["id"] == number
            assert result_of(client, "presence_stats", {"channel": "kept:a"})["num_clients"] == 1

            history = {"id": 3, "history": {"channel": "kept:a", "limit": 10}}
            socket.send_text(f"{json.dumps(history)}\n{json.dumps({'id': 4, 'unsubscribe': {'channel': 'kept:a'}})}")
            assert socket.receive()["code"] == 3506

        end = time.monotonic() + 10
        while result_of(client, "presence_stats", {"channel": "kept:a"})["num_clients"]:
            assert time.monotonic() < end, "the client is still in the channel"
            time.sleep(0.02)
        assert result_of(client, "channels", {})["channels"] == {}
