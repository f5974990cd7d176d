"""Whatever OpenAPI allows, and a good deal that it does not, is sent to the running service: no answer is a 5xx."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from tests.support.running import Starling

BOUNDED = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def starling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    """One worker on memory in developer mode, with history and presence everywhere."""
    channels = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text("default: {history_size: 10, history_ttl: 60s, presence: true}\n")
    with Starling({"STARLING_DEV": "true", "STARLING_CHANNELS_FILE": str(channels)}) as running:
        yield running


def test_nothing_that_is_sent_is_answered_with_a_5xx(starling: Starling) -> None:
    schema = schemathesis.openapi.from_url(f"{starling.http}/openapi.json")
    sent: Counter[str] = Counter()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        _send_all(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), starling, sent)
        # Nothing about a request without parameters can be wrong.
        if operation.method != "get":
            _send_all(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), starling, sent)

    assert {path for path in sent if path.startswith("/api/")} >= {"/api/publish", "/api/batch", "/api/revoke_token"}
    assert all(count >= 10 for path, count in sent.items() if path.startswith("/api/")), sent


def _send_all(cases: SearchStrategy[Any], starling: Starling, sent: Counter[str]) -> None:
    @given(case=cases)
    @BOUNDED
    def send(case: schemathesis.Case[Any]) -> None:
        if case.path == "/api/capture" and isinstance(case.body, dict):
            _shorten(case.body)
        answer = case.call(base_url=starling.http, headers={"X-API-Key": "dev"})
        sent[case.path] += 1
        case.validate_response(answer, checks=[not_a_server_error])

    send()


def _shorten(trace: dict[str, Any]) -> None:
    """A trace that is asked for rightly answers as long as it says."""
    seconds = trace.get("seconds", 30)
    if isinstance(seconds, int | float) and 0 < seconds <= 600:
        trace["seconds"] = 0.02


def test_it_logged_no_failure(starling: Starling) -> None:
    assert [line for line in starling.lines if line["level"] in {"error", "critical"}] == []
