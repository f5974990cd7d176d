"""`make soak`: chaos over two pods and one Redis, and a ledger that knows every publication.

Ends with 1 when anything was lost, doubled, out of order, or reported without a cause, or when a process grew.
"""

import argparse
import asyncio
import json
import logging
import secrets
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import Scale, soak


def main() -> None:
    """Run what the command line asks for, and print the report."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long faults are done (default: 10)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the faults (default: drawn)")
    parser.add_argument("--clients", type=int, default=Scale.clients)
    parser.add_argument("--channels", type=int, default=Scale.channels)
    parser.add_argument("--rate", type=float, default=Scale.rate, help="publications a second in all channels")
    parser.add_argument("--report", type=Path, help="write the report as JSON here too")
    asked = parser.parse_args()
    # A client that returns while a pod is away is no news.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    scale = Scale(asked.clients, asked.channels, asked.rate)
    print(f"Soak of {asked.minutes:g} minutes with seed {asked.seed}, {scale}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        report = asyncio.run(soak(asked.seed, asked.minutes * 60, scale, Path(directory), report_fault=_print_fault))
    print(report.text())
    if asked.report:
        asked.report.write_text(json.dumps(report.values(), indent=2) + "\n")
    sys.exit(not report.passed)


def _print_fault(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
