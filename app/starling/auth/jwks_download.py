"""One download of a key set: it blocks, is bounded in size, and can be cut off from another thread."""

import base64
import contextlib
import http.client
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

MAX_BODY_BYTES = 256 * 1024

_CHUNK_BYTES = 16 * 1024

Remember = Callable[[socket.socket], None]


class JwksError(Exception):
    """A key set that could not be fetched or used; the message says why, without the address."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any) -> None:
        """Follow nothing: whoever may redirect the request would choose the keys."""


class _Http(urllib.request.HTTPHandler):
    def __init__(self, remember: Remember) -> None:
        super().__init__()
        self._remember = remember

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_tracked(http.client.HTTPConnection, self._remember), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, remember: Remember) -> None:
        super().__init__()
        self._remember = remember

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_tracked(http.client.HTTPSConnection, self._remember), request)


class JwksDownload:
    """A GET of `url`, through the proxies of the environment; user and password in it are sent as Basic credentials.

    `timeout_seconds` bounds each wait for the network; `abort`, called when time is up, ends the whole.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "starling"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._request = urllib.request.Request(  # noqa: S310 - Jwks takes http and https addresses only
            urlunsplit((parts.scheme, host, parts.path, parts.query, "")), headers=headers
        )
        self._timeout_seconds = timeout_seconds
        self._opened: list[socket.socket] = []
        self._aborted = False

    def run(self) -> bytes:
        """Return the body. Raises JwksError for anything else than a whole 200 answer of bounded size."""
        opener = urllib.request.build_opener(_NoRedirect, _Http(self._remember), _Https(self._remember))
        try:
            with opener.open(self._request, timeout=self._timeout_seconds) as response:
                return self._read(response)
        except urllib.error.HTTPError as error:
            error.close()
            raise JwksError(f"the issuer answered {error.code}{_redirected(error.code)}") from None
        except TimeoutError:
            raise JwksError(f"the issuer was silent for {self._timeout_seconds:g} s") from None
        except urllib.error.URLError as error:
            raise JwksError(f"the issuer could not be reached: {error.reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise JwksError(f"the issuer's answer broke off or was no HTTP: {type(error).__name__}") from None

    def abort(self) -> None:
        """Cut the connection, so that `run` in its thread ends soon; harmless when it has ended."""
        self._aborted = True
        for opened in self._opened:
            _cut(opened)

    def _remember(self, opened: socket.socket) -> None:
        self._opened.append(opened)
        if self._aborted:
            _cut(opened)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        if response.status != http.HTTPStatus.OK:
            raise JwksError(f"the issuer answered {response.status}")
        body = bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise JwksError(f"the answer is larger than {MAX_BODY_BYTES} bytes")
        return bytes(body)


def _cut(opened: socket.socket) -> None:
    # A socket that the peer or the other thread has closed needs no cutting.
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)


def _tracked(kind: Any, remember: Remember) -> Any:
    """Return a kind of connection that shows its socket, as urllib does to nobody before the answer has come."""

    class Connection(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            remember(self.sock)

    return Connection


def _redirected(status: int) -> str:
    return ", a redirect, which is not followed: give the final address" if status in range(300, 400) else ""
