"""Asks one backend over HTTP: bounded in time and size, over pooled connections, behind a circuit breaker."""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from starling.telemetry.metrics import Metrics
from starling.web.proxy_breaker import CircuitBreaker

if TYPE_CHECKING:
    import httpx2

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.proxies")

# Connections to one backend, and how much of a reply is read; a longer one counts as failed.
POOL_CONNECTIONS = 100
REPLY_BYTES = 1024 * 1024
_REFUSED = frozenset({401, 403, 419})
_REMEDIES = {
    "redirect": "a login or a missing slash redirects it: give the final address, which needs no login page",
    "refused": "the view must take POST without a CSRF token, and answer with 200 and an error to refuse a client",
    "client_error": "see that the address is right and that the view takes POST with a JSON body",
    "server_error": "see the log of the backend",
    "unreachable": "see that the backend runs and can be reached from here",
    "timeout": "make the view faster, or set STARLING_PROXY_TIMEOUT_SECONDS to more",
    "too_long": f"a reply holds {REPLY_BYTES} bytes at most",
}


class BackendAway(Exception):
    """A backend gave no reply; the reason is logged, and counted."""


class _Failure(Exception):
    """Why a request failed: a key of the remedies. `away`: the backend is not able to answer."""

    def __init__(self, reason: str, problem: str, *, away: bool = True) -> None:
        super().__init__(problem)
        self.reason = reason
        self.away = away


class ProxyBackend:
    """One address. Redirects are not followed; what a log line shows of the address is its host."""

    def __init__(self, url: str, metrics: Metrics, *, timeout: float, breaker: CircuitBreaker | None = None) -> None:
        """`timeout`: seconds for a whole request, with the wait for a connection."""
        self._url = url
        self._host = urlsplit(url).hostname
        self._metrics = metrics
        self._timeout = timeout
        self._breaker = breaker or CircuitBreaker()
        self._client: httpx2.AsyncClient | None = None

    @property
    def away(self) -> bool:
        """Whether the circuit breaker is open."""
        return self._breaker.open

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def ask(self, event: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Post `body`; return the body of the reply. Raises BackendAway."""
        if not self._breaker.admits():
            self._metrics.proxy_requests[event, "skipped"] += 1
            raise BackendAway(f"{self._host} is away")
        started = time.perf_counter()
        try:
            reply = await self._post(body, headers)
        except _Failure as failure:
            self._failed(event, failure)
            raise BackendAway(str(failure)) from failure
        except BaseException:
            self._breaker.abandoned()
            raise
        finally:
            self._metrics.observe_proxy(event, time.perf_counter() - started)
        if self._breaker.succeeded():
            log.info("proxy_backend_back", backend=self._host)
        return reply

    def _failed(self, event: str, failure: _Failure) -> None:
        self._metrics.proxy_requests[event, failure.reason] += 1
        remedy = _REMEDIES[failure.reason]
        log.warning("proxy_request_failed", proxy=event, backend=self._host, reason=str(failure), remedy=remedy)
        if not failure.away:
            self._breaker.succeeded()
        elif self._breaker.failed():
            log.error("proxy_backend_away", backend=self._host, reason=str(failure), remedy=remedy)

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        # Memory and time that only proxies are worth.
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(
                timeout=self._timeout,
                limits=httpx2.Limits(max_connections=POOL_CONNECTIONS, max_keepalive_connections=POOL_CONNECTIONS),
                headers={"User-Agent": "starling"},
            )
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream(
                    "POST", self._url, content=body, headers={**headers, "Content-Type": "application/json"}
                ) as answer,
            ):
                _check_status(answer.status_code)
                return await _read(answer)
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise _Failure("timeout", f"no reply within {self._timeout:g} s") from error
        except (httpx2.HTTPError, OSError) as error:
            raise _Failure("unreachable", f"{type(error).__name__}: it could not be reached, or broke off") from error


def _check_status(status: int) -> None:
    """Raise _Failure for any status but 2xx."""
    if 200 <= status < 300:
        return
    problem = f"it answered {status}"
    if status in _REFUSED:
        raise _Failure("refused", problem, away=False)
    if 300 <= status < 400:
        raise _Failure("redirect", problem, away=False)
    if 400 <= status < 500 and status != 429:
        raise _Failure("client_error", problem, away=False)
    raise _Failure("server_error", problem)


async def _read(answer: "httpx2.Response") -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > REPLY_BYTES:
            raise _Failure("too_long", f"its reply is longer than {REPLY_BYTES} bytes", away=False)
    return bytes(body)
