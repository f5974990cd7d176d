"""What compressing one message costs, and what it saves."""

import json
import random
import time
from collections.abc import Callable

from rich.console import Console

from starling.protocol.messages import Frame
from starling.server.compression import Deflater, Inflater

SIZES = (256, 512, 1024, 4096, 16384, 65536)
MESSAGES = 50
ROUNDS = 5
WORDS = ("alice", "bob", "order", "price", "volume", "open", "closed", "typing", "online", "hello", "world", "please")


def main() -> None:
    """Print a line for each size."""
    console = Console(highlight=False, soft_wrap=True)
    console.print("JSON of a list of objects with numbers and words; microseconds of CPU time, best of 5 rounds")
    for size in SIZES:
        payloads = [make_payload(random.Random(seed), size) for seed in range(MESSAGES)]
        deflater = Deflater(15)
        wires = [deflater.wire_of_frame(Frame(payload, text=True)) for payload in payloads]
        share = sum(map(len, wires)) / sum(len(Frame(payload, text=True).wire) for payload in payloads)
        deflate = best(lambda: [deflater.wire_of_frame(Frame(payload, text=True)) for payload in payloads])  # noqa: B023
        inflate = best(lambda: [take(wire, size) for wire in wires])  # noqa: B023
        console.print(
            f"{size:,} bytes: {100 * share:.0f} % left, {deflate:.1f} us to compress once for all, "
            f"{inflate:.1f} us to inflate"
        )


def make_payload(numbers: random.Random, size: int) -> bytes:
    """A publication as backends make them, cut to `size`."""
    items: list[dict[str, object]] = []
    while len(text := json.dumps({"push": {"channel": "news", "pub": {"data": items}}})) < size:
        for _ in range(1 + size // 200):
            words = " ".join(numbers.choices(WORDS, k=5))
            items.append({"id": numbers.randrange(10**6), "price": round(numbers.uniform(1, 99), 2), "text": words})
    return text[:size].encode()


def take(wire: bytes, size: int) -> bytes:
    """Inflate a frame's payload."""
    head = 2 if wire[1] < 126 else 4 if wire[1] == 126 else 10
    return Inflater().take(wire[head:], size, last=True)


def best(work: Callable[[], object]) -> float:
    """Microseconds a message of the best round."""
    seconds = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return min(seconds) / MESSAGES * 1e6


if __name__ == "__main__":
    main()
