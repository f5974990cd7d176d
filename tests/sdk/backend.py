"""The backend of an application: what it asks of the service over HTTP."""

import asyncio
import json
import urllib.request
from typing import Any

from tests.support.running import Starling

API_KEY = "a test's own key to the server API"


async def order(service: Starling, method: str, **params: Any) -> Any:
    """Call a method of the server API; returns its result."""
    request = urllib.request.Request(
        f"{service.http}/api/{method}",
        data=json.dumps(params).encode(),
        headers={"X-API-Key": API_KEY, "Content-Type": "application/json"},
    )

    def ask() -> Any:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    answer = await asyncio.to_thread(ask)
    assert "result" in answer, answer
    return answer["result"]
