"""`make durable-streams`: the public conformance suite of Durable Streams against services that this starts.

Two services: one worker that keeps streams in memory, and two pods of two workers on one Redis behind nginx. What the
suite tests and Starling has not on purpose is listed by the names of its tests. The last line is `N failed`.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.nginx import nginx_before
from tests.support.running import Starling, two_workers
from tests.support.services import RedisServer

SUITE = Path("build/durable-streams")
CLIENT = Path(__file__).with_name("durable_client.mjs")
USE_CHAT = Path(__file__).with_name("use_chat.mjs")
PYTHON_CLIENT = "durable-streams==0.1.0"
PACKAGES = (
    "@durable-streams/server-conformance-tests@0.3.6",
    "@durable-streams/client@0.2.7",
    "@durable-streams/aisdk-transport@0.0.7",
    "ai@6.0.326",
)
# Forks are refused with 501, and there are no subscriptions under `__ds` (docs/durable-streams.md).
LEFT_OUT = ("Fork - ", "Reserved subscription APIs")
CHANNELS = "namespaces: {open: {stream: any}}\n"
OPEN = {"STARLING_STREAMS_OPEN_NAMESPACE": "open"}
SECONDS = 600
RUNNER = """
import { runConformanceTests } from "@durable-streams/server-conformance-tests"
runConformanceTests({ baseUrl: process.env.CONFORMANCE_TEST_URL })
"""


@dataclass(frozen=True, slots=True)
class StreamsReport:
    """The tests of one run by what came of them; `failed` has the first line of each error."""

    passed: list[str]
    left_out: list[str]
    failed: dict[str, str]

    def text(self) -> str:
        """Lines for people."""
        failed = [f"  failed: {name}: {error}" for name, error in self.failed.items()]
        return "\n".join([f"  {len(self.passed)} passed, {len(self.left_out)} left out", *failed])


def main() -> None:
    """Run what the command line asks for, and print the reports."""
    parser = argparse.ArgumentParser(prog="make durable-streams", description=__doc__)
    parser.add_argument("--services", default=",".join(SERVICES), help=f"comma separated, of {', '.join(SERVICES)}")
    names = parser.parse_args().services.split(",")
    if unknown := [name for name in names if name not in SERVICES]:
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(SERVICES)}")
    suite = install(SUITE)
    failed, left_out = 0, []
    for name in names:
        print(f"service {name}", flush=True)
        report = judge(name, suite)
        print(report.text(), flush=True)
        failed += len(report.failed)
        left_out = report.left_out
    print("left out on purpose:", *left_out, sep="\n  ")
    print(f"{failed} failed")
    sys.exit(failed > 0)


def install(suite: Path) -> Path:
    """Install the suite and the public clients into the directory `suite`; returns it in full.

    The client for Python is in its `python`. Raises FileNotFoundError without npm, and CalledProcessError without a
    registry.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed; on Debian: apt-get install npm")
    suite.mkdir(parents=True, exist_ok=True)
    files = {
        "package.json": '{"private": true, "type": "module"}\n',
        "suite.test.js": RUNNER,
        CLIENT.name: CLIENT.read_text(),
        USE_CHAT.name: USE_CHAT.read_text(),
    }
    wanted = json.dumps([*PACKAGES, PYTHON_CLIENT, files])
    installed = suite / "installed.json"
    # Tests that run side by side install it once.
    with (suite / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_text() != wanted:
            for name, text in files.items():
                (suite / name).write_text(text)
            command = [npm, "install", "--prefix", str(suite), "--silent", "--no-audit", "--no-fund", *PACKAGES]
            subprocess.run(command, check=True, timeout=SECONDS)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
            subprocess.run([*pip, "--target", str(suite / "python"), PYTHON_CLIENT], check=True, timeout=SECONDS)
            installed.write_text(wanted)
    return suite.resolve()


def judge(service: str, suite: Path) -> StreamsReport:
    """Run the installed suite against one of `SERVICES`."""
    with tempfile.TemporaryDirectory() as directory, SERVICES[service](Path(directory)) as address:
        results = Path(directory) / "results.json"
        pattern = f"^(?!.*({'|'.join(map(re.escape, LEFT_OUT))}))"
        command = ["node_modules/.bin/vitest", "run", "suite.test.js", "--testNamePattern", pattern]
        # The suite gives most tests 5 s, which a busy machine may need for its large bodies.
        command.append("--testTimeout=30000")
        ended = subprocess.run(
            [*command, "--reporter=json", f"--outputFile={results}"],
            cwd=suite,
            env={**os.environ, "CONFORMANCE_TEST_URL": address},
            timeout=SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )
        if not results.exists():
            raise RuntimeError(f"the suite wrote no results:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
        return read_results(json.loads(results.read_text()))


def read_results(results: Mapping[str, Any]) -> StreamsReport:
    """Read what vitest's JSON reporter writes. A test that was skipped otherwise than on purpose has failed."""
    passed: list[str] = []
    left_out: list[str] = []
    failed: dict[str, str] = {}
    for test in (test for file in results["testResults"] for test in file["assertionResults"]):
        name = str(test["fullName"]).strip()
        if test["status"] == "passed":
            passed.append(name)
        elif test["status"] != "failed" and any(part in name for part in LEFT_OUT):
            left_out.append(name)
        else:
            failed[name] = next(iter(test.get("failureMessages") or [test["status"]])).partition("\n")[0]
    if not passed:
        failed["the run"] = "no test passed"
    return StreamsReport(passed, left_out, failed)


@contextmanager
def _memory(directory: Path) -> Iterator[str]:
    file = directory / "channels.yaml"
    file.write_text(CHANNELS)
    with Starling({**OPEN, "STARLING_DEV": "true", "STARLING_CHANNELS_FILE": str(file)}) as service:
        yield service.http


@contextmanager
def _redis(directory: Path) -> Iterator[str]:
    # nginx keeps large bodies in it, as another user.
    directory.chmod(0o755)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        settings = {**two_workers(directory, redis.url, CHANNELS), **OPEN}
        pods = [stack.enter_context(Starling(settings)) for _ in range(2)]
        yield f"http://127.0.0.1:{stack.enter_context(nginx_before([pod.port for pod in pods], directory))}"


SERVICES: dict[str, Callable[[Path], Any]] = {"memory": _memory, "redis": _redis}

if __name__ == "__main__":
    main()
