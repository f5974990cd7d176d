"""Clients and a publisher inside the cluster, in a pod of the image: counts what is lost, doubled or reordered.

A program of its own: it needs only what the image has. It publishes until /tmp/stop exists, waits until every client
has everything, and prints one line of JSON. The environment says where the service is (LOAD_URL), how many clients
there are (LOAD_CLIENTS), and has the service's keys.
"""

import asyncio
import itertools
import json
import os
import time
from pathlib import Path

import centrifuge
import httpx2

from starling.auth.issue import issue_connection_token

CHANNEL = "news:load"
STOP = Path("/tmp/stop")
SETTLE_SECONDS = 60


class Ledger(centrifuge.SubscriptionEventHandler):  # type: ignore[misc]  # has no types
    """What one client received, in order."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    async def on_publication(self, ctx: centrifuge.PublicationContext) -> None:
        self.numbers.append(ctx.pub.data["number"])


async def publish(http: httpx2.AsyncClient, number: int) -> int:
    """Publish once for certain, and return how many tries it took."""
    body = {"channel": CHANNEL, "data": {"number": number}, "idempotency_key": f"load-{number}"}
    for tries in itertools.count(1):
        try:
            answer = await http.post("/api/publish", json=body)
            if answer.status_code == 200 and "error" not in answer.json():
                return tries
        except httpx2.HTTPError:
            pass
        await asyncio.sleep(0.2)
    raise AssertionError("unreachable")


async def main() -> None:
    url, count = os.environ["LOAD_URL"], int(os.environ["LOAD_CLIENTS"])
    secret = os.environ["STARLING_TOKEN_HMAC_SECRET"]
    ledgers = [Ledger() for _ in range(count)]
    clients = []
    for index, ledger in enumerate(ledgers):
        token = issue_connection_token(secret, f"load-{index}", 3600)
        client = centrifuge.Client(f"{url.replace('http', 'ws', 1)}/connection/websocket", token=token)
        subscription = client.new_subscription(CHANNEL, events=ledger, recoverable=True)
        await subscription.subscribe()
        await client.connect()
        await subscription.ready(timeout=30)
        clients.append(client)
    print("subscribed", flush=True)
    published = retries = 0
    async with httpx2.AsyncClient(
        base_url=url, headers={"X-API-Key": os.environ["STARLING_API_KEYS"]}, timeout=5
    ) as http:
        while not STOP.exists():
            retries += await publish(http, published) - 1
            published += 1
            await asyncio.sleep(0.05)
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline and any(len(set(ledger.numbers)) < published for ledger in ledgers):
        await asyncio.sleep(0.2)
    result = {"clients": count, "published": published, "retries": retries, **counted(ledgers, published)}
    print(json.dumps(result), flush=True)
    for client in clients:
        await client.disconnect()


def counted(ledgers: list[Ledger], published: int) -> dict[str, int]:
    """What went wrong over all clients."""
    return {
        "lost": sum(published - len(set(ledger.numbers)) for ledger in ledgers),
        "doubled": sum(len(ledger.numbers) - len(set(ledger.numbers)) for ledger in ledgers),
        "reordered": sum(ledger.numbers != sorted(ledger.numbers) for ledger in ledgers),
    }


if __name__ == "__main__":
    asyncio.run(main())
