"""What a revision of the Deployment holds: upgrade, rollback, undo and a lost pod bring back all of it.

Templates look up what is in the cluster; tests/chart/cluster_api.py answers in the place of one. A real cluster does
the same in tests/chart/test_cluster.py.
"""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from starling.engine.channels import ChannelsError
from starling.engine.channels_document import parse_channels
from tests.chart.cluster_api import upgraded
from tests.chart.rendering import NAMESPACE, RELEASE, Objects, RefusedError, channels_file, render

AUTOSCALED: dict[str, Any] = {"autoscaling": {"enabled": True, "minReplicas": 2, "targetConnections": 10}}
KEDA: dict[str, Any] = {
    "autoscaling": {"minReplicas": 2, "targetConnections": 10},
    "keda": {"enabled": True, "serverAddress": "http://prometheus:9090"},
}


def standing_deployment(pods: int, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    """The Deployment as the cluster has it, with as many pods as were chosen last."""
    metadata = {"name": RELEASE, "namespace": NAMESPACE, "annotations": annotations or {}}
    return {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": metadata, "spec": {"replicas": pods}}


def replicas(objects: Objects) -> int | None:
    """What is written for `replicas`; None where the field is left out."""
    found: int | None = objects.one("Deployment")["spec"].get("replicas")
    return found


@pytest.mark.parametrize("scaler", [AUTOSCALED, KEDA], ids=["autoscaling", "keda"])
@pytest.mark.parametrize(("live", "written"), [(4, 4), (10, 10), (2, 2), (1, 2)])
def test_an_upgrade_that_switches_an_autoscaler_on_keeps_the_pods_that_run(
    scaler: dict[str, Any], live: int, written: int, tmp_path: Path
) -> None:
    """The revision before had `replicas`: left out, Helm 3 would remove it, and Kubernetes would go to one pod."""
    assert replicas(upgraded(scaler, [standing_deployment(live)], tmp_path)) == written


@pytest.mark.parametrize("scaler", [AUTOSCALED, KEDA], ids=["autoscaling", "keda"])
def test_the_upgrade_after_that_still_writes_it(scaler: dict[str, Any], tmp_path: Path) -> None:
    switched = upgraded(scaler, [standing_deployment(3)], tmp_path).one("Deployment")
    standing = standing_deployment(6, switched["metadata"].get("annotations"))
    assert replicas(upgraded(scaler, [standing], tmp_path)) == 6


@pytest.mark.parametrize("scaler", [AUTOSCALED, KEDA], ids=["autoscaling", "keda"])
def test_a_release_that_was_autoscaled_from_the_start_never_writes_replicas(
    scaler: dict[str, Any], tmp_path: Path
) -> None:
    """No revision has the field, so neither an upgrade nor a rollback of Helm 3, nor a sync, ever changes it."""
    first = render(scaler)
    assert replicas(first) is None
    standing = standing_deployment(4, first.one("Deployment")["metadata"]["annotations"])
    assert replicas(upgraded(scaler, [standing], tmp_path)) is None
    assert replicas(render(scaler, options=["--is-upgrade"])) is None, "tools that only render leave it out as well"


def test_without_an_autoscaler_the_values_say_how_many_pods_there_are(tmp_path: Path) -> None:
    marked = render(AUTOSCALED).one("Deployment")["metadata"]["annotations"]
    assert replicas(render()) == 2
    assert replicas(upgraded({}, [standing_deployment(5)], tmp_path)) == 2
    off = upgraded({}, [standing_deployment(5, marked)], tmp_path)
    assert replicas(off) == 2
    assert marked.keys().isdisjoint(off.one("Deployment")["metadata"].get("annotations", {}))


def test_the_channels_file_is_part_of_the_pods_revision() -> None:
    chat = {"presence": True, "allow_subscribe_for_client": True, "channel_regex": '^[a-z]+: "x" #1$'}
    channels = {"default": {"history_size": 10, "history_ttl": "300s"}, "namespaces": {"chat": chat}}
    objects = render({"channels": channels})
    assert yaml.safe_load(channels_file(objects)) == channels
    assert parse_channels(yaml.safe_load(channels_file(objects)), developer=False).namespaces.keys() == {"chat"}
    assert objects.of("ConfigMap") == [], "an object beside the Deployment would not be rolled back with it"


def test_pods_mount_nothing_of_the_chart_that_changes_in_place() -> None:
    objects = render({"channels": {"default": {}}, "secrets": {"apiKeys": {"value": "a" * 20}}})
    own = {
        document["metadata"]["name"] for document in objects.documents if document["kind"] in {"ConfigMap", "Secret"}
    }
    assert own == {f"{RELEASE}-values"}
    assert not any("configMap" in volume or "secret" in volume for volume in objects.pod["volumes"])


def test_another_value_of_a_secret_has_another_key_so_that_pods_of_both_revisions_start(tmp_path: Path) -> None:
    def reference(objects: Objects) -> str:
        name = objects.environment["STARLING_API_KEYS"]
        assert name["name"] == f"{RELEASE}-values"
        key: str = name["key"]
        return key

    def held(objects: Objects) -> dict[str, str]:
        data = objects.one("Secret", f"{RELEASE}-values")["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def given(letter: str) -> dict[str, Any]:
        return {"revisionHistoryLimit": 2, "secrets": {"apiKeys": {"value": letter * 20}}}

    revisions = [render(given("a"))]
    for letter in "bcd":
        standing = revisions[-1].one("Secret", f"{RELEASE}-values")
        revisions.append(upgraded(given(letter), [standing], tmp_path))
    keys = [reference(objects) for objects in revisions]
    assert len(set(keys)) == 4
    assert held(revisions[1]) == {keys[1]: "b" * 20, keys[0]: "a" * 20}
    assert held(revisions[3]) == {keys[number]: letter * 20 for number, letter in ((1, "b"), (2, "c"), (3, "d"))}
    again = upgraded(given("b"), [revisions[3].one("Secret", f"{RELEASE}-values")], tmp_path)
    assert reference(again) == keys[1]
    assert held(again)[keys[3]] == "d" * 20


WRONG_CHANNELS: list[tuple[dict[str, Any], str]] = [
    ({"default": {"channel_regex": "["}}, "channels.default: channel_regex is not a regular expression"),
    ({"namespaces": {"news": {"channel_regex": "["}}}, "channels.namespaces.news: channel_regex is not"),
    *(
        ({"namespaces": {"news": {"channel_regex": wrong}}}, "channels.namespaces.news: channel_regex is not")
        for wrong in (
            "(a",
            "a)",
            "*a",
            "a**",
            "[a-",
            "[z-a]",
            "(?P<1>a)",
            "a\\",
            "(a|b",
            "a{2,1}",
            "\\pL",
            "(?U)a",
            "\\Qa",
        )
    ),
    ({"default": {"history_size": 1}}, "channels.default: history_size and history_ttl go together"),
    ({"default": {"history_ttl": "5m"}}, "channels.default: history_size and history_ttl go together"),
    ({"default": {"history_size": 1, "history_ttl": "0s"}}, "history_size and history_ttl go together"),
    ({"namespaces": {"a": {"force_recovery": True}}}, "channels.namespaces.a: force_recovery needs history"),
    ({"namespaces": {"a": {"force_positioning": True}}}, "channels.namespaces.a: force_positioning needs history"),
    (
        {"default": {"history_size": 1, "history_ttl": "2h", "history_meta_ttl": "90m"}},
        "channels.default: history_meta_ttl must not be shorter",
    ),
    ({"default": {"history_size": 1, "history_ttl": "31d"}}, "set history_meta_ttl to as long"),
    ({"default": {"allowed_delta_types": ["fossil"]}}, "channels.default: allowed_delta_types needs history"),
    (
        {"default": {"history_size": 1, "history_ttl": "5m", "delta_publish": True}},
        "channels.default: delta_publish needs readers",
    ),
    ({"namespaces": {"a": {"auto_cache_recover": True}}}, "channels.namespaces.a: auto_cache_recover is for cache"),
    ({"namespaces": {"a b": {}}}, "channels.namespaces.a b: a name has"),
    (
        {"default": {"stream": "text", "history_size": 1, "history_ttl": "5m"}},
        "channels.default: history_size does not go with stream",
    ),
    (
        {"namespaces": {"a": {"stream": "text", "allow_publish_for_client": True}}},
        "channels.namespaces.a: allow_publish_for_client does not go with stream",
    ),
    ({"default": {"stream": "any", "force_recovery_mode": "cache"}}, "force_recovery_mode: cache does not go with"),
    ({"default": {"stream_ttl": "5m"}}, "channels.default: stream_ttl is for append-only streams"),
]


@pytest.mark.parametrize(("channels", "words"), WRONG_CHANNELS, ids=[str(channels) for channels, _ in WRONG_CHANNELS])
def test_a_channels_file_that_the_server_refuses_is_refused_when_the_chart_is_rendered(
    channels: dict[str, Any], words: str
) -> None:
    with pytest.raises(ChannelsError):
        parse_channels(channels, developer=False)
    with pytest.raises(RefusedError, match=re.escape(words)):
        render({"channels": channels})


@pytest.mark.parametrize(
    "options",
    [
        *({"channel_regex": good} for good in ("^[a-z]+$", "a|b", "(?i)x", "a{2,3}", "\\d+", "]", "^$", "a\\\\")),
        # Python's alone: Helm cannot compile them, and leaves them to the server.
        *(
            {"channel_regex": good}
            for good in ("^(?!admin)", "(a)\\1", "(?<=a)b", "a++", "(?>a)b", "(?#c)a", "a{1001}")
        ),
        *({"channel_regex": good} for good in ("(?P<x>a)(?P=x)", "\\u0041", "(?x) a", "a\\Z", "\\\\p")),
        {"history_size": 10, "history_ttl": "30d"},
        {"history_size": 10, "history_ttl": "90s", "history_meta_ttl": "1.5m", "force_recovery": True},
        {"history_size": 10, "history_ttl": " 1h ", "force_positioning": True},
        {"history_size": 0, "history_ttl": 0},
        {"history_size": 10, "history_ttl": "1500ms", "history_meta_ttl": "2s"},
        {"stream": "text", "append_window": "40ms", "stream_ttl": "7d", "force_recovery": True},
    ],
    ids=str,
)
def test_a_channels_file_that_the_server_takes_is_taken(options: dict[str, Any]) -> None:
    channels = {"namespaces": {"news": options}}
    parse_channels(channels, developer=False)
    assert yaml.safe_load(channels_file(render({"channels": channels}))) == channels


def test_a_channels_file_that_no_annotation_holds_is_refused() -> None:
    namespaces = {f"namespace-{number}": {"channel_regex": "x" * 90} for number in range(2000)}
    with pytest.raises(RefusedError, match=r"a pod's annotation may have 200000: .* settings\.channelsFile"):
        render({"channels": {"namespaces": namespaces}})
