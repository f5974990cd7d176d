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

# Everything that the tests render; Helm 4 asks for each kind, Helm 3 for those that it looks up.
_KINDS = {
    "v1": {"Secret": "secrets", "Service": "services", "ServiceAccount": "serviceaccounts", "Pod": "pods"},
    "apps/v1": {"Deployment": "deployments"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "keda.sh/v1alpha1": {"ScaledObject": "scaledobjects"},
}


def discovery() -> dict[str, Any]:
    """What every cluster answers about itself, by path."""
    found: dict[str, Any] = {
        "/version": {"major": "1", "minor": "31", "gitVersion": "v1.31.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [_group(each) for each in _KINDS if "/" in each],
        },
    }
    for version, kinds in _KINDS.items():
        resources = [
            {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get"]}
            for kind, plural in kinds.items()
        ]
        found[_root(version)] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
    return found


def path_of(standing: Mapping[str, Any]) -> str:
    """Where the API has an object."""
    plural = _KINDS[standing["apiVersion"]][standing["kind"]]
    return f"{_root(standing['apiVersion'])}/namespaces/{NAMESPACE}/{plural}/{standing['metadata']['name']}"


def _group(version: str) -> dict[str, Any]:
    name, _, short = version.partition("/")
    described = {"groupVersion": version, "version": short}
    return {"name": name, "versions": [described], "preferredVersion": described}


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
        options = ["--dry-run=server", "--is-upgrade", "--disable-openapi-validation"]
        return render(values, options=[*options, "--kubeconfig", str(self.kubeconfig)])


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
