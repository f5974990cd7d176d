"""Measure what patches and filters by tags cost the fan-out, compared with plain subscribers, in one run.

In one process without sockets, so that the write, which is the same for all, does not hide the difference:
a real fan-out writes each frame to a socket in addition. python -m tests.bench.views
"""

import asyncio
import json
import statistics
import time
from collections.abc import Callable

from msgspec import Raw

from starling.engine.hub import Hub
from starling.engine.view import View
from starling.protocol.codec_json import JsonPushes
from starling.protocol.delta import create_patch
from starling.protocol.messages import Publication
from starling.protocol.tags_filter import FilterNode, compile_filter
from tests.support.fake_receivers import FakeReceiver

READERS = 1_000
FILTERS = 10
ROUNDS = 7
PUBLICATIONS = 200
BYTES_WANTED = 0.08
PATCH_WANTED = 60.0
DELTA_WANTED = 1.05
FILTERS_WANTED = 1.2
JSON = JsonPushes()


class Reader(FakeReceiver):
    """A reader of JSON that keeps nothing."""

    encoder = JSON


def document(number: int) -> bytes:
    """1 KiB in which two fields change, far from each other."""
    rows = [{"id": index, "name": f"instrument {index}", "open": True} for index in range(18)]
    return json.dumps({"price": 100 + number, "rows": rows, "volume": number * 7}, separators=(",", ":")).encode()


def views(kind: str) -> Callable[[int], View | None]:
    """The view of each reader by its number."""
    if kind == "delta":
        return lambda number: View(JSON, delta=True)
    if kind == "filters":
        filters = [
            compile_filter(
                FilterNode(op="or", nodes=(FilterNode(key="a", cmp="ex"), FilterNode(key=f"k{i}", cmp="nex")))
            )
            for i in range(FILTERS)
        ]
        return lambda number: View(JSON, filter=filters[number % FILTERS])
    return lambda number: None


async def fan_out(kind: str) -> float:
    """CPU seconds of a publication to all readers."""
    hub, view = Hub(), views(kind)
    readers = [Reader() for _ in range(READERS)]
    for number, reader in enumerate(readers):
        hub.subscribers.add("room", reader, view(number))
    began = 0.0
    for number in range(PUBLICATIONS + 1):
        if number == 1:
            began = time.process_time()
        tags = {"a": "1", "k": str(number)}
        hub.broadcast("room", Publication(Raw(document(number)), offset=number + 1, tags=tags), delta=kind == "delta")
        while hub.busy:
            await asyncio.sleep(0)
        for reader in readers:
            if len(reader.transport.frames) != 1:
                raise RuntimeError(f"{kind}: a reader got {len(reader.transport.frames)} frames of one publication")
            reader.transport.frames.clear()
    return (time.process_time() - began) / PUBLICATIONS


def main() -> None:
    """Print what was measured, and what is wanted."""
    whole, patch = document(2), create_patch(document(1), document(2))
    if patch is None:
        raise RuntimeError("two versions of a document have no patch that is shorter")
    report("bytes of a patch, of the whole", len(patch) / len(whole), BYTES_WANTED)
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for number in range(200):
            create_patch(document(number), document(number + 1))
        made = time.process_time()
        for number in range(200):
            document(number)
            document(number + 1)
        times.append((2 * made - began - time.process_time()) / 200 * 1e6 / (len(whole) / 1024))
    report("µs of CPU to make a patch, a KiB", statistics.median(times), PATCH_WANTED)
    found: dict[str, list[float]] = {"plain": [], "delta": [], "filters": []}
    for _ in range(ROUNDS):
        for kind, costs in found.items():
            costs.append(asyncio.run(fan_out(kind)))
    medians = {kind: statistics.median(costs) for kind, costs in found.items()}
    print(
        f"fan-out to {READERS} readers: " + ", ".join(f"{kind} {cost * 1e6:.0f} µs" for kind, cost in medians.items())
    )
    report("fan-out with delta, of plain", medians["delta"] / medians["plain"], DELTA_WANTED)
    report(f"fan-out with {FILTERS} filters, of none", medians["filters"] / medians["plain"], FILTERS_WANTED)


def report(name: str, value: float, wanted: float) -> None:
    """Print one line."""
    print(f"- {name}: {value:.3g}; target: at most {wanted:g}: {'reached' if value <= wanted else 'NOT reached'}")


if __name__ == "__main__":
    main()
