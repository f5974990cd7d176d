"""Request ids: made or taken, answered with, and never a way into a log line."""

from collections.abc import Iterator

import pytest
import structlog
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from starling.main import create_app
from starling.settings import load_settings


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app(load_settings({"STARLING_DEV": "true"}), CollectorRegistry())) as running:
        yield running


def test_every_answer_has_an_id_of_its_own(client: TestClient) -> None:
    one, two = (client.get("/livez").headers["x-request-id"] for _ in range(2))

    assert one != two
    assert len(one) == 16


def test_a_proxys_id_is_taken(client: TestClient) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "abc-123"}).headers["x-request-id"] == "abc-123"


@pytest.mark.parametrize("hostile", ["a b", "x" * 129, "\x1b[31m", '{"a":1}'])
def test_an_id_that_could_break_a_line_is_replaced(client: TestClient, hostile: str) -> None:
    answered = client.get("/livez", headers={"X-Request-ID": hostile}).headers["x-request-id"]

    assert answered != hostile
    assert len(answered) == 16


def test_a_clients_log_line_has_the_proxys_id(client: TestClient) -> None:
    processors = [structlog.contextvars.merge_contextvars]
    with capture_logs(processors=processors) as lines, client.websocket_connect("/ws", headers={"X-Request-ID": "r-1"}):
        pass

    (connected,) = [line for line in lines if line["event"] == "client_connected"]
    assert connected["request_id"] == "r-1"
    assert connected["connection_id"]
