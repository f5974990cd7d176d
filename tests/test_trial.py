"""`starling serve --trial`: a first try without any key works, and is neither developer mode nor a deployment."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from starling.cli.trial import CHANNEL, prepare_trial
from tests.support.services import free_port
from tests.support.waiting import until


def printed_key(text: str, name: str) -> str:
    """What stands behind `name` in what the trial prints."""
    (found,) = re.findall(rf"^  {name} +(\S+)$", text, re.MULTILINE)
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(
    "environment",
    [
        {"STARLING_TOKEN_HMAC_SECRET": "x" * 32},
        {"STARLING_TOKEN_HMAC_SECRET_FILE": "/run/secrets/hmac"},
        {"STARLING_TOKEN_JWKS_URL": "https://issuer.example.com/keys"},
        {"STARLING_TOKEN_PUBLIC_KEY_FILE": "/run/secrets/key.pem"},
        {"STARLING_BROKER_URL": "redis://redis:6379"},
        {"STARLING_BROKER_URL_FILE": "/run/secrets/broker"},
        {"STARLING_DEV": "true"},
    ],
    ids=str,
)
def test_an_environment_that_names_a_key_a_broker_or_developer_mode_is_no_trial(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(environment)
    prepare_trial(environment)
    assert environment == before
    assert capsys.readouterr().out == ""


def test_keys_are_new_at_every_start_and_an_api_key_that_is_set_stays(capsys: pytest.CaptureFixture[str]) -> None:
    environments: list[dict[str, str]] = [{}, {"STARLING_DEV": "false", "STARLING_BROKER_URL": "memory://"}]
    for environment in environments:
        prepare_trial(environment)
        printed = capsys.readouterr().out
        assert printed_key(printed, "Token secret") == environment["STARLING_TOKEN_HMAC_SECRET"]
        assert printed_key(printed, "API key") == environment["STARLING_API_KEYS"]
    one, other = environments
    assert one["STARLING_TOKEN_HMAC_SECRET"] != other["STARLING_TOKEN_HMAC_SECRET"]
    mine = {"STARLING_API_KEYS": "a key of my own for the trial"}
    prepare_trial(mine)
    assert mine["STARLING_API_KEYS"] == "a key of my own for the trial"


@pytest.mark.processes
async def test_what_it_prints_connects_a_client_and_publishes_to_it_and_nothing_else_does(tmp_path: Path) -> None:
    ports = {"STARLING_PORT": str(free_port()), "STARLING_INTERNAL_PORT": str(free_port())}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
    environment = {**inherited, **ports, "STARLING_HOST": "127.0.0.1", "STARLING_DRAIN_DELAY_SECONDS": "0"}
    log = tmp_path / "log"
    command = [str(Path(sys.executable).with_name("starling")), "serve", "--trial"]
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            url = f"127.0.0.1:{ports['STARLING_PORT']}"
            await until(lambda: is_ready(f"http://{url}/readyz"), log.read_text())
            text = log.read_text()
            token, key = printed_key(text, "Token"), printed_key(text, "API key")
            async with connect(f"ws://{url}/connection/websocket") as client:
                await client.send(json.dumps({"id": 1, "connect": {"token": token}}))
                assert CHANNEL in json.loads(await client.recv())["connect"]["subs"]
                assert publish(url, key) == {"result": {}}
                assert json.loads(await client.recv())["push"]["pub"]["data"] == "hello"
            async with connect(f"ws://{url}/connection/websocket") as stranger:
                await stranger.send(json.dumps({"id": 1, "connect": {}}))
                with pytest.raises(ConnectionClosed) as closed:
                    await stranger.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 3500
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def publish(url: str, key: str) -> object:
    body = json.dumps({"channel": CHANNEL, "data": "hello"}).encode()
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{url}/api/publish", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read())
