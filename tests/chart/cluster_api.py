"""A few answers of a Kubernetes API, for templates that look up what it has (`helm upgrade --dry-run=server`)."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.chart.rendering import NAMESPACE, Objects, render

_RESOURCES = {"v1": ("secrets", "Secret"), "apps/v1": ("deployments", "Deployment")}


def discovery() -> dict[str, Any]:
    """What every cluster answers about itself, by path."""
    apps = {"groupVersion": "apps/v1", "version": "v1"}
    found: dict[str, Any] = {
        "/version": {"major": "1", "minor": "31", "gitVersion": "v1.31.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [{"name": "apps", "versions": [apps], "preferredVersion": apps}],
        },
    }
    for version, (plural, kind) in _RESOURCES.items():
        resource = {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get"]}
        found[_root(version)] = {"kind": "APIResourceList", "groupVersion": version, "resources": [resource]}
    return found


def path_of(standing: Mapping[str, Any]) -> str:
    """Where the API has an object."""
    plural, _ = _RESOURCES[standing["apiVersion"]]
    return f"{_root(standing['apiVersion'])}/namespaces/{NAMESPACE}/{plural}/{standing['metadata']['name']}"


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


class _Api(BaseHTTPRequestHandler):
    """Answers from the server's `answers`, and notes in `asked` what was asked."""

    server: "ClusterApi"

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


class ClusterApi(ThreadingHTTPServer):
    """A cluster that holds `standing`, on a loopback port."""

    def __init__(self, standing: Sequence[Mapping[str, Any]], directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.answers = discovery() | {path_of(each): dict(each) for each in standing}
        self.asked: list[str] = []
        self.kubeconfig = directory / f"kubeconfig-{self.server_port}"
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
            "current-context": "c",
        }
        self.kubeconfig.write_text(yaml.safe_dump(configuration))

    def upgrade(self, values: Mapping[str, Any]) -> Objects:
        """What `helm upgrade` would send here."""
        return render(values, options=["--dry-run=server", "--is-upgrade", "--kubeconfig", str(self.kubeconfig)])


@contextmanager
def cluster_with(standing: Sequence[Mapping[str, Any]], directory: Path) -> Iterator[ClusterApi]:
    """A cluster that holds `standing` while the context lasts."""
    with ClusterApi(standing, directory) as api:
        thread = threading.Thread(target=api.serve_forever)
        thread.start()
        try:
            yield api
        finally:
            api.shutdown()
            thread.join(10)


def upgraded(values: Mapping[str, Any], standing: Sequence[Mapping[str, Any]], directory: Path) -> Objects:
    """What `helm upgrade` would send to a cluster that holds `standing`."""
    with cluster_with(standing, directory) as api:
        return api.upgrade(values)
