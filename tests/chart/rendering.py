"""Renders the chart as `helm template` does, and finds objects in what comes out."""

import base64
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "starling"
# The helm of this environment, or another one to try.
HELM = os.environ.get("HELM") or str(Path(sys.executable).with_name("helm"))
RELEASE = "starling"
NAMESPACE = "live"

# Several pods, and what they need: a broker and a key to check tokens with.
ACCEPTED: Mapping[str, Any] = {
    "replicaCount": 2,
    "secrets": {"brokerUrl": {"existingSecret": "broker"}, "tokenHmacSecret": {"existingSecret": "tokens"}},
}


class RefusedError(Exception):
    """Helm did not render; the text is what it said."""


@dataclass(frozen=True)
class Objects:
    """The objects of one rendering, hooks included."""

    documents: Sequence[Mapping[str, Any]]

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """Every object of `kind`."""
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, name: str = RELEASE) -> Mapping[str, Any]:
        """The only object of `kind` with `name`."""
        found = [document for document in self.of(kind) if document["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} objects {kind} {name} among {self.names}"
        return found[0]

    @property
    def names(self) -> list[str]:
        """Kind and name of each."""
        return [f"{document['kind']} {document['metadata']['name']}" for document in self.documents]

    @property
    def template(self) -> Mapping[str, Any]:
        """What the server's pods are made from."""
        (template,) = [
            deployment["spec"]["template"]
            for deployment in self.of("Deployment")
            if deployment["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
        ]
        found: Mapping[str, Any] = template
        return found

    @property
    def pod(self) -> Mapping[str, Any]:
        """The specification of the server's pods."""
        pod: Mapping[str, Any] = self.template["spec"]
        return pod

    @property
    def container(self) -> Mapping[str, Any]:
        """The server's container."""
        container: Mapping[str, Any] = self.pod["containers"][0]
        return container

    @property
    def environment(self) -> dict[str, Any]:
        """The server's environment; a variable that comes from a Secret is its `secretKeyRef`."""
        return {
            variable["name"]: variable.get("value", variable.get("valueFrom", {}).get("secretKeyRef"))
            for variable in self.container["env"]
        }


def render(values: Mapping[str, Any] | None = None, *, options: Sequence[str] = ()) -> Objects:
    """Render with `values` on top of ACCEPTED. Raises RefusedError with Helm's words."""
    return render_exactly(merged(ACCEPTED, values or {}), options=options)


def render_exactly(values: Mapping[str, Any], *, options: Sequence[str] = (), chart: Path = CHART) -> Objects:
    """Render with `values` and nothing else. Equal ones are rendered once, so that what is returned is not changed."""
    return _rendered(yaml.safe_dump(dict(values)), tuple(options), chart)


@cache
def _rendered(values: str, options: tuple[str, ...], chart: Path) -> Objects:
    command = [
        HELM,
        "template",
        RELEASE,
        str(chart),
        "--namespace",
        NAMESPACE,
        "--kube-version",
        "1.31.0",
        "--values",
        "-",
    ]
    done = subprocess.run([*command, *options], input=values, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RefusedError(done.stderr)
    return Objects([document for document in yaml.safe_load_all(done.stdout) if document])


def environment_of(objects: Objects) -> dict[str, str]:
    """The server's environment with what the chart's own Secrets hold filled in."""
    secret = {
        key: base64.b64decode(value).decode() for one in objects.of("Secret") for key, value in one["data"].items()
    }
    return {
        name: value if isinstance(value, str) else secret[value["key"]] for name, value in objects.environment.items()
    }


def channels_file(objects: Objects) -> str:
    """The channels file as the kubelet writes it into the pod: the annotation that the volume names."""
    (volume,) = [volume for volume in objects.pod["volumes"] if volume["name"] == "channels"]
    (item,) = volume["downwardAPI"]["items"]
    assert item["path"] == "channels.yaml"
    name = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
    text: str = objects.template["metadata"]["annotations"][name]
    return text


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two maps of values as Helm lays them over each other."""
    both = dict(below)
    for key, value in above.items():
        lower = both.get(key)
        both[key] = merged(lower, value) if isinstance(lower, Mapping) and isinstance(value, Mapping) else value
    return both


def value_files() -> list[Path]:
    """The values that the chart brings along: for production, and for its tests."""
    return [CHART / "production.yaml", *sorted((CHART / "ci").glob("*-values.yaml"))]
