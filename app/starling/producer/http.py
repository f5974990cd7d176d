"""Opening a stream over HTTP: the server API of a service that runs elsewhere."""

from typing import Any

import httpx2
import msgspec

from starling.producer.errors import ServiceAway, StreamError
from starling.producer.writer import WATCH_SECONDS, StreamWriter, WriterOptions

_CONNECT_SECONDS = 5.0
# The code of a request that may succeed when it is sent again.
_INTERNAL = 100
_OK, _SERVER_ERRORS, _TOO_MANY = 200, 500, 429
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Api:
    """The server API at one address."""

    def __init__(self, url: str, key: str) -> None:
        # One connection appends while another waits for the end of the stream.
        timeout = httpx2.Timeout(_CONNECT_SECONDS, read=WATCH_SECONDS + 10)
        self._url = url.rstrip("/").removesuffix("/api") + "/api/"
        self._client = httpx2.AsyncClient(timeout=timeout, headers={"X-API-Key": key, "User-Agent": "starling"})

    async def call(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """Call a method. Raises ServiceAway, and StreamError for an answer that no retry changes."""
        content = msgspec.json.encode(body)
        try:
            answer = await self._client.post(
                self._url + method, content=content, headers={"Content-Type": "application/json"}
            )
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise StreamError(f"url: {error}: write it like http://localhost:8000") from error
        except httpx2.HTTPError as error:
            raise ServiceAway(f"{type(error).__name__}: {error}") from error
        if answer.status_code >= _SERVER_ERRORS or answer.status_code == _TOO_MANY:
            raise ServiceAway(f"the service answered {answer.status_code}")
        try:
            found = _decode(answer.content)
        except msgspec.MsgspecError:
            raise StreamError(f"url: {self._url}{method} answered {answer.status_code}, not as Starling does") from None
        if found.get("error", {}).get("code") == _INTERNAL:
            raise ServiceAway(found["error"]["message"])
        if answer.status_code != _OK and "error" not in found:
            raise StreamError(f"url: {self._url}{method} answered {answer.status_code}")
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def open_stream(channel: str, *, url: str, key: str, **options: Any) -> StreamWriter:
    """Write the append-only stream of `channel`, in the service at `url` whose server API `key` opens.

    Use it as `async with starling.open_stream(…) as answer`; `answer.write` adds chunks. `options` are the fields of
    starling.producer.writer.WriterOptions. Raises TypeError for others.
    """
    chosen = WriterOptions(**options)
    api = _Api(url, key)
    return StreamWriter(api.call, channel, chosen, close=api.close)
