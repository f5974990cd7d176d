"""What counting the busiest channels costs on a message's way, in one process: `python -m tests.bench.top_channels`.

A message is decoded, encoded and written to socket pairs, once with the count and once without, in interleaved rounds.
"""

import asyncio
import os
import socket
import statistics
import time

from msgspec import Raw

from starling.brokers import envelope
from starling.client.client_connection import JsonConnection
from starling.engine.broker import StreamEntry
from starling.engine.hub import Hub
from starling.protocol.messages import Batch, Publication
from starling.telemetry.metrics import TransportStats
from starling.telemetry.top_channels import ChannelMeter
from tests.bench.process import raise_file_limit
from tests.support.fake_receivers import FakeReceiver

ROUNDS = 25
SOCKETS = 500
# Subscribers of a channel, channels, messages of a round.
CASES = ((1, 1, 8000), (1, 500, 8000), (1, 20_000, 8000), (10, 1, 3000), (100, 1, 600))
# Each message that is counted stands for this many: all are counted, or as at 60,000 messages a second.
SAMPLING = (1, 60)


class Pair:
    """A socket whose other end is emptied when it is full."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._near.settimeout(0)
        self._far.settimeout(0)

    def send_batch(self, batch: Batch) -> None:
        """Write at once."""
        try:
            os.write(self._near.fileno(), batch.wire)
        except BlockingIOError:
            self._far.recv(2**20)

    queue_batch = send_batch


class Client(FakeReceiver):
    """A client that only listens."""

    encoder = JsonConnection.encoder

    def __init__(self, stats: TransportStats) -> None:
        super().__init__(transport=Pair(), stats=stats)


class NoMeter(ChannelMeter):
    """Counts nothing."""

    def count(self, channel: str, deliveries: int, size: int) -> None:
        """Forget it."""


async def measure(subscribers: int, channels: int, messages: int, each: int) -> None:
    """Print the CPU time of a message without the count, and the ratio with it."""
    hub, stats = Hub(), TransportStats(slow_code=3008)
    clients = [Client(stats) for _ in range(min(SOCKETS, subscribers * channels))]
    names = [f"room:{number}" for number in range(channels)]
    for number, name in enumerate(names):
        for place in range(subscribers):
            hub.subscribers.add(name, clients[(number * subscribers + place) % len(clients)])
    body = envelope.encode_body(Publication(data=Raw(b'{"text":"' + b"x" * 100 + b'"}')), 1)
    wire = envelope.encode_publication(body)

    async def seconds(meter: ChannelMeter) -> float:
        hub.traffic = meter
        began = time.process_time()
        for number in range(messages):
            entry = envelope.decode(wire)
            assert isinstance(entry, StreamEntry)
            hub.broadcast(names[number % channels], entry.publication)
            while hub.busy:
                await asyncio.sleep(0)
        return time.process_time() - began

    without, ratios = [], []
    for turn in range(ROUNDS):
        counting = ChannelMeter(seed=turn)
        counting._each = each
        meters = [counting, NoMeter()]
        spent = {id(meter): await seconds(meter) for meter in (meters if turn % 2 else reversed(meters))}
        without.append(spent[id(meters[1])] / messages)
        ratios.append(spent[id(meters[0])] / spent[id(meters[1])])
    print(
        f"| {subscribers} | {channels:,} | {each} | {statistics.median(without) * 1e6:.1f} "
        f"| {statistics.median(ratios):.3f} |",
        flush=True,
    )


def main() -> None:
    """Measure every case."""
    raise_file_limit()
    print("| subscribers | channels | counted, one of | us a message without | ratio with |\n|---|---|---|---|---|")
    for each in SAMPLING:
        for case in CASES:
            asyncio.run(measure(*case, each))


if __name__ == "__main__":
    main()
