"""The chart in a real cluster: a trial, upgrades, autoscaling, wrong channels, a lost pod, evictions under load.

`make test-cluster` runs it. It needs KUBECONFIG, kubectl, and in STARLING_IMAGE an image that the cluster can pull
(`registry/starling:tag`); STARLING_REDIS_IMAGE replaces the Redis of the chart, and HELM the helm of this environment.
Every test has a namespace of its own, held to the Pod Security Standard "restricted", which is deleted at its end.
"""

import base64
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from starling.cli.live import ANSWERED
from tests.chart.rendering import CHART, HELM, RELEASE, merged

WAIT_SECONDS = 300
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
SERVER = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=server"
LOAD = Path(__file__).with_name("cluster_load.py")
CHANNELS_FILE = "/etc/starling/channels/channels.yaml"
NEWS: dict[str, Any] = {
    "allow_subscribe_for_client": True,
    "history_size": 10_000,
    "history_ttl": "1h",
    "force_recovery": True,
}
# Small enough for a cluster of one small node.
SMALL = {"resources": {"requests": {"cpu": "20m", "memory": "96Mi"}}}
JOINED = {**SMALL, "redis": {"enabled": True}, "replicaCount": 2}

pytestmark = pytest.mark.timeout(4 * WAIT_SECONDS)


def run(*command: str, text: str | None = None) -> str:
    """Run a command; fails the test with its words when it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=WAIT_SECONDS + 30)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def wait_until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Ask once a second until it is so; fails the test with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(1)


@dataclass(frozen=True)
class Cluster:
    """A namespace of a real cluster, and the images that run in it."""

    namespace: str
    image: str
    redis_image: str

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl in the namespace."""
        return run("kubectl", "--namespace", self.namespace, *arguments, text=text)

    def helm(self, verb: str, *arguments: str, text: str | None = None) -> str:
        """Run helm on the release."""
        return run(HELM, verb, RELEASE, *arguments, "--namespace", self.namespace, text=text)

    def deploy(self, verb: str, values: dict[str, Any] | None = None, *, wait: bool = True) -> None:
        """Install or upgrade with `values`, by default until the pods are ready."""
        options = ["--wait", "--timeout", f"{WAIT_SECONDS}s"] if wait else []
        self.helm(verb, str(CHART), "--values", "-", *options, text=yaml.safe_dump(self._with_images(values or {})))

    def _with_images(self, values: dict[str, Any]) -> dict[str, Any]:
        images: dict[str, Any] = {"image": _image_values(self.image)}
        if self.redis_image:
            images["redis"] = {"image": _image_values(self.redis_image)}
        return merged(images, values)

    def test(self) -> None:
        """Run `helm test`."""
        assert ANSWERED in self.helm("test", "--logs", "--timeout", "120s")

    def get(self, kind: str, name: str, path: str) -> str:
        """One field of an object."""
        return self.kubectl("get", kind, name, "--output", f"jsonpath={path}")

    def replicas(self) -> int:
        """How many pods the Deployment should have."""
        return int(self.get("deployment", RELEASE, "{.spec.replicas}"))

    def pods(self) -> list[dict[str, Any]]:
        """The server's pods that are not on their way out."""
        found = json.loads(self.kubectl("get", "pods", "--selector", SERVER, "--output", "json"))["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def rolled_out(self) -> None:
        """Wait until every pod is of the newest revision and ready."""
        self.kubectl("rollout", "status", f"deployment/{RELEASE}", "--timeout", f"{WAIT_SECONDS}s")

    def channels_files(self) -> list[Any]:
        """The channels file of every pod, as it is on its disk."""
        read = f"print(open({CHANNELS_FILE!r}).read())"
        names = [pod["metadata"]["name"] for pod in self.pods()]
        return [yaml.safe_load(self.kubectl("exec", name, "--", "python", "-c", read)) for name in names]

    def delete_a_ready_pod(self) -> None:
        """As a lost node would, and wait until another has taken its place."""
        victim = next(pod["metadata"]["name"] for pod in self.pods() if _ready(pod))
        before = sum(map(_ready, self.pods()))
        self.kubectl("delete", "pod", victim, "--wait=false")
        wait_until(
            lambda: sum(map(_ready, self.pods())) >= before,
            f"a pod in the place of {victim} is ready",
        )

    @contextmanager
    def watched_replicas(self) -> Iterator[list[int]]:
        """Every number of pods that the Deployment is asked to have, while the context lasts."""
        seen: list[int] = []
        command = ["kubectl", "--namespace", self.namespace, "get", "deployment", RELEASE, "--watch"]
        command += ["--output", 'jsonpath={.spec.replicas}{"\\n"}']
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
            try:
                yield seen
            finally:
                watch.terminate()
                printed, _ = watch.communicate(timeout=30)
                seen += [int(line) for line in printed.split()]


def _image_values(image: str) -> dict[str, str]:
    name, _, digest = image.partition("@")
    if digest:
        return {"repository": name, "digest": digest}
    repository, _, tag = name.rpartition(":")
    return {"repository": repository, "tag": tag}


def _ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _restarted(pod: dict[str, Any]) -> bool:
    return any(status["restartCount"] for status in pod["status"].get("containerStatuses", ()))


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
        yield Cluster(namespace, image, os.environ.get("STARLING_REDIS_IMAGE", ""))
    finally:
        run("kubectl", "delete", "namespace", namespace, "--wait=false")


def test_an_installation_without_values_is_a_trial_that_works_and_keeps_its_keys(cluster: Cluster) -> None:
    cluster.deploy("install")
    cluster.test()
    secret = cluster.get("secret", RELEASE, "{.data}")
    assert {"api-keys", "token-hmac-secret"} == set(json.loads(secret))
    assert len(cluster.pods()) == 1

    cluster.deploy("upgrade", {"settings": {"pingSeconds": 20}})
    cluster.test()
    assert cluster.get("secret", RELEASE, "{.data}") == secret, "generated keys must outlive an upgrade"

    cluster.helm("uninstall", "--wait")
    assert cluster.get("secret", RELEASE, "{.data}") == secret, "generated keys must outlive the release"


def test_an_upgrade_with_a_network_policy_and_its_rollback(cluster: Cluster) -> None:
    cluster.deploy("install", JOINED)
    cluster.test()
    cluster.deploy("upgrade", {**JOINED, "settings": {"pingSeconds": 20}, "networkPolicy": {"enabled": True}})
    cluster.test()
    container = json.loads(cluster.get("deployment", RELEASE, "{.spec.template.spec.containers[0]}"))
    assert {"name": "STARLING_PING_SECONDS", "value": "20"} in container["env"]

    cluster.helm("rollback", "1", "--wait", "--timeout", f"{WAIT_SECONDS}s")
    cluster.test()
    container = json.loads(cluster.get("deployment", RELEASE, "{.spec.template.spec.containers[0]}"))
    assert not any(variable["name"] == "STARLING_PING_SECONDS" for variable in container["env"])


# No adapter serves this metric, so the autoscaler keeps to its bounds and leaves the number to the test.
AUTOSCALED: dict[str, Any] = {
    **JOINED,
    "autoscaling": {
        "enabled": True,
        "minReplicas": 2,
        "maxReplicas": 6,
        "targetConnections": 100,
        "metricName": "starling_metric_of_no_adapter",
    },
}


def test_upgrade_and_rollback_keep_the_pods_that_an_autoscaler_chose(cluster: Cluster) -> None:
    cluster.deploy("install", AUTOSCALED)
    wait_until(lambda: cluster.replicas() == 2, "the autoscaler brings the Deployment to its minimum")
    cluster.kubectl("scale", f"deployment/{RELEASE}", "--replicas", "4")
    cluster.rolled_out()

    with cluster.watched_replicas() as seen:
        cluster.deploy("upgrade", merged(AUTOSCALED, {"settings": {"pingSeconds": 20}}))
        cluster.deploy("upgrade", merged(AUTOSCALED, {"settings": {"pingSeconds": 21}}))
        cluster.helm("rollback", "1", "--wait", "--timeout", f"{WAIT_SECONDS}s")
    assert set(seen) == {4}
    cluster.test()


def test_switching_an_autoscaler_on_in_an_upgrade_keeps_the_pods(cluster: Cluster) -> None:
    cluster.deploy("install", {**JOINED, "replicaCount": 3})
    with cluster.watched_replicas() as seen:
        cluster.deploy("upgrade", AUTOSCALED)
        cluster.deploy("upgrade", merged(AUTOSCALED, {"settings": {"pingSeconds": 20}}))
    assert set(seen) == {3}


def channels(**options: Any) -> dict[str, Any]:
    """The two pods over Redis, with the namespace `news` and more options for it."""
    return {**JOINED, "channels": {"namespaces": {"news": {**NEWS, **options}}}}


def test_a_wrong_channels_file_stops_no_pod_of_the_revision_before(cluster: Cluster) -> None:
    cluster.deploy("install", channels())
    refused = subprocess.run(
        [HELM, "upgrade", RELEASE, str(CHART), "--namespace", cluster.namespace, "--values", "-"],
        input=yaml.safe_dump(channels(channel_regex="[")),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert refused.returncode != 0
    assert "channel_regex is not a regular expression" in refused.stderr

    # Only Python can say that this one is wrong, so the server refuses it: the new pod does not start.
    cluster.deploy("upgrade", channels(channel_regex="(?<=a+)b"), wait=False)
    wait_until(lambda: any(map(_restarted, cluster.pods())), "the new pod ends, and is restarted")
    cluster.delete_a_ready_pod()

    cluster.kubectl("rollout", "undo", f"deployment/{RELEASE}")
    cluster.rolled_out()
    cluster.delete_a_ready_pod()
    assert cluster.channels_files() == [channels()["channels"]] * 2
    cluster.test()


def test_undo_and_rollback_bring_back_the_channels_file_and_the_secrets_of_their_revision(cluster: Cluster) -> None:
    def with_key(letter: str, **options: Any) -> dict[str, Any]:
        return merged(channels(**options), {"secrets": {"apiKeys": {"value": letter * 24}}})

    def keys() -> set[str]:
        read = "import os; print(os.environ['STARLING_API_KEYS'])"
        names = [pod["metadata"]["name"] for pod in cluster.pods()]
        return {cluster.kubectl("exec", name, "--", "python", "-c", read).strip() for name in names}

    good, mistaken = channels()["channels"], channels(allow_subscribe_for_client=False)["channels"]
    cluster.deploy("install", with_key("a"))
    cluster.deploy("upgrade", with_key("b", allow_subscribe_for_client=False))
    assert (cluster.channels_files(), keys()) == ([mistaken] * 2, {"b" * 24})

    cluster.kubectl("rollout", "undo", f"deployment/{RELEASE}")
    cluster.rolled_out()
    cluster.delete_a_ready_pod()
    assert (cluster.channels_files(), keys()) == ([good] * 2, {"a" * 24})

    cluster.helm("rollback", "1", "--wait", "--timeout", f"{WAIT_SECONDS}s")
    cluster.delete_a_ready_pod()
    assert (cluster.channels_files(), keys()) == ([good] * 2, {"a" * 24})
    cluster.test()


@contextmanager
def load(cluster: Cluster, clients: int) -> Iterator[dict[str, int]]:
    """Clients and a publisher in a pod of their own while the context lasts; afterwards what they counted."""
    cluster.kubectl("create", "configmap", "load", f"--from-file=load.py={LOAD}")
    deployment = json.loads(cluster.kubectl("get", "deployment", RELEASE, "--output", "json"))
    server = deployment["spec"]["template"]["spec"]
    keys = {"STARLING_TOKEN_HMAC_SECRET": "token-hmac-secret", "STARLING_API_KEYS": "api-keys"}
    environment: list[dict[str, Any]] = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": RELEASE, "key": key}}} for name, key in keys.items()
    ]
    environment += [{"name": "LOAD_URL", "value": f"http://{RELEASE}"}, {"name": "LOAD_CLIENTS", "value": str(clients)}]
    container = {
        "name": "load",
        "image": server["containers"][0]["image"],
        "command": ["python", "/load/load.py"],
        "env": environment,
        "securityContext": server["containers"][0]["securityContext"],
        "volumeMounts": [{"name": "load", "mountPath": "/load"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    specification = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "securityContext": server["securityContext"],
        "containers": [container],
        "volumes": [{"name": "load", "configMap": {"name": "load"}}, {"name": "tmp", "emptyDir": {}}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "load"}, "spec": specification}
    cluster.kubectl("apply", "--filename", "-", text=json.dumps(pod))
    wait_until(lambda: cluster.get("pod", "load", "{.status.phase}") == "Running", "the load runs")
    wait_until(lambda: "subscribed" in cluster.kubectl("logs", "load"), "the clients are subscribed")
    counted: dict[str, int] = {}
    yield counted
    cluster.kubectl("exec", "load", "--", "python", "-c", "open('/tmp/stop', 'w')")
    wait_until(lambda: cluster.get("pod", "load", "{.status.phase}") == "Succeeded", "the load has counted")
    counted |= json.loads(cluster.kubectl("logs", "load").splitlines()[-1])
    print(counted)


def evict(cluster: Cluster, name: str, body: Path) -> None:
    """Evict a pod as the draining of its node does, again and again while the disruption budget forbids it."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    body.write_text(json.dumps(eviction | {"metadata": {"name": name, "namespace": cluster.namespace}}))
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{name}/eviction"

    def evicted() -> bool:
        done = subprocess.run(["kubectl", "create", "--raw", path, "--filename", str(body)], capture_output=True)
        return done.returncode == 0 or b"not found" in done.stderr.lower()

    wait_until(evicted, f"{name} may be evicted")


def test_an_upgrade_and_the_eviction_of_every_pod_lose_nothing_under_load(cluster: Cluster, tmp_path: Path) -> None:
    cluster.deploy("install", channels())
    assert base64.b64decode(json.loads(cluster.get("secret", RELEASE, "{.data}"))["api-keys"])
    with load(cluster, clients=20) as counted:
        cluster.deploy("upgrade", merged(channels(), {"settings": {"pingSeconds": 20}}))
        for name in [pod["metadata"]["name"] for pod in cluster.pods()]:
            evict(cluster, name, tmp_path / "eviction.json")
        cluster.rolled_out()
    assert counted["published"] > 0
    assert {name: counted[name] for name in ("lost", "doubled", "reordered")} == {
        "lost": 0,
        "doubled": 0,
        "reordered": 0,
    }
