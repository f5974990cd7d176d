"""A process that logs as the test says: `logged.py LEVEL FORMAT CODE`."""

import sys

from starling.telemetry.logging import configure_logging

writer = configure_logging(sys.argv[1], sys.argv[2])  # type: ignore[arg-type]
exec(sys.argv[3])
