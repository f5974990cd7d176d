"""A stand-in for helm: what runbooks do with a release is understood, and not done, for there is no cluster.

A verb or an option that helm has not, or a release that is not there, fails all the same.
"""

import argparse
import sys

RELEASE = "starling"


def main() -> int:
    """Understand what helm was asked."""
    parser = argparse.ArgumentParser(prog="helm", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    history = verbs.add_parser("history")
    history.add_argument("release")
    rollback = verbs.add_parser("rollback")
    rollback.add_argument("release")
    rollback.add_argument("revision", nargs="?", type=int)
    asked = parser.parse_args()
    if asked.release != RELEASE:
        sys.exit("Error: release: not found")
    print(f"{asked.verb}: understood, and not done: there is no cluster")
    return 0


if __name__ == "__main__":
    sys.exit(main())
