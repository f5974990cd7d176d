"""Durable Streams by the public suite and the public clients, unmodified; and how the suite's results are read."""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.durable_suite import CLIENT, SERVICES, SUITE, USE_CHAT, install, judge, read_results
from tests.support.running import Starling

KEY = "the-key-of-a-test-long-enough"
CHANNELS = "namespaces: {answers: {stream: text}, events: {stream: json}}\n"
HERE = Path(__file__).parent


def results(*tests: dict[str, Any]) -> dict[str, Any]:
    return {"testResults": [{"assertionResults": list(tests)}]}


PASSED = {"fullName": "Append Operations should append", "status": "passed"}


def test_what_is_skipped_on_purpose_is_listed_by_its_name() -> None:
    report = read_results(results(PASSED, {"fullName": "Fork - Creation should fork", "status": "skipped"}))
    assert report.passed == ["Append Operations should append"]
    assert report.left_out == ["Fork - Creation should fork"]
    assert report.failed == {}


def test_what_fails_or_is_skipped_otherwise_has_failed_and_so_has_a_run_without_a_test() -> None:
    failing = {"fullName": "SSE Mode a", "status": "failed", "failureMessages": ["Error: 400\n  at x"]}
    report = read_results(results(PASSED, failing, {"fullName": "SSE Mode b", "status": "skipped"}))
    assert report.failed == {"SSE Mode a": "Error: 400", "SSE Mode b": "skipped"}
    assert "failed: SSE Mode a: Error: 400" in report.text()
    assert read_results({"testResults": []}).failed == {"the run": "no test passed"}


@pytest.fixture(scope="module")
def suite() -> Path:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed; on Debian: apt-get install npm")
    return install(SUITE)


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.timeout(600)
@pytest.mark.parametrize("service", SERVICES)
def test_every_test_of_the_public_suite_passes_that_is_not_left_out_on_purpose(service: str, suite: Path) -> None:
    report = judge(service, suite)
    assert report.failed == {}
    assert len(report.passed) >= 250
    assert report.left_out


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    file = tmp_path_factory.mktemp("durable") / "channels.yaml"
    file.write_text(CHANNELS)
    with Starling({"STARLING_CHANNELS_FILE": str(file), "STARLING_API_KEYS": KEY, "STARLING_DEV": "true"}) as service:
        yield service


def javascript(suite: Path, *arguments: str) -> list[str]:
    return ["node", str(suite / CLIENT.name), *arguments]


def python(suite: Path, *arguments: str) -> list[str]:
    paths = f"sys.path.insert(0, {str(suite / 'python')!r})"
    code = f"import runpy, sys; {paths}; del sys.argv[0]; runpy.run_path(sys.argv[0])"
    return [sys.executable, "-I", "-c", code, str(HERE / "durable_client.py"), *arguments]


def ended(command: list[str], given: object = None) -> str:
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def api(served: Starling, method: str, **body: object) -> Any:
    request = urllib.request.Request(f"{served.http}/api/{method}", json.dumps(body).encode(), {"X-API-Key": KEY})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)["result"]


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_what_the_python_client_writes_the_javascript_client_reads_to_its_end(
    live: str, suite: Path, served: Starling
) -> None:
    channel = f"answers:{live}"
    url = f"{served.http}/streams/{channel}"
    texts = [f"Grüße {number} 😀\n" for number in range(50)]
    api(served, "stream_open", channel=channel)
    reader = subprocess.Popen(javascript(suite, "read", url, KEY, live), stdout=subprocess.PIPE, text=True)
    ended(python(suite, "write", url, KEY), texts)
    assert api(served, "stream_close", channel=channel)["status"] == "complete"
    assert reader.communicate(timeout=60)[0] == "".join(texts)
    assert reader.returncode == 0


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_what_the_javascript_producer_writes_once_the_python_client_reads(
    live: str, suite: Path, served: Starling
) -> None:
    channel = f"events:{live}"
    url = f"{served.http}/streams/{channel}"
    items = [{"number": number, "words": ["ün", []]} for number in range(500)]
    ended(javascript(suite, "write", url, KEY), items)
    assert api(served, "stream_info", channel=channel)["status"] == "complete"
    read = ended(python(suite, "read", url, KEY, live), len(items))
    assert [json.loads(line) for line in read.splitlines()] == items


@pytest.mark.long
@pytest.mark.processes
def test_the_vercel_ai_sdk_resumes_an_answer_in_its_middle(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "channels.yaml").write_text(
        "namespaces: {messages: {stream: json, stream_over_http: read, allow_subscribe_for_client: true}}"
    )
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[1] / "docs" / "examples"))
    environment = {
        "STARLING_DEV": "true",
        "STARLING_APP": "answer_use_chat:app",
        "STARLING_CHANNELS_FILE": str(tmp_path / "channels.yaml"),
    }
    with Starling(environment) as service:
        seen = json.loads(ended(["node", str(suite / USE_CHAT.name), service.http]))
    whole = "".join(f"{number} " for number in range(100))
    assert seen["none"] is None
    assert whole.startswith(seen["before"])
    assert 20 < len(seen["before"]) < len(whole)
    assert seen["resumed"] == whole
