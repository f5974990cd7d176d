"""The programs of the page about language models, as printed, against a fake model and a running service."""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from tests.support.fake_model import FakeModel
from tests.support.running import Starling
from tests.support.waiting import DEADLINE

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
KEY = "the-key-of-a-test-long-enough"
TOKENS = ["Once", " upon", " a", " time", ", Ärger", " 😀", '"', "\n"]

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    path = tmp_path_factory.mktemp("answers") / "channels.yaml"
    path.write_text("namespaces: {answers: {stream: text}}")
    environment = {
        "STARLING_CHANNELS_FILE": str(path),
        "STARLING_API_KEYS": KEY,
        "STARLING_BROKER_URL": "memory://",
        "STARLING_TOKEN_HMAC_SECRET": "a test's own secret, longer than thirty-two bytes",
    }
    with Starling(environment) as running:
        yield running


def begin(program: str, service: Starling, model: FakeModel, channel: str) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "MODEL_URL": model.url,
        "MODEL_KEY": "none",
        "STARLING_API_URL": service.http,
        "STARLING_API_KEY": KEY,
    }
    command = [sys.executable, str(EXAMPLES / program), channel, "Tell me a story"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(service: Starling, method: str, **body: Any) -> Any:
    answer = httpx2.post(f"{service.http}/api/{method}", json=body, headers={"X-API-Key": KEY}).json()
    return answer.get("result", answer)


def text(service: Starling, channel: str) -> str:
    publications = call(service, "history", channel=channel, limit=-1)["publications"]
    return "".join(each["data"]["text"] for each in publications)


@pytest.mark.parametrize("program", ["answer_openai.py", "answer_anthropic.py"])
def test_an_answer_is_written_whole_and_closed(service: Starling, program: str) -> None:
    channel = f"answers:{program}"
    with FakeModel(TOKENS) as model:
        process = begin(program, service, model, channel)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert text(service, channel) == "".join(TOKENS)
    assert call(service, "stream_info", channel=channel)["status"] == "complete"


def test_the_number_of_tokens_belongs_to_the_end(service: Starling) -> None:
    with FakeModel(TOKENS) as model:
        begin("answer_anthropic.py", service, model, "answers:final").communicate(timeout=30)
    assert call(service, "stream_info", channel="answers:final")["final"] == {"tokens": len(TOKENS)}


def test_an_error_of_the_model_is_the_reason_of_the_end(service: Starling) -> None:
    with FakeModel(TOKENS, fails=True) as model:
        process = begin("answer_anthropic.py", service, model, "answers:error")
        process.communicate(timeout=30)
    info = call(service, "stream_info", channel="answers:error")
    assert process.returncode != 0
    assert (info["status"], info["reason"]) == ("failed", "RuntimeError: Overloaded")


def test_the_backend_of_use_chat_returns_where_an_answer_is_read_and_a_reload_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "channels.yaml").write_text(
        "namespaces: {messages: {stream: json, stream_over_http: read, allow_subscribe_for_client: true}}"
    )
    monkeypatch.setenv("STARLING_DEV", "true")
    monkeypatch.setenv("STARLING_CHANNELS_FILE", str(tmp_path / "channels.yaml"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("answer_use_chat")

    async def tokens(_: object) -> AsyncIterator[str]:
        for token in TOKENS:
            yield token

    monkeypatch.setattr(example, "tokens", tokens)
    with TestClient(example.app) as page:
        assert page.get("/chat/1/stream").status_code == 204
        asked = page.post("/chat", json={"id": "1", "messages": [{"role": "user"}]})
        assert asked.status_code == 201
        assert page.get("/chat/1/stream").headers["location"] == asked.headers["location"]
        deadline = time.monotonic() + 20
        while "stream-closed" not in (read := page.get(asked.headers["location"], params={"offset": "-1"})).headers:
            assert time.monotonic() < deadline
    parts = read.json()
    assert [part["type"] for part in parts] == [
        "start", "text-start", *["text-delta"] * len(TOKENS), "text-end", "finish"
    ]  # fmt: skip
    assert "".join(part.get("delta", "") for part in parts) == "".join(TOKENS)


def test_a_stop_button_ends_the_program(service: Starling) -> None:
    with FakeModel(TOKENS, hangs=True) as model:
        process = begin("answer_openai.py", service, model, "answers:stop")
        deadline = time.monotonic() + DEADLINE
        while "length" not in (info := call(service, "stream_info", channel="answers:stop")) or not info["length"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        call(service, "stream_cancel", channel="answers:stop", reason="enough")
        printed, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert printed == "stopped: enough\n"
