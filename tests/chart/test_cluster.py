"""The chart in a real cluster: install, test, upgrade, roll back, uninstall. Needs KUBECONFIG and the image.

STARLING_IMAGE names an image that the cluster can pull (`registry/starling:tag`). Everything happens in a namespace of
its own, held to the Pod Security Standard "restricted", which is deleted at the end.
"""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.chart.rendering import CHART, HELM, RELEASE

WAIT_SECONDS = 300
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


def run(*command: str) -> str:
    """Run a command; fails the test with its words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS + 30)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Cluster:
    """A namespace of a real cluster, and the image that runs in it."""

    namespace: str
    image: str

    def helm(self, verb: str, *arguments: str) -> str:
        """Run helm on the release."""
        return run(HELM, verb, RELEASE, *arguments, "--namespace", self.namespace)

    def deploy(self, verb: str, *values: str) -> None:
        """Install or upgrade, and wait until the pods are ready."""
        repository, _, tag = self.image.rpartition(":")
        common = (f"image.repository={repository}", f"image.tag={tag}", "redis.enabled=true")
        settings = (*common, "secrets.tokenHmacSecret.generate=true", *values)
        sets = [part for value in settings for part in ("--set", value)]
        self.helm(verb, str(CHART), *sets, "--wait", "--timeout", f"{WAIT_SECONDS}s")

    def test(self) -> None:
        """Run `helm test`."""
        assert "answered as it should" in self.helm("test", "--logs", "--timeout", "120s")

    def get(self, kind: str, name: str, path: str) -> str:
        """One field of an object."""
        return run("kubectl", "--namespace", self.namespace, "get", kind, name, "--output", f"jsonpath={path}")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG is not set, so there is no cluster to install the chart in")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, so the cluster cannot be asked")
    image = os.environ.get("STARLING_IMAGE", "")
    if ":" not in image:
        pytest.skip("STARLING_IMAGE does not name an image with its tag that the cluster can pull")
    namespace = f"starling-{uuid.uuid4().hex[:8]}"
    run("kubectl", "create", "namespace", namespace)
    try:
        run("kubectl", "label", "namespace", namespace, RESTRICTED)
        yield Cluster(namespace, image)
    finally:
        run("kubectl", "delete", "namespace", namespace, "--wait=false")


@pytest.mark.timeout(4 * WAIT_SECONDS)
def test_install_upgrade_and_rollback(cluster: Cluster) -> None:
    cluster.deploy("install")
    cluster.test()
    secret = cluster.get("secret", RELEASE, "{.data}")

    cluster.deploy("upgrade", "settings.pingSeconds=20", "networkPolicy.enabled=true")
    cluster.test()
    assert cluster.get("secret", RELEASE, "{.data}") == secret, "the secret that was made up must outlive an upgrade"
    container = json.loads(cluster.get("deployment", RELEASE, "{.spec.template.spec.containers[0]}"))
    assert {"name": "STARLING_PING_SECONDS", "value": "20"} in container["env"]

    cluster.helm("rollback", "1", "--wait", "--timeout", f"{WAIT_SECONDS}s")
    cluster.test()
    container = json.loads(cluster.get("deployment", RELEASE, "{.spec.template.spec.containers[0]}"))
    assert not any(variable["name"] == "STARLING_PING_SECONDS" for variable in container["env"])

    cluster.helm("uninstall", "--wait")
    assert cluster.get("secret", RELEASE, "{.data}") == secret, "the secret that was made up must outlive the release"
