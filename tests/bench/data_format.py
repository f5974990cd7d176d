"""Measure what it costs to hold a publication to `publication_data_format: json`, in microseconds a KiB.

python -m tests.bench.data_format
"""

import json
import time
import timeit
from functools import partial

from starling.engine.channels import ChannelOptions
from starling.engine.publisher import check_publication

REPEATS = 9
RECORD = {"text": "Hello, world", "user": {"id": 42, "name": "Ada"}, "n": [1, 2, 3.25, -1e3]}
PUBLICATIONS = {
    "a text of 256 bytes": json.dumps({"text": "x" * 244}),
    "a text of 1 KiB": json.dumps({"text": "x" * 1011}),
    "a text of 1 KiB, not ASCII": json.dumps({"text": "é" * 506}, ensure_ascii=False),
    "1 KiB of numbers": json.dumps([number / 7 for number in range(1, 53)]),
    "1 KiB of records": json.dumps([RECORD] * 12),
    "64 KiB of records": json.dumps([RECORD] * 760),
}


def main() -> None:
    """Print a line for each kind of publication."""
    options = ChannelOptions()
    for name, text in PUBLICATIONS.items():
        data = text.encode()
        timer = timeit.Timer(partial(check_publication, data, options), timer=time.thread_time)
        number, _ = timer.autorange()
        best = min(timer.repeat(REPEATS, max(1, number // 4))) / max(1, number // 4) * 1e6
        print(f"- {name}: {best:.2f} µs, {best / (len(data) / 1024):.2f} µs a KiB")


if __name__ == "__main__":
    main()
