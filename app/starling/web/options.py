"""Options of the endpoints, the server API, the pages, webhooks and proxies."""

import base64
import binascii
import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from starling.engine.options import PeerOptions
from starling.engine.proxied import is_web_address
from starling.options import (
    Bytes,
    CommaSeparated,
    DeveloperOptions,
    OptionProblem,
    Options,
    Seconds,
    SettingsError,
    problem,
)
from starling.protocol.resume_id import MOST_CHANNELS
from starling.variables import DEVELOPER_KEY, variable
from starling.web.origins import ANY, normal_pattern

WEBHOOK_EVENTS = ("connect", "disconnect", "subscribe", "unsubscribe", "occupied", "vacated")
PROXY_EVENTS = ("connect", "refresh", "subscribe", "sub_refresh", "publish", "rpc")
# RFC 9110 section 5.6.2: the names of header fields, and of cookies.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Header fields that belong to one hop, or that a request to a backend has of its own.
NOT_FORWARDED = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_SHORTEST_API_KEY = 16
_SHORTEST_WEBHOOK_SECRET = 24


def _check_web_address(value: SecretStr) -> SecretStr:
    if not is_web_address(value.get_secret_value()):
        raise ValueError("write it like https://backend.example.com/webhooks")
    return value


WebAddress = Annotated[SecretStr, AfterValidator(_check_web_address)]


def _normal_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(normal_pattern(pattern) for pattern in value)


class EndpointOptions(DeveloperOptions):
    """Which clients may connect, and how they bring their token."""

    section = "Tokens, and who may connect"

    token_in_query: Annotated[
        bool, Field(description="Accept the token as `?token=` too. Proxies log query strings: prefer the other ways.")
    ] = False
    allowed_origins: Annotated[
        CommaSeparated,
        AfterValidator(_normal_origins),
        Field(
            description="Origins whose pages may connect: `https://app.example.com`, `https://*.example.com` (any "
            "subdomain), `http://localhost:*` (any port), `*` (any page). Unset: the page's own host only. Clients "
            "without an Origin pass."
        ),
    ] = ()
    allow_anonymous: Annotated[
        bool,
        Field(description="Let clients of the real-time protocol connect without a token, as nobody in particular."),
    ] = False


class WriteOptions(Options):
    """How much may wait for one client."""

    section = "Connections and their limits"

    write_buffer_bytes: Annotated[
        Bytes,
        Field(ge=4096, description="Bytes that may wait for a client that reads slowly before it is closed as slow."),
    ] = 2**20


class ContextOptions(EndpointOptions, WriteOptions):
    """What all endpoints of clients share."""


class DurableStreamOptions(Options):
    """Where append-only streams are served over HTTP."""

    section = "Channels"

    streams_path: Annotated[
        str,
        Field(
            pattern=r"^(/[A-Za-z0-9_.-]+)*$",
            description="Path of append-only streams over HTTP, by the protocol Durable Streams: `/streams/{channel}`. "
            "Empty: not served.",
        ),
    ] = "/streams"
    streams_open_namespace: Annotated[
        str,
        Field(
            description="Namespace whose streams anyone may read, write and delete without credentials, at "
            "`/v1/stream/NAME`: for tests and private networks only. Unset: none."
        ),
    ] = ""


class EventStreamOptions(Options):
    """How many channels a reader of server-sent events can resume."""

    section = "Channels"

    sse_recoverable_channels: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_CHANNELS,
            description="Channels with history in one stream of `/sse?channel=…`: the id of each event names the "
            "reader's position in all of them, in 2 KiB at most. More are refused with 400.",
        ),
    ] = 16


def _check_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        try:
            ip_network(network)
        except ValueError as error:
            raise ValueError(f"{error}; write it like 10.0.0.0/8 or 192.0.2.7") from None
    return value


class ApiOptions(DeveloperOptions, PeerOptions):
    """Who may use the server API, and how large a request may be. Without keys nobody may; without networks all may."""

    section = "Server API"

    api_keys: Annotated[
        SecretStr | None,
        Field(description="Keys that open the server API, comma separated, 16 characters at least. Unset: closed."),
    ] = None
    api_allowed_networks: Annotated[
        CommaSeparated,
        AfterValidator(_check_networks),
        Field(
            description="Networks or addresses that may use the server API, such as `10.0.0.0/8`, and `127.0.0.0/8` "
            "for commands in the pod. Unset: any."
        ),
    ] = ()
    api_max_body_bytes: Annotated[
        Bytes, Field(ge=1024, le=256 * 2**20, description="Largest body of one request to the server API.")
    ] = 2**20

    @property
    def api_key_list(self) -> tuple[str, ...]:
        """The keys of `api_keys`, one by one."""
        text = self.api_keys.get_secret_value() if self.api_keys else ""
        return tuple(key for part in text.split(",") if (key := part.strip()))

    @property
    def accepted_keys(self) -> tuple[str, ...]:
        """The keys that open the API; in developer mode the key `dev` is one too."""
        return (*self.api_key_list, DEVELOPER_KEY) if self.dev else self.api_key_list

    def contradictions(self) -> Iterator[OptionProblem]:
        """Keys must not be guessable outside developer mode."""
        if not self.dev and any(len(key) < _SHORTEST_API_KEY or not key.isascii() for key in self.api_key_list):
            yield OptionProblem(
                "api_keys",
                f"{variable('api_keys')} holds a key of fewer than {_SHORTEST_API_KEY} characters or with others than "
                "ASCII: make one with `openssl rand -hex 24`",
            )


class PageOptions(DeveloperOptions):
    """Which endpoints and pages are served in addition to the client endpoint."""

    section = "Endpoints and pages"

    tutorial: Annotated[
        bool,
        Field(
            description="Serve the endpoints of the FastAPI tutorial: `/ws`, `/items/{item_id}/ws`, `/ws/{client_id}`. "
            "Outside developer mode they need a token."
        ),
    ] = True
    http_transports: Annotated[
        bool,
        Field(
            description="Serve clients without WebSocket: `/connection/http_stream`, `/connection/sse`, `/emulation`; "
            "`/connection/uni_sse`, `/connection/uni_http_stream` and `/sse` for those that only read."
        ),
    ] = True
    pages: Annotated[bool, Field(description="Serve the page at `/` and its files.")] = True
    api_docs: Annotated[
        bool | None,
        Field(
            description="Serve the reference of the server API at `/docs` and `/openapi.json`. Unset: only in "
            "developer mode."
        ),
    ] = None

    @property
    def serves_api_docs(self) -> bool:
        """Whether the reference of the server API is served: as set, else in developer mode only."""
        return self.dev if self.api_docs is None else self.api_docs


def _check_events(value: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [event for event in value if event not in WEBHOOK_EVENTS]:
        raise ValueError(f"unknown is {', '.join(unknown)}; known are {', '.join(WEBHOOK_EVENTS)}")
    return value


_SECRET_PREFIX = "whsec_"  # noqa: S105 - the mark of a secret in the specification, none itself


def parse_secret(secret: str) -> bytes:
    """The key of a secret: its own bytes, or behind `whsec_` what the base64 says. Raises ValueError."""
    if not secret.startswith(_SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("what follows whsec_ is no base64") from None


class WebhookOptions(DeveloperOptions):
    """Where webhooks go, and which events."""

    section = "Webhooks"

    webhook_url: Annotated[
        WebAddress | None, Field(description="Webhook URL: see docs/webhooks.md. Unset: webhooks are disabled.")
    ] = None
    webhook_secret: Annotated[
        SecretStr | None, Field(description="Secret that signs webhook requests, at least 24 bytes.")
    ] = None
    webhook_events: Annotated[
        CommaSeparated, AfterValidator(_check_events), Field(description="Which events webhooks send.")
    ] = WEBHOOK_EVENTS
    webhook_timeout_seconds: Annotated[
        Seconds, Field(gt=0, le=60, description="How long the answer to a webhook request may take.")
    ] = 5.0

    @property
    def webhook_key(self) -> bytes | None:
        """The key that signs requests, None without a secret. Raises SettingsError for one that cannot be read."""
        secret = self.webhook_secret.get_secret_value() if self.webhook_secret else ""
        if self.webhook_url is None or not secret:
            return None
        try:
            return parse_secret(secret)
        except ValueError as error:
            raise SettingsError([problem("webhook_secret", str(error))]) from error

    def contradictions(self) -> Iterator[OptionProblem]:
        """Requests are signed outside developer mode, with a secret that cannot be guessed."""
        secret = self.webhook_secret.get_secret_value() if self.webhook_secret else ""
        if self.dev:
            return
        if self.webhook_url and not secret:
            yield OptionProblem(
                "webhook_secret",
                f"{variable('webhook_url')} without {variable('webhook_secret')}: anyone could send the receiver such "
                "requests; make a secret with `openssl rand -base64 32`",
            )
        if secret and len(secret.encode()) < _SHORTEST_WEBHOOK_SECRET:
            yield OptionProblem(
                "webhook_secret",
                f"{variable('webhook_secret')} is shorter than {_SHORTEST_WEBHOOK_SECRET} bytes and could be guessed: "
                "make one with `openssl rand -base64 32`",
            )


def _check_header_names(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header field: write names such as Authorization")
        if name.lower() in NOT_FORWARDED:
            raise ValueError(f"{name} belongs to the handshake or to the request itself: take it out")
        if name.lower() == "cookie":
            raise ValueError(f"Cookie is forwarded by the names of cookies: use {variable('proxy_cookies')}")
    return tuple(name.lower() for name in value)


def _check_cookie_names(value: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [name for name in value if not _TOKEN.fullmatch(name)]:
        raise ValueError(f"{wrong[0]!r} is no name of a cookie: write names such as sessionid")
    return value


class ProxyOptions(Options):
    """Which events a backend decides about, and what of the handshake it gets."""

    section = "Proxies"

    proxy_connect: Annotated[
        WebAddress | None,
        Field(description="URL that decides about clients that connect without a token: see docs/proxies.md."),
    ] = None
    proxy_refresh: Annotated[
        WebAddress | None, Field(description="URL that decides whether a connection goes on at its `expire_at`.")
    ] = None
    proxy_subscribe: Annotated[
        WebAddress | None, Field(description="URL that decides about subscriptions where `subscribe_proxy` is true.")
    ] = None
    proxy_sub_refresh: Annotated[
        WebAddress | None,
        Field(description="URL that decides whether a subscription goes on where `sub_refresh_proxy` is true."),
    ] = None
    proxy_publish: Annotated[
        WebAddress | None, Field(description="URL that decides about publications where `publish_proxy` is true.")
    ] = None
    proxy_rpc: Annotated[WebAddress | None, Field(description="URL that answers the calls of clients.")] = None
    proxy_headers: Annotated[
        CommaSeparated,
        AfterValidator(_check_header_names),
        Field(description="Header fields of a client's handshake that proxies get."),
    ] = ()
    proxy_client_headers: Annotated[
        CommaSeparated,
        AfterValidator(_check_header_names),
        Field(
            description="Header fields that clients may write into their connect command, as pages cannot set real "
            "ones: proxies get them under the same names. Of the same name, STARLING_PROXY_HEADERS counts."
        ),
    ] = ()
    proxy_cookies: Annotated[
        CommaSeparated,
        AfterValidator(_check_cookie_names),
        Field(description="Cookies of a client that proxies get; needs origins in `STARLING_ALLOWED_ORIGINS`."),
    ] = ()
    proxy_timeout_seconds: Annotated[
        Seconds, Field(gt=0, le=60, description="How long the answer of a proxy may take.")
    ] = 1.0

    @property
    def proxy_urls(self) -> dict[str, str]:
        """The address of each proxy that has one, by its event."""
        urls: dict[str, SecretStr | None] = {event: getattr(self, f"proxy_{event}") for event in PROXY_EVENTS}
        return {event: url.get_secret_value() for event, url in urls.items() if url is not None}

    def contradictions(self) -> Iterator[OptionProblem]:
        """Only connections that a backend let in are renewed by it."""
        if self.proxy_refresh and not self.proxy_connect:
            yield OptionProblem(
                "proxy_connect",
                f"{variable('proxy_refresh')} is asked about connections that {variable('proxy_connect')} let in: "
                "set that too",
            )


def cookies_problem(proxies: ProxyOptions, endpoints: EndpointOptions) -> OptionProblem | None:
    """Cookies are a credential only where the pages that may connect are named."""
    named = endpoints.allowed_origins or endpoints.dev
    if not proxies.proxy_cookies or (named and ANY not in endpoints.allowed_origins):
        return None
    return OptionProblem(
        "proxy_cookies",
        f"{variable('proxy_cookies')}: any page of the web could make a browser send these cookies: set "
        f"{variable('allowed_origins')} to the origins of your pages (not *)",
    )
