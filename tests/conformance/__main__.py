"""`make conformance`: the Autobahn test suite's fuzzing client against an echo endpoint on the server layer alone.

Two profiles: `wide` has limits above every case, and no case may fail; `production` has the limits of the settings'
defaults, and a case may fail only where the server refused it on purpose. The last line is `N failed`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conformance.report import Report, read_report
from tests.server.serving import Server

# Sections 12 and 13 whole take over half an hour: of each, six cases from the smallest messages to the largest.
LIGHT = (1, 2, 3, 4, 5, 11)
SETS = {
    "quick": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"],
    "standard": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"],
    "compression": [
        f"{section}.{case}"
        for section in (*(f"12.{number}" for number in range(1, 6)), *(f"13.{number}" for number in range(1, 8)))
        for case in LIGHT
    ],
    "full": ["*"],
}
# Case 9.2.6 sends 16 MiB at once; 9.3.1 sends 4 MiB in pieces of 64 bytes.
WIDE: dict[str, Any] = {"max_message_bytes": 2**24, "max_fragments": 2**17, "heartbeat_seconds": 120}
PROFILES: dict[str, dict[str, Any]] = {"wide": WIDE, "production": {}}
SECONDS = 3000


def main() -> None:
    """Run what the command line asks for, and print the report."""
    parser = argparse.ArgumentParser(prog="make conformance", description=__doc__)
    parser.add_argument("--wstest", required=True, help="the command of the Autobahn test suite")
    parser.add_argument("--sets", default="standard,compression", help=f"comma separated, of {', '.join(SETS)}")
    parser.add_argument("--profiles", default="wide,production", help=f"comma separated, of {', '.join(PROFILES)}")
    asked = parser.parse_args()
    cases = [case for name in _names(parser, asked.sets, SETS) for case in SETS[name]]
    wstest = shutil.which(asked.wstest)
    if wstest is None:
        parser.error(f"--wstest {asked.wstest}: no such command")
    failed = 0
    for profile in _names(parser, asked.profiles, PROFILES):
        print(f"profile {profile}: {asked.sets}", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            report = judge(str(Path(wstest).resolve()), cases, PROFILES[profile], Path(directory))
        print(report.text(), flush=True)
        # The wide profile refuses nothing on purpose: whatever its limits cut was meant to pass.
        failed += len(report.failed) if profile != "wide" else len(report.failed) + len(report.refused)
    print(f"{failed} failed")
    sys.exit(failed > 0)


def judge(wstest: str, cases: list[str], limits: dict[str, Any], directory: Path) -> Report:
    """Run the cases against a server with these limits. `directory` is for the files of both."""
    with Server(directory, compression=True, log_level="info", **limits) as server:
        url = f"ws://127.0.0.1:{server.port}/echo"
        specification = {
            "outdir": str(directory / "reports"),
            "servers": [{"agent": "starling", "url": url}],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (directory / "specification.json").write_text(json.dumps(specification))
        command = [wstest, "-m", "fuzzingclient", "-s", str(directory / "specification.json")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        ended = subprocess.run(
            command, cwd=directory, env=environment, timeout=SECONDS, capture_output=True, text=True, check=False
        )
        index = directory / "reports" / "index.json"
        if not index.exists():
            sys.exit(f"{wstest} wrote no report:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
        return read_report(json.loads(index.read_text())["starling"])


def _names(parser: argparse.ArgumentParser, text: str, known: dict[str, Any]) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(known)}")
    return names


if __name__ == "__main__":
    main()
