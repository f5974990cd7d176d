"""One download of an issuer's key set, bounded in size and time."""

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

MAX_BODY_BYTES = 256 * 1024


class JwksError(Exception):
    """A key set that could not be fetched or used; the message says why, without the address."""


async def download_jwks(url: str, timeout_seconds: float) -> bytes:
    """GET `url` through the proxies of the environment; user and password in it are sent as Basic credentials.

    Redirects are not followed: a party that may redirect the request would choose the keys. Raises JwksError for
    anything but a whole 200 response of at most MAX_BODY_BYTES within `timeout_seconds`.
    """
    # Loaded where a key set is fetched: workers without one do without the HTTP client.
    import httpx2

    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "starling"}
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            httpx2.AsyncClient(timeout=None, headers=headers) as client,
            client.stream("GET", url) as response,
        ):
            return await _read(response)
    except TimeoutError:
        raise JwksError(f"no whole answer within {timeout_seconds:g} s") from None
    except (httpx2.ConnectError, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:
        raise JwksError(f"the issuer could not be reached: {error}") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise JwksError(f"the issuer's answer broke off or was no HTTP: {type(error).__name__}") from None


async def _read(response: "httpx2.Response") -> bytes:
    if response.status_code != HTTPStatus.OK:
        redirect = response.is_redirect or response.status_code in range(300, 400)
        hint = ", a redirect, which is not followed: give the final address" if redirect else ""
        raise JwksError(f"the issuer answered {response.status_code}{hint}")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise JwksError(f"the answer is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)
