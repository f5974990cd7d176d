"""`make fuzz`: random and mutated frames, HTTP heads and API bodies against a running service, for as long as asked.

Exit code 1 where a worker ended, an answer had an unintended 5xx status, a connection was left hanging, the log has an
error, or memory did not return to within 10 % of what it was.
"""

import argparse
import asyncio
import secrets
import sys

from tests.fuzz.fuzz import Fuzzer
from tests.fuzz.service import service


def main() -> None:
    """Run what the command line asks for, and print the outcome."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs of all kinds together")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the inputs (default: drawn)")
    asked = parser.parse_args()
    print(f"{asked.inputs} inputs with seed {asked.seed}", flush=True)
    with service() as starling:
        outcome = asyncio.run(Fuzzer(starling, asked.seed).run(asked.inputs))
    faults = outcome.faults()
    print(outcome.text())
    print("\n".join(faults) or "no fault")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
