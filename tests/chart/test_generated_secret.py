"""A secret that the chart made up outlives an upgrade.

Helm reads the standing Secret back from the cluster. Here a few answers of a Kubernetes API stand in for one, since
rendering needs no more; tests/chart/test_cluster.py does the same with a real cluster where there is one.
"""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import NAMESPACE, RELEASE, render

STANDING = "the secret of the first installation"
SECRET_PATH = f"/api/v1/namespaces/{NAMESPACE}/secrets/{RELEASE}"
GENERATED = {"secrets": {"tokenHmacSecret": {"existingSecret": "", "generate": True}}}


def answers(*, secret_stands: bool) -> dict[str, Any]:
    """What the API answers, by path."""
    resource = {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get"]}
    found: dict[str, Any] = {
        "/version": {"major": "1", "minor": "31", "gitVersion": "v1.31.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [resource]},
    }
    if secret_stands:
        found[SECRET_PATH] = {
            "kind": "Secret",
            "apiVersion": "v1",
            "metadata": {"name": RELEASE, "namespace": NAMESPACE},
            "data": {"token-hmac-secret": base64.b64encode(STANDING.encode()).decode()},
        }
    return found


class Api(BaseHTTPRequestHandler):
    """Answers from the server's `answers`, and notes in `asked` what was asked."""

    server: "ApiServer"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        answer = self.server.answers.get(path)
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(answer or missing).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name for it
        pass


class ApiServer(ThreadingHTTPServer):
    """A few answers of a Kubernetes API on a loopback port."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.answers = answers
        self.asked: list[str] = []

    def kubeconfig(self, directory: Path) -> str:
        """Write the file that leads Helm here, and return its path."""
        path = directory / "kubeconfig"
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
            "current-context": "c",
        }
        path.write_text(yaml.safe_dump(configuration))
        return str(path)


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    with ApiServer(answers(secret_stands=request.param)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def made_up(api: ApiServer, directory: Path) -> str:
    """The secret as an upgrade would set it."""
    options = ["--dry-run=server", "--is-upgrade", "--kubeconfig", api.kubeconfig(directory)]
    secret = render(GENERATED, options=options).one("Secret")
    assert SECRET_PATH in api.asked
    return base64.b64decode(secret["data"]["token-hmac-secret"]).decode()


@pytest.mark.parametrize("api", [True], indirect=True)
def test_the_secret_that_stands_is_kept(api: ApiServer, tmp_path: Path) -> None:
    assert made_up(api, tmp_path) == STANDING


@pytest.mark.parametrize("api", [False], indirect=True)
def test_without_one_it_is_made_up(api: ApiServer, tmp_path: Path) -> None:
    secret = made_up(api, tmp_path)
    assert len(secret) == 64
    assert secret.isalnum()
