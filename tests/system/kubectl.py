"""A stand-in for kubectl: runbooks' commands run against processes of this machine, for there is no cluster.

`exec` runs the command here, with the settings of the pod; `logs` prints what the pod wrote; `get pods` asks each pod's
internal port. What would change a cluster, or report of one, is only understood, and said to be not done: a word or an
option that kubectl has not, or a pod that is not there, fails all the same.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The variable that names the file with the pods, by name: their settings, internal port and log.
PODS = "STAND_IN_PODS"
DEPLOYMENT = "starling"
SELECTOR = "app.kubernetes.io/instance=starling,app.kubernetes.io/component=server"


def main() -> int:
    """Do what kubectl was asked."""
    pods: dict[str, Any] = json.loads(Path(os.environ[PODS]).read_text())
    asked = _parser().parse_args()
    match asked.verb:
        case "exec":
            return subprocess.run(asked.command, env=os.environ | _pod(pods, asked.name)["environment"]).returncode
        case "logs" if asked.name is None:
            for name, pod in pods.items() if asked.selector == SELECTOR else ():
                for line in Path(pod["log"]).read_text(errors="replace").splitlines()[-asked.tail :]:
                    print(f"[pod/{name}/starling] {line}" if asked.prefix else line)
        case "logs":
            lines = Path(_pod(pods, asked.name)["log"]).read_text(errors="replace").splitlines()
            print("\n".join(lines[-asked.tail :]))
        case "get" if asked.kind == "pods" or (asked.kind == "pod" and asked.output != "jsonpath"):
            if asked.selector not in {None, SELECTOR}:
                return 0
            print("NAME          READY")
            for name, pod in pods.items():
                if asked.name in {None, name}:
                    print(f"{name}    {_ready(pod['internal'])}")
        case "get" if asked.kind == f"deployment/{DEPLOYMENT}" or (asked.kind, asked.name) == ("hpa", DEPLOYMENT):
            # The one field that runbooks compute with: a number of pods.
            print(len(pods))
        case _:
            _check_name(pods, asked)
            print(f"{asked.verb}: understood, and not done: there is no cluster")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kubectl", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    command = verbs.add_parser("exec")
    command.add_argument("name")
    command.add_argument("command", nargs="+")
    logs = verbs.add_parser("logs")
    logs.add_argument("name", nargs="?")
    logs.add_argument("-l", dest="selector")
    logs.add_argument("--prefix", action="store_true")
    logs.add_argument("--previous", action="store_true")
    logs.add_argument("--since", type=_duration)
    logs.add_argument("--tail", type=int, default=10_000)
    get = verbs.add_parser("get")
    get.add_argument("kind", choices=["pod", "pods", "events", "hpa", f"deployment/{DEPLOYMENT}"])
    get.add_argument("name", nargs="?")
    get.add_argument("-l", dest="selector")
    get.add_argument("-o", dest="output", type=lambda text: text.partition("=")[0], choices=["wide", "jsonpath"])
    get.add_argument("--sort-by")
    patch = verbs.add_parser("patch")
    patch.add_argument("kind", choices=["hpa"])
    patch.add_argument("name")
    patch.add_argument("--patch", type=json.loads, required=True)
    describe = verbs.add_parser("describe")
    describe.add_argument("kind", choices=["hpa"])
    describe.add_argument("name")
    delete = verbs.add_parser("delete")
    delete.add_argument("kind", choices=["pod"])
    delete.add_argument("name")
    delete.add_argument("--wait", choices=["true", "false"])
    delete.add_argument("--grace-period", type=int)
    rollout = verbs.add_parser("rollout")
    rollout.add_argument("action", choices=["status", "undo", "history"])
    rollout.add_argument("name")
    rollout.add_argument("--timeout")
    scale = verbs.add_parser("scale")
    scale.add_argument("name")
    scale.add_argument("--replicas", type=int, required=True)
    top = verbs.add_parser("top")
    top.add_argument("kind", choices=["pod"])
    top.add_argument("name")
    top.add_argument("--containers", action="store_true")
    return parser


def _duration(text: str) -> str:
    if not re.fullmatch(r"\d+[smh]", text):
        raise ValueError(text)
    return text


def _pod(pods: Mapping[str, Any], name: str) -> dict[str, Any]:
    if name in {DEPLOYMENT, f"deployment/{DEPLOYMENT}"}:
        name = next(iter(pods))
    if name not in pods:
        sys.exit(f'Error from server (NotFound): pods "{name}" not found')
    pod: dict[str, Any] = pods[name]
    return pod


def _check_name(pods: Mapping[str, Any], asked: argparse.Namespace) -> None:
    if asked.name is not None:
        _pod(pods, asked.name)


def _ready(internal: str) -> str:
    try:
        with urllib.request.urlopen(f"{internal}/readyz", timeout=5):
            return "1/1"
    except (urllib.error.HTTPError, OSError):
        return "0/1"


if __name__ == "__main__":
    sys.exit(main())
