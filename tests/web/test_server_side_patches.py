"""Patches in channels that the server subscribes a client to, asked for in the connect request's `subs`."""

import json
from collections.abc import Iterator

import pytest
from centrifuge import fossil
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from starling.main import create_app
from starling.settings import load_settings
from tests.web.test_proxies import KEY, SECRET, talking
from tests.web.test_refresh import token

CHANNELS = """
namespaces:
  patched: {history_size: 9, history_ttl: 60s, force_recovery: true, allowed_delta_types: [fossil], delta_publish: true}
  plain: {history_size: 9, history_ttl: 60s, force_recovery: true}
"""
TEXT = "a document that is long enough to be worth a patch " * 5


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path = tmp_path_factory.mktemp("patches") / "channels.yaml"
    path.write_text(CHANNELS)
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_CHANNELS_FILE": str(path),
        "STARLING_API_KEYS": KEY,
    }
    with TestClient(create_app(load_settings(environment), CollectorRegistry())) as client:
        client.headers["X-API-Key"] = KEY
        yield client


def test_patches_are_agreed_on_and_begin_with_a_whole_publication(service: TestClient) -> None:
    channels = ["patched:a", "plain:a", "patched:unasked"]
    subs = {"patched:a": {"delta": "fossil"}, "plain:a": {"delta": "fossil"}}
    with talking(service) as talk:
        agreed = talk.ask(connect={"token": token(channels=channels), "subs": subs})["connect"]["subs"]
        assert {channel: result.get("delta", False) for channel, result in agreed.items()} == {
            "patched:a": True,
            "plain:a": False,
            "patched:unasked": False,
        }
        pushes = []
        for channel in channels:
            for number in range(2):
                body = {"channel": channel, "data": {"text": TEXT, "n": number}}
                assert "result" in service.post("/api/publish", json=body).json()
                pushes.append(json.loads(talk.session.receive_text())["push"]["pub"])

    assert [push.get("delta", False) for push in pushes] == [False, True, False, False, False, False]
    whole, patch = (push["data"].encode() for push in pushes[:2])
    assert json.loads(fossil.apply_delta(whole, patch)) == {"text": TEXT, "n": 1}
    assert pushes[3]["data"] == {"text": TEXT, "n": 1}


@pytest.mark.parametrize("channel", ["patched:a", "plain:a", "patched:not_granted", "nowhere:a"])
@pytest.mark.parametrize("delta", ["xdelta", "FOSSIL", "fossil "])
def test_a_kind_of_patches_that_does_not_exist_is_a_bad_request(service: TestClient, channel: str, delta: str) -> None:
    with talking(service) as talk:
        request = {"token": token(channels=["patched:a", "plain:a"]), "subs": {channel: {"delta": delta}}}
        assert talk.ask(connect=request) == 3501
