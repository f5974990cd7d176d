"""Sending webhook requests to their receiver: signed, bounded in time, and retried until they are accepted."""

import asyncio
import base64
import hashlib
import hmac
import random
import secrets
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2
import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.webhooks")

# With the pauses between them these fill about a minute; seconds.
ATTEMPTS = 8
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
# So much of an answer is read, that the connection may be used again; a longer one is cut off.
_ANSWER_BYTES = 16 * 1024


def sign(key: bytes, request_id: str, timestamp: int, body: bytes) -> str:
    """The signature header of a request (Standard Webhooks 1.0, "Signature scheme", HMAC-SHA256)."""
    content = f"{request_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """Where requests go. `key` None leaves them unsigned; one attempt takes `timeout` seconds at most."""

    url: str
    key: bytes | None
    timeout: float
    first_pause: float = FIRST_PAUSE


class WebhookSender:
    """One request at a time, over a connection that stays open in between. Redirects are not followed."""

    def __init__(self, receiver: WebhookTarget) -> None:
        self.receiver = receiver
        # The part of the address that log lines may show: no user, path or query.
        self._host = urlsplit(receiver.url).hostname
        self._client = httpx2.AsyncClient(
            timeout=receiver.timeout,
            limits=httpx2.Limits(max_connections=1),
            headers={"User-Agent": "starling", "Content-Type": "application/json"},
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def send(self, body: bytes) -> bool:
        """Send until an answer of 2xx comes; False when the attempts are used up."""
        request_id = f"msg_{secrets.token_hex(16)}"
        for attempt in range(ATTEMPTS):
            if attempt:
                pause = min(self.receiver.first_pause * 2 ** (attempt - 1), LONGEST_PAUSE)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            problem = await self._try(request_id, body)
            if problem is None:
                if attempt:
                    log.info("webhook_delivered_late", receiver=self._host, attempts=attempt + 1)
                return True
            if not attempt:
                log.warning("webhook_not_delivered", receiver=self._host, reason=problem, remedy="it is tried again")
        log.error("webhook_given_up", receiver=self._host, reason=problem, attempts=ATTEMPTS)
        return False

    async def _try(self, request_id: str, body: bytes) -> str | None:
        """Send once; returns what went wrong, without the address."""
        timestamp = int(time.time())
        headers = {"webhook-id": request_id, "webhook-timestamp": str(timestamp)}
        if self.receiver.key is not None:
            headers["webhook-signature"] = sign(self.receiver.key, request_id, timestamp, body)
        try:
            async with (
                asyncio.timeout(self.receiver.timeout),
                self._client.stream("POST", self.receiver.url, content=body, headers=headers) as answer,
            ):
                read = 0
                async for chunk in answer.aiter_raw():
                    read += len(chunk)
                    if read > _ANSWER_BYTES:
                        break
                return None if answer.is_success else f"it answered {answer.status_code}"
        except TimeoutError:
            return f"no answer within {self.receiver.timeout:g} s"
        except (httpx2.HTTPError, OSError) as error:
            return f"{type(error).__name__}: it could not be reached, or broke off"
