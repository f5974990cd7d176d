"""EventSource clients over killed workers: two pods behind nginx, and readers that must get everything once."""

import itertools
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.javascript_sdk import FOLDER, require_sdk
from tests.support.nginx import nginx_before
from tests.support.running import Starling, two_workers
from tests.support.services import RedisServer

CHANNELS = [f"resume:{number}" for number in range(4)]
CHANNELS_FILE = "namespaces: {resume: {history_size: 20000, history_ttl: 1h, force_recovery: true}}\n"
# The readers, by the channels of each; the last one has a ticket, which it can spend once.
READERS = ([CHANNELS[0]], [CHANNELS[1]], CHANNELS[:2], CHANNELS, [CHANNELS[2]])


@dataclass
class ResumeReport:
    """What the readers got, by reader and channel; and what else happened."""

    kills: int
    messages: int
    reconnects: int = 0
    resets: int = 0
    given_up: list[dict[str, Any]] = field(default_factory=list)
    got: list[dict[str, list[int]]] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """Each reader and channel that did not get everything once and in order."""
        return [
            f"reader {reader}, {channel}: {len(got[channel])} of {len(sent)}, {_difference(got[channel], sent)}"
            for reader, (got, channels) in enumerate(zip(self.got, READERS, strict=True))
            for channel in channels
            if got[channel] != (sent := sent_to(channel, self.messages))
        ]

    def text(self) -> str:
        """The numbers, and what is wrong."""
        numbers = f"{self.kills} kills, {self.messages} messages, {self.reconnects} reconnects, {self.resets} resets"
        return "\n".join([numbers, *self.wrong, *map(str, self.given_up)])


def sent_to(channel: str, messages: int) -> list[int]:
    """The numbers of the messages of a channel."""
    return list(range(CHANNELS.index(channel), messages, len(CHANNELS)))


def _difference(got: list[int], sent: list[int]) -> object:
    return next((pair for pair in itertools.zip_longest(got, sent) if pair[0] != pair[1]), None)


def resume(kills: int, messages: int, directory: Path, *, pause: float) -> ResumeReport:
    """Publish `messages` while the oldest worker is killed `kills` times, `pause` seconds apart."""
    require_sdk()
    if not (FOLDER / "node_modules" / "eventsource").is_dir():
        pytest.skip("the package eventsource is not installed; run: npm ci --prefix tests/sdk")
    report = ResumeReport(kills, messages, got=[defaultdict(list) for _ in READERS])
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        settings = two_workers(directory, redis.url, CHANNELS_FILE)
        pods = [stack.enter_context(Starling(settings)) for _ in range(2)]
        front = stack.enter_context(nginx_before([pod.port for pod in pods], directory))
        readers = stack.enter_context(_Readers(front, _ticket(pods[0]), report))
        readers.until(lambda: readers.opened == set(range(len(READERS))), "all readers are connected")
        publisher = threading.Thread(target=_publish, args=(pods, messages, pause * (kills + 1)))
        publisher.start()
        for number in range(kills):
            time.sleep(pause)
            pod = pods[number % 2]
            # The worker that lives longest: those that die young are replaced later and later.
            os.kill(min(pod.workers), signal.SIGKILL)
        publisher.join()
        readers.until(readers.complete, "all readers have everything")
    return report


def _ticket(pod: Starling) -> str:
    answer: dict[str, Any] = _call(pod, "ticket", {"user": "reader", "channels": [CHANNELS[2]], "ttl": 60})
    return str(answer["ticket"])


def _call(pod: Starling, method: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"{pod.http}/api/{method}", json.dumps(body).encode(), {"X-API-Key": "dev"})
    with urllib.request.urlopen(request, timeout=10) as response:
        result: dict[str, Any] = json.load(response)["result"]
        return result


def _publish(pods: list[Starling], messages: int, seconds: float) -> None:
    """Publish in batches, spread over `seconds`; a batch that gets no answer is sent again, and counts once."""
    size = max(1, messages // max(1, int(seconds * 20)))
    began = time.monotonic()
    for start in range(0, messages, size):
        numbers = range(start, min(start + size, messages))
        commands = [
            {"publish": {"channel": CHANNELS[n % len(CHANNELS)], "data": n, "idempotency_key": str(n)}} for n in numbers
        ]
        for attempt in itertools.count(start):
            try:
                replies = _call_batch(pods[attempt % 2], commands)
            except (OSError, ValueError):
                time.sleep(0.05)
                continue
            if all("error" not in reply for reply in replies):
                break
        time.sleep(max(0.0, began + seconds * numbers.stop / messages - time.monotonic()))


def _call_batch(pod: Starling, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{pod.http}/api/batch", json.dumps({"commands": commands}).encode(), {"X-API-Key": "dev"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        replies: list[dict[str, Any]] = json.load(response)["replies"]
        return replies


class _Readers:
    """The EventSource clients in Node.js, whose events are noted in a report."""

    def __init__(self, port: int, ticket: str, report: ResumeReport) -> None:
        self.opened: set[int] = set()
        self._report = report
        addresses = [
            f"http://127.0.0.1:{port}/sse?" + "&".join(f"channel={channel}" for channel in channels)
            for channels in READERS
        ]
        addresses[-1] += f"&ticket={ticket}"
        self._process = subprocess.Popen(
            ["node", str(FOLDER / "event_sources.js"), *addresses], stdout=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._note)

    def __enter__(self) -> "_Readers":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()

    def _note(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            reader = event["source"]
            if event["type"] == "message":
                number = int(event["data"])
                self._report.got[reader][CHANNELS[number % len(CHANNELS)]].append(number)
            elif event["type"] == "open":
                self._report.reconnects += reader in self.opened
                self.opened.add(reader)
            elif event["type"] == "reset":
                self._report.resets += 1
            elif event.get("closed"):
                self._report.given_up.append(event)

    def complete(self) -> bool:
        """Whether every reader has the last message of each of its channels."""
        return all(
            (got[channel] or [-1])[-1] == sent_to(channel, self._report.messages)[-1]
            for got, channels in zip(self._report.got, READERS, strict=True)
            for channel in channels
        )

    def until(self, holds: Any, words: str) -> None:
        """Wait until `holds`; what a reader that has given up misses, it never gets."""
        deadline = time.monotonic() + 60
        while not holds() and not self._report.given_up:
            if time.monotonic() > deadline:
                raise AssertionError(f"not yet after a minute: {words}\n{self._report.text()}")
            time.sleep(0.05)
