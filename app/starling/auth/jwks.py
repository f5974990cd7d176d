"""An issuer's JSON Web Key Set, fetched and kept fresh in the background (RFC 7517)."""

import asyncio
import contextlib
import time
from random import SystemRandom
from urllib.parse import urlsplit

import structlog

from starling.auth.jwks_download import JwksError, download_jwks
from starling.auth.jws import parse_strict_object
from starling.auth.keys import VerificationKey
from starling.auth.tokens import TokenRefused
from starling.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

MAX_KEYS = 64

_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 30.0
_JITTER = 0.1


def parse_jwks(body: bytes) -> tuple[tuple[VerificationKey, ...], tuple[str, ...]]:
    """Return the usable keys of a key set, and for each of the others why it is not.

    Raises JwksError if it is not a key set or none of its keys can verify tokens.
    """
    try:
        document = parse_strict_object(body, "body")
    except TokenRefused:
        raise JwksError("the answer is not a JSON object with each member once") from None
    members = document.get("keys")
    if not isinstance(members, list):
        raise JwksError("the answer is not a key set: it has no list named keys")
    if len(members) > MAX_KEYS:
        raise JwksError(f"the key set holds {len(members)} keys, more than {MAX_KEYS}")
    usable, skipped = [], []
    for number, member in enumerate(members, start=1):
        try:
            usable.append(VerificationKey.from_jwk(member))
        except ValueError as error:
            skipped.append(f"key {number}: {error}")
    if not usable:
        raise JwksError(f"the key set holds no key that can verify tokens ({'; '.join(skipped[:3]) or 'it is empty'})")
    return tuple(usable), tuple(skipped)


class Jwks:
    """The keys of one issuer. One task, between `start` and `stop`, does all fetching; all others read `keys`.

    Keys are fetched anew every `refresh_seconds` (give or take a tenth, so that many processes do not ask at once).
    While the issuer is unavailable, or answers without usable keys, the last ones are kept and it is asked again after
    1, 2, 4 … 30 s. For unknown keys it is asked at most once in `cooldown_seconds`. A fetch is given up after
    `timeout_seconds`. Raises ValueError for an address that cannot be one.
    """

    def __init__(
        self,
        url: str,
        *,
        refresh_seconds: float = 600.0,
        timeout_seconds: float = 5.0,
        cooldown_seconds: float = 30.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"https", "http"} or not parts.hostname:
            raise ValueError("the address of a key set starts with https:// (or http://) and names a host")
        self._url = url
        self._host = parts.hostname
        self._insecure = parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}
        self._refresh_seconds = refresh_seconds
        self._timeout_seconds = timeout_seconds
        self._cooldown_seconds = cooldown_seconds
        self._keys: tuple[VerificationKey, ...] = ()
        self._fetched_at: float | None = None
        self._made_at = time.monotonic()
        self._asked_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[bool]] = []
        self._busy = False
        self._random = SystemRandom()

    @property
    def keys(self) -> tuple[VerificationKey, ...]:
        """The keys of the last fetch that gave some."""
        return self._keys

    @property
    def loaded(self) -> bool:
        """Whether any fetch has given keys yet."""
        return self._fetched_at is not None

    @property
    def age_seconds(self) -> float | None:
        """How long ago the keys were fetched; None before the first time."""
        return None if self._fetched_at is None else time.monotonic() - self._fetched_at

    def report(self, metrics: Metrics) -> None:
        """Set the metric of the keys' age; before the first fetch it is the age of this object."""
        age = self.age_seconds
        metrics.set("starling_jwks_age_seconds", time.monotonic() - self._made_at if age is None else age)

    def start(self) -> None:
        """Begin to fetch, in the running event loop, and return at once."""
        if self._task is not None:
            raise RuntimeError("the key set was started already")
        if self._insecure:
            log.warning(
                "jwks_insecure", host=self._host, remedy="use https://: who can alter the answer lets anyone in"
            )
        self._busy = True
        self._task = asyncio.create_task(self._keep_fresh(), name="jwks")

    async def stop(self) -> None:
        """End the task and any fetch under way; `keys` stay as they are."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._release_waiters(fetched=False)

    async def look_again(self) -> bool:
        """Wait for a fetch that is under way, or one made for this call; True if it gave keys.

        False at once within `cooldown_seconds` of the last fetch made so, and when not started.
        """
        if self._task is None:
            return False
        if not self._busy:
            now = time.monotonic()
            if self._asked_at is not None and now - self._asked_at < self._cooldown_seconds:
                return False
            self._asked_at = now
            self._busy = True
            self._wake.set()
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return await waiter

    async def _keep_fresh(self) -> None:
        failures = 0
        while True:
            self._busy = True
            self._wake.clear()
            fetched = await self._refresh()
            failures = 0 if fetched else failures + 1
            self._busy = False
            self._release_waiters(fetched=fetched)
            delay = self._refresh_seconds
            if failures:
                delay = min(delay, _FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10), _LAST_RETRY_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay * self._random.uniform(1 - _JITTER, 1 + _JITTER)):
                    await self._wake.wait()

    async def _refresh(self) -> bool:
        try:
            keys, skipped = parse_jwks(await download_jwks(self._url, self._timeout_seconds))
        except JwksError as error:
            log.warning("jwks_unreachable", host=self._host, error=str(error), kept_keys=len(self._keys))
            return False
        except Exception:
            # Whatever an issuer answers, its last valid keys must stay in use and the next fetch must come.
            log.exception("jwks_failed", host=self._host, kept_keys=len(self._keys))
            return False
        self._keys, self._fetched_at = keys, time.monotonic()
        log.info("jwks_refreshed", host=self._host, keys=len(keys), skipped=skipped[:3])
        return True

    def _release_waiters(self, *, fetched: bool) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(fetched)
