"""Compare the CPU time that a message costs in this tree and in another one, in turns.

    git archive REVISION | tar --extract --directory BEFORE
    python -m tests.bench.message_path BEFORE [ROUNDS]

Without sockets and without a broker's server, so that only our own work for a message is left.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROUNDS = 15
MESSAGES = 20_000
MANY = 100


class Socket:
    """Takes everything."""

    def send_batch(self, batch: Any) -> None:
        """Take a batch."""

    def queue_batch(self, batch: Any) -> None:
        """Take a batch."""


async def deliver(service: Any, receivers: int) -> float:
    """From the broker's bytes to the receivers' sockets."""
    from msgspec import Raw

    from starling.brokers.envelope import decode, encode_body, encode_publication
    from starling.client.client_connection import JsonConnection
    from starling.protocol.messages import Publication

    engine, context, channel = service.engine, service.context, f"room{receivers}"
    for _ in range(receivers):
        connection = JsonConnection(context.dispatcher, None)
        connection.transport = Socket()  # type: ignore[assignment]  # all that is asked of it here
        engine.hub.subscribers.add(channel, connection)
    message = encode_publication(encode_body(Publication(Raw(b'{"text":"' + b"x" * 180 + b'"}')), 1_700_000_000_000))
    messages = MESSAGES if receivers < MANY else MESSAGES // 4
    began = time.process_time()
    for _ in range(messages):
        engine.subscriptions.on(channel, decode(message))
        await asyncio.sleep(0)
    while engine.hub.busy:
        await asyncio.sleep(0)
    return (time.process_time() - began) / messages * 1e6


async def publish(application: Any) -> float:
    """From a request to the server API to the broker, which is the one in memory."""
    body = b'{"channel":"nobody","data":{"text":"' + b"x" * 180 + b'"}}'
    headers = [(b"x-api-key", b"dev"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/api/publish",
        "headers": headers,
        "client": ("127.0.0.1", 1),
    }
    scope |= {"query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"}}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and message["body"] != b'{"result":{}}':
            raise RuntimeError(f"not published: {message}")

    messages = MESSAGES // 4
    began = time.process_time()
    for _ in range(messages):
        await application(dict(scope), receive, send)
    return (time.process_time() - began) / messages * 1e6


async def measure() -> dict[str, float]:
    """Microseconds of a message, by what is done with it."""
    from prometheus_client import CollectorRegistry

    from starling.main import build_application
    from starling.settings import load_settings

    service = build_application(load_settings({"STARLING_DEV": "true"}), CollectorRegistry())
    async with service.asgi.router.lifespan_context(service.asgi):
        return {
            "delivered to 1": await deliver(service, 1),
            f"delivered to {MANY}": await deliver(service, MANY),
            "published over the API": await publish(service.asgi),
        }


def _in(tree: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree / "app"), str(tree)))}
    found: dict[str, float] = json.loads(subprocess.check_output(command, env=environment, cwd=tree))
    return found


def main() -> None:
    """Measure both trees ROUNDS times, one after the other, and print the medians and their ratio."""
    before = Path(sys.argv[1]).resolve()
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    found = [(_in(before), _in(ROOT)) if turn % 2 else (_in(ROOT), _in(before))[::-1] for turn in range(rounds)]
    for name in found[0][0]:
        there, here = [one[name] for one, _ in found], [other[name] for _, other in found]
        ratios = [after / first for first, after in zip(there, here, strict=True)]
        print(
            f"{name}: {statistics.median(there):.2f} µs before, {statistics.median(here):.2f} now; ratio of pairs "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        print(json.dumps(asyncio.run(measure())))
    else:
        main()
