"""Every setting of Starling, read from the environment by `main` and `cli` alone."""

import difflib
import math
import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from starling.brokers.redis.address import SCHEMES as REDIS_SCHEMES
from starling.engine.proxied import is_web_address
from starling.problems import describe_failure, describe_value
from starling.variables import CLIENT_VARIABLES
from starling.variables import PREFIX as PREFIX  # noqa: PLC0414 - settings begin with it
from starling.web.origins import ANY, normal_pattern, surprises

# Kubernetes puts such names into pods for a Service called "starling" unless enableServiceLinks is false.
_SERVICE_LINK = re.compile(r"^STARLING_(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP))")

# The sections of the list, each by the setting that it begins with.
SECTIONS = {
    "host": "Ports and processes",
    "broker_url": "Broker",
    "token_hmac_secret": "Tokens, and who may connect",
    "api_keys": "Server API",
    "max_connections": "Connections and their limits",
    "tutorial": "Endpoints and pages",
    "channels_file": "Channels",
    "hooks": "Hooks",
    "app": "Your application",
    "webhook_url": "Webhooks",
    "proxy_connect": "Proxies",
    "drain_delay_seconds": "Stop",
    "top_channels": "Logs, metrics and traces",
    "dev": "Developer mode",
}

CommaSeparated = tuple[str, ...]

SHORTEST_DRAIN_SECONDS = 20.0
LONGEST_DRAIN_SECONDS = 3600.0

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


class SettingsError(Exception):
    """Settings that cannot be used; `problems` names each with its remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseModel):
    """All settings. The environment variable of a field is its name in capitals behind `STARLING_`.

    Each may be read from a file instead: `STARLING_NAME_FILE` holds the path, as Kubernetes and Docker mount secrets.
    Times are in seconds, sizes in bytes. Lists are comma separated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    host: Annotated[
        str | None,
        Field(description="Address the public port listens on. Unset: `0.0.0.0`; in developer mode `127.0.0.1`."),
    ] = None
    port: Annotated[int, Field(ge=1, le=65535, description="Public port: WebSocket endpoints, server API, pages.")] = (
        8000
    )
    internal_host: Annotated[
        str, Field(description="Address the internal port listens on; anyone who reaches it can read it.")
    ] = "127.0.0.1"
    internal_port: Annotated[
        int, Field(ge=1, le=65535, description="Internal port: metrics and probes of the whole pod; never publish it.")
    ] = 9090
    workers: Annotated[
        int | None,
        Field(ge=1, le=64, description="Worker processes. Unset: 1 on `memory://`, else the CPUs this pod may use."),
    ] = None
    runtime_dir: Annotated[
        Path | None,
        Field(
            description="Directory for the workers' status and metric files, best on tmpfs. Unset: a new temporary one."
        ),
    ] = None

    broker_url: Annotated[
        SecretStr,
        Field(
            description="What carries messages between processes: `memory://`, `redis://`, `rediss://` or "
            "`postgresql://`; for `redis+sentinel://` and `redis+cluster://` see docs/redis.md."
        ),
    ] = SecretStr("memory://")
    broker_prefix: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$", description="Start of every key and channel name in the broker.")
    ] = "starling"
    broker_timeout_seconds: Annotated[
        float, Field(gt=0, le=60, description="How long one call to the broker may take before it counts as failed.")
    ] = 2.0
    broker_ca_file: Annotated[
        Path | None,
        Field(description="CA certificates that a `rediss://` broker is checked against. Unset: the system's."),
    ] = None
    broker_cert_file: Annotated[
        Path | None,
        Field(description="Certificate that is shown to a `rediss://` broker; needs `STARLING_BROKER_KEY_FILE`."),
    ] = None
    broker_key_file: Annotated[
        Path | None, Field(description="Private key of `STARLING_BROKER_CERT_FILE`, without a passphrase.")
    ] = None
    position_read_ttl_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=366 * 86400,
            description="How long the position of a channel without a publication is kept after it was read. A client "
            "that is away longer gets `recovered: false`.",
        ),
    ] = 3600.0
    ready_requires_broker_seconds: Annotated[
        float,
        Field(ge=0, description="Unready a worker whose broker has been away this long. 0: never, which is safer."),
    ] = 0.0

    token_hmac_secret: Annotated[
        SecretStr | None, Field(description="Secret that signs tokens (HS256, HS384, HS512), at least 32 bytes.")
    ] = None
    token_hmac_secret_previous: Annotated[
        SecretStr | None,
        Field(description="The secret before the last rotation; its tokens stay good while it is set."),
    ] = None
    token_public_key: Annotated[
        str | None, Field(description="Public key in PEM form (RSA, ECDSA or Ed25519) that tokens are checked against.")
    ] = None
    token_jwks_url: Annotated[
        str | None, Field(description="Address of the issuer's JSON Web Key Set; fetched in the background and cached.")
    ] = None
    token_audience: Annotated[str | None, Field(description="Audience (`aud`) that every token must name.")] = None
    token_issuer: Annotated[str | None, Field(description="Issuer (`iss`) that every token must name.")] = None
    token_require_expiry: Annotated[bool, Field(description="Refuse tokens without an end (`exp`).")] = False
    token_max_lifetime_seconds: Annotated[
        float,
        Field(
            ge=0, description="Refuse tokens that end later than this from now, or never. 0: they may live for ever."
        ),
    ] = 0.0
    token_in_query: Annotated[
        bool, Field(description="Accept the token as `?token=` too. Proxies log query strings: prefer the other ways.")
    ] = False
    allowed_origins: Annotated[
        CommaSeparated,
        Field(
            description="Origins whose pages may connect: `https://app.example.com`, `https://*.example.com` (any "
            "subdomain), `http://localhost:*` (any port), `*` (any page). Unset: the page's own host only. Clients "
            "without an Origin pass."
        ),
    ] = ()
    trusted_proxies: Annotated[
        CommaSeparated,
        Field(description="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."),
    ] = ("127.0.0.1", "::1")
    revocation_seconds: Annotated[
        float,
        Field(
            ge=60,
            description="How long a revocation without an end of its own is kept: longer than any token lives.",
        ),
    ] = 30 * 86400.0

    api_keys: Annotated[
        SecretStr | None,
        Field(description="Keys that open the server API, comma separated, 16 characters at least. Unset: closed."),
    ] = None
    api_allowed_networks: Annotated[
        CommaSeparated,
        Field(
            description="Networks or addresses that may use the server API, such as `10.0.0.0/8`, and `127.0.0.0/8` "
            "for commands in the pod. Unset: any."
        ),
    ] = ()
    api_max_body_bytes: Annotated[
        int, Field(ge=1024, le=256 * 2**20, description="Largest body of one request to the server API.")
    ] = 2**20

    max_connections: Annotated[
        int,
        Field(
            ge=0, description="Connections a worker holds; more are refused with 503. 0: bounded by open files only."
        ),
    ] = 0
    max_connections_per_user: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Real-time connections of one user, in all pods; the next is closed with 3504. 0: any number.",
        ),
    ] = 0
    worker_connections_per_user: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Connections of one user in one worker; the next is closed with 3504, on a tutorial endpoint "
            "answered with 429. 0: any number.",
        ),
    ] = 100
    worker_connections_per_address: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Connections without a user from one address in one worker; needs STARLING_TRUSTED_PROXIES "
            "behind a proxy, whose address all clients have otherwise. 0: any number.",
        ),
    ] = 0
    failed_connects_per_minute: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Connects with a bad, an expired or no token that one address may try in a worker; then 429. "
            "Needs STARLING_TRUSTED_PROXIES behind a proxy. 0: any number.",
        ),
    ] = 0
    connects_per_second: Annotated[
        float,
        Field(
            ge=0,
            le=100_000,
            description="New connections a worker takes in a second, as many at once; more get 503. 0: any number.",
        ),
    ] = 0.0
    max_lag_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=60,
            description="Delay of a worker's event loop beyond which it refuses new connections with 503. 0: never.",
        ),
    ] = 1.0
    max_memory_share: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the pod's memory limit beyond which new connections are refused with 503. 0: never.",
        ),
    ] = 0.9
    max_message_bytes: Annotated[
        int,
        Field(
            ge=128, le=16 * 2**20, description="Largest message a client may send; a larger one is closed with 1009."
        ),
    ] = 65536
    messages_per_second: Annotated[
        float,
        Field(
            ge=0,
            le=1_000_000,
            description="Messages (on the client endpoint: commands) a client may send a second. 0: no limit.",
        ),
    ] = 5_000.0
    message_burst: Annotated[
        int,
        Field(ge=1, le=10_000_000, description="How many of them a client may send at once; the rate gives them back."),
    ] = 100_000
    write_buffer_bytes: Annotated[
        int,
        Field(ge=4096, description="Bytes that may wait for a client that reads slowly before it is closed as slow."),
    ] = 2**20
    waiting_memory_share: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the memory limit that replies may take while they wait for slow clients, in all "
            "workers; beyond it the clients that wait with most are closed as slow. 0: no bound.",
        ),
    ] = 0.2
    compression: Annotated[
        bool,
        Field(
            description="Compress messages of 256 bytes and more for clients that offer it (permessage-deflate): "
            "see docs/compression.md."
        ),
    ] = False
    handshake_seconds: Annotated[
        float, Field(gt=0, le=300, description="Time a new connection has to finish its request's head.")
    ] = 10.0
    keep_alive_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=3600,
            description="How long an idle HTTP connection stays open after a response; keep it over what the load "
            "balancer keeps its own connections: nginx and AWS 60 s, Google Cloud 600 s.",
        ),
    ] = 75
    ping_seconds: Annotated[
        int, Field(ge=1, le=3600, description="How often a client is pinged; keep it under every proxy's idle timeout.")
    ] = 25
    pong_seconds: Annotated[int, Field(ge=1, le=600, description="How long the answer to a ping may take.")] = 8

    tutorial: Annotated[
        bool,
        Field(
            description="Serve the endpoints of the FastAPI tutorial: `/ws`, `/items/{item_id}/ws`, `/ws/{client_id}`. "
            "Outside developer mode they need a token."
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
    channels_file: Annotated[
        Path | None,
        Field(description="YAML or JSON file with the options of channels and namespaces: see docs/channels.md."),
    ] = None
    allow_anonymous: Annotated[
        bool,
        Field(description="Let clients of the real-time protocol connect without a token, as nobody in particular."),
    ] = False
    subscribe_to_personal_channel: Annotated[
        bool,
        Field(description="Subscribe every user's connections to the channel `#USER`, which is that user's alone."),
    ] = False
    personal_channel_namespace: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_.-]{0,64}$",
            description="Namespace of personal channels, which are then called `NAMESPACE:#USER`. Unset: the default "
            "namespace.",
        ),
    ] = ""
    max_channels: Annotated[
        int, Field(ge=1, le=100_000, description="Channels one connection may be subscribed to.")
    ] = 128
    new_channels_per_second: Annotated[
        float,
        Field(
            ge=0,
            le=100_000,
            description="Channels with history that a user may be the first to use, in a worker and in the long run. "
            "0: any number.",
        ),
    ] = 10.0
    new_channel_burst: Annotated[
        int, Field(ge=1, le=1_000_000, description="How many of them a user may be the first to use at once.")
    ] = 1000
    recovery_limit: Annotated[
        int,
        Field(
            ge=1, le=100_000, description="Publications a client gets at most on its return, or by one history call."
        ),
    ] = 300
    connect_seconds: Annotated[
        float, Field(gt=0, le=300, description="Time a real-time client has to send its connect command.")
    ] = 10.0
    expiry_grace_seconds: Annotated[
        float,
        Field(
            ge=0, le=3600, description="Time a client has to renew a token that has expired, before what it gave ends."
        ),
    ] = 25.0
    presence_ttl_seconds: Annotated[
        float, Field(ge=3, le=86400, description="How long who was in a channel is still shown after a crash.")
    ] = 60.0
    presence_leave_delay_seconds: Annotated[
        float,
        Field(ge=0, le=60, description="How long a leave waits for the user to reconnect, as after a page reload."),
    ] = 0.0

    hooks: Annotated[
        str | None, Field(description="Python module with your own async functions for clients: see docs/hooks.md.")
    ] = None
    hooks_path: Annotated[
        Path | None, Field(description="Directory that is put on the import path for your hooks.")
    ] = None
    hook_seconds: Annotated[
        float, Field(gt=0, le=60, description="How long one call of a hook may take before its client gets an error.")
    ] = 2.0

    app: Annotated[
        str | None,
        Field(
            description="Your own ASGI application, `module:name`, served with Starling: see docs/embed.md.",
        ),
    ] = None
    preload_app: Annotated[
        bool,
        Field(description="Import it once, before the workers are forked, which saves memory; it may start no thread."),
    ] = False

    webhook_url: Annotated[
        SecretStr | None,
        Field(description="Webhook URL: see docs/webhooks.md. Unset: webhooks are disabled."),
    ] = None
    webhook_secret: Annotated[
        SecretStr | None, Field(description="Secret that signs webhook requests, at least 24 bytes.")
    ] = None
    webhook_events: Annotated[CommaSeparated, Field(description="Which events webhooks send.")] = WEBHOOK_EVENTS
    webhook_timeout_seconds: Annotated[
        float, Field(gt=0, le=60, description="How long the answer to a webhook request may take.")
    ] = 5.0

    proxy_connect: Annotated[
        SecretStr | None,
        Field(description="URL that decides about clients that connect without a token: see docs/proxies.md."),
    ] = None
    proxy_refresh: Annotated[
        SecretStr | None, Field(description="URL that decides whether a connection goes on at its `expire_at`.")
    ] = None
    proxy_subscribe: Annotated[
        SecretStr | None, Field(description="URL that decides about subscriptions where `subscribe_proxy` is true.")
    ] = None
    proxy_sub_refresh: Annotated[
        SecretStr | None,
        Field(description="URL that decides whether a subscription goes on where `sub_refresh_proxy` is true."),
    ] = None
    proxy_publish: Annotated[
        SecretStr | None, Field(description="URL that decides about publications where `publish_proxy` is true.")
    ] = None
    proxy_rpc: Annotated[SecretStr | None, Field(description="URL that answers the calls of clients.")] = None
    proxy_headers: Annotated[
        CommaSeparated, Field(description="Header fields of a client's handshake that proxies get.")
    ] = ()
    proxy_cookies: Annotated[
        CommaSeparated,
        Field(description="Cookies of a client that proxies get; needs origins in `STARLING_ALLOWED_ORIGINS`."),
    ] = ()
    proxy_timeout_seconds: Annotated[
        float, Field(gt=0, le=60, description="How long the answer of a proxy may take.")
    ] = 1.0
    proxy_grace_seconds: Annotated[
        float,
        Field(ge=0, le=86400, description="How long a connection goes on past its end while `refresh` gets no answer."),
    ] = 60.0

    drain_delay_seconds: Annotated[
        float,
        Field(ge=0, le=600, description="After SIGTERM: how long the listeners stay, until routers have noticed."),
    ] = 5.0
    drain_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            le=LONGEST_DRAIN_SECONDS,
            description="Duration of the drain, whatever the rate. Unset: 20, or what "
            "`STARLING_MAX_CONNECTIONS` of each worker take at `STARLING_DRAIN_RATE` if that is longer.",
        ),
    ] = None
    drain_rate: Annotated[
        float,
        Field(
            ge=0,
            le=100_000,
            description="Clients that all pods on one Redis disconnect a second, exceeded only where "
            "`STARLING_DRAIN_SECONDS` would not do. 0: each worker for itself, evenly over that time.",
        ),
    ] = 500.0

    top_channels: Annotated[
        int, Field(ge=0, le=100, description="How many of a pod's busiest channels the metrics name. 0: none.")
    ] = 10
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Least severe log lines that are written.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Field(description="`json`: one object a line. `auto`: `console` on a terminal."),
    ] = "auto"
    tracing: Annotated[
        bool,
        Field(description="Send spans to an OpenTelemetry collector, as `OTEL_…` variables say: see docs/tracing.md."),
    ] = False

    dev: Annotated[
        bool, Field(description="Developer mode: everyone may do everything. Never where others can reach the port.")
    ] = False

    @field_validator(
        "allowed_origins",
        "trusted_proxies",
        "api_allowed_networks",
        "webhook_events",
        "proxy_headers",
        "proxy_cookies",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("api_allowed_networks")
    @classmethod
    def _networks(cls, value: CommaSeparated) -> CommaSeparated:
        for network in value:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"{error}; write it like 10.0.0.0/8 or 192.0.2.7") from None
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: CommaSeparated) -> CommaSeparated:
        return tuple(normal_pattern(pattern) for pattern in value)

    @field_validator("webhook_url", *(f"proxy_{event}" for event in PROXY_EVENTS))
    @classmethod
    def _web_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_web_address(value.get_secret_value()):
            raise ValueError("write it like https://backend.example.com/webhooks")
        return value

    @field_validator("proxy_headers")
    @classmethod
    def _header_names(cls, value: CommaSeparated) -> CommaSeparated:
        for name in value:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a header field: write names such as Authorization")
            if name.lower() in NOT_FORWARDED:
                raise ValueError(f"{name} belongs to the handshake or to the request itself: take it out")
            if name.lower() == "cookie":
                raise ValueError("Cookie is forwarded by the names of cookies: use STARLING_PROXY_COOKIES")
        return tuple(name.lower() for name in value)

    @field_validator("proxy_cookies")
    @classmethod
    def _cookie_names(cls, value: CommaSeparated) -> CommaSeparated:
        if wrong := [name for name in value if not _TOKEN.fullmatch(name)]:
            raise ValueError(f"{wrong[0]!r} is no name of a cookie: write names such as sessionid")
        return value

    @field_validator("webhook_events")
    @classmethod
    def _known_events(cls, value: CommaSeparated) -> CommaSeparated:
        if unknown := [event for event in value if event not in WEBHOOK_EVENTS]:
            raise ValueError(f"unknown is {', '.join(unknown)}; known are {', '.join(WEBHOOK_EVENTS)}")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("port", "internal_port", mode="before")
    @classmethod
    def _no_service_link(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                "this is the address that Kubernetes sets for a Service of this name; "
                "set enableServiceLinks: false on the pod"
            )
        return value

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, value: SecretStr) -> SecretStr:
        scheme = value.get_secret_value().partition(":")[0]
        if scheme not in {"memory", "postgresql", *REDIS_SCHEMES}:
            raise ValueError(
                "it must start with memory://, redis://, rediss:// or postgresql://, "
                "or redis+sentinel:// or redis+cluster://"
            )
        return value

    @property
    def listen_host(self) -> str:
        """The address of the public port: as set, else every address, in developer mode this machine's alone."""
        if self.host is not None:
            return self.host
        return "127.0.0.1" if self.dev else "0.0.0.0"  # noqa: S104 - a server in a container is reached from outside it

    @property
    def serves_api_docs(self) -> bool:
        """Whether the reference of the server API is served: as set, else in developer mode only."""
        return self.dev if self.api_docs is None else self.api_docs

    @property
    def api_key_list(self) -> tuple[str, ...]:
        """The keys of `api_keys`, one by one."""
        text = self.api_keys.get_secret_value() if self.api_keys else ""
        return tuple(key for part in text.split(",") if (key := part.strip()))

    @property
    def broker_scheme(self) -> str:
        """The kind of broker: `memory`, `postgresql`, or one of Redis's, such as `rediss` or `redis+sentinel`."""
        return self.broker_url.get_secret_value().partition(":")[0]

    @property
    def worker_count(self) -> int:
        """How many workers run: as set, else 1 on memory, else what this pod may use of the machine."""
        if self.workers is not None:
            return self.workers
        return 1 if self.broker_scheme == "memory" else usable_cpus()

    @property
    def capacity(self) -> int:
        """Connections that this pod holds at most; 0 where only its open files bound them."""
        return self.max_connections * self.worker_count

    @property
    def drain_time(self) -> float:
        """Duration of the drain in seconds: as set, else what a full pod takes at the drain rate, at least 20."""
        if self.drain_seconds is not None:
            return self.drain_seconds
        at_rate = math.ceil(self.capacity / self.drain_rate) if self.drain_rate else 0
        return float(min(max(SHORTEST_DRAIN_SECONDS, at_rate), LONGEST_DRAIN_SECONDS))

    def warnings(self) -> list[str]:
        """Valid settings that do not fit together, each with its remedy."""
        warnings = [f"STARLING_ALLOWED_ORIGINS: {surprise}" for surprise in surprises(self.allowed_origins)]
        if not self.drain_rate:
            return warnings
        needed = math.ceil(self.capacity / self.drain_rate)
        if needed > self.drain_time:
            remedy = f"set STARLING_DRAIN_SECONDS to {needed} or more (and the pod's grace with it)"
            if needed > LONGEST_DRAIN_SECONDS:
                remedy = f"set STARLING_DRAIN_RATE to {math.ceil(self.capacity / LONGEST_DRAIN_SECONDS)} or more"
            warnings.append(
                f"a full pod ({self.capacity} connections) needs {needed} s at STARLING_DRAIN_RATE={self.drain_rate:g} "
                f"but drains within {self.drain_time:g} s, and so faster than the rate: {remedy}, or "
                "STARLING_MAX_CONNECTIONS to less"
            )
        if self.broker_scheme == "postgresql" and "drain_rate" in self.model_fields_set:
            warnings.append(
                "STARLING_DRAIN_RATE is shared through redis:// only: on postgresql:// each worker disconnects its "
                "clients evenly over STARLING_DRAIN_SECONDS; set it to 0"
            )
        return warnings

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        problems = list(self._contradictions())
        if problems:
            raise SettingsError(problems)
        return self

    def _contradictions(self) -> list[str]:
        problems = [*self._webhook_contradictions(), *self._proxy_contradictions()]
        if self.broker_scheme == "memory" and self.worker_count > 1:
            problems.append(
                f"STARLING_WORKERS is {self.worker_count}, but memory:// joins nothing beyond one process: "
                "set STARLING_WORKERS=1, or STARLING_BROKER_URL=redis://HOST:6379"
            )
        if self.broker_scheme == "postgresql" and self.max_connections_per_user:
            problems.append(
                "STARLING_MAX_CONNECTIONS_PER_USER counts over all processes, which postgresql:// does not keep: "
                "use a redis:// broker, or unset it"
            )
        if self.personal_channel_namespace and not self.subscribe_to_personal_channel:
            problems.append(
                "STARLING_PERSONAL_CHANNEL_NAMESPACE is set, but there are no personal channels: set "
                "STARLING_SUBSCRIBE_TO_PERSONAL_CHANNEL=true, or unset it"
            )
        if self.port == self.internal_port:
            problems.append(
                f"STARLING_PORT and STARLING_INTERNAL_PORT are both {self.port}: give one of them another port"
            )
        if self.pong_seconds >= self.ping_seconds:
            problems.append(
                f"STARLING_PONG_SECONDS ({self.pong_seconds}) must be less than "
                f"STARLING_PING_SECONDS ({self.ping_seconds})"
            )
        if self.dev and self.token_jwks_url:
            problems.append(
                "STARLING_DEV lets everyone in, which contradicts STARLING_TOKEN_JWKS_URL: unset one of the two"
            )
        for name in ("token_hmac_secret", "token_hmac_secret_previous"):
            secret: SecretStr | None = getattr(self, name)
            if secret and not self.dev and len(secret.get_secret_value().encode()) < 32:
                problems.append(
                    f"{PREFIX}{name.upper()} is shorter than 32 bytes and could be guessed: "
                    f"make one with `openssl rand -base64 48`"
                )
        if not self.dev and any(len(key) < 16 or not key.isascii() for key in self.api_key_list):
            problems.append(
                f"{PREFIX}API_KEYS holds a key of fewer than 16 characters or with others than ASCII: "
                "make one with `openssl rand -hex 24`"
            )
        if not self.dev and not (self.token_hmac_secret or self.token_public_key or self.token_jwks_url):
            problems.append(
                "no key to check tokens with: set STARLING_TOKEN_HMAC_SECRET (`openssl rand -base64 48` makes one), "
                "STARLING_TOKEN_PUBLIC_KEY or STARLING_TOKEN_JWKS_URL; to try out, STARLING_DEV=true lets everyone in"
            )
        return problems

    @property
    def proxy_urls(self) -> dict[str, str]:
        """The address of each proxy that has one, by its event."""
        urls: dict[str, SecretStr | None] = {event: getattr(self, f"proxy_{event}") for event in PROXY_EVENTS}
        return {event: url.get_secret_value() for event, url in urls.items() if url is not None}

    def _proxy_contradictions(self) -> list[str]:
        problems = []
        if self.proxy_cookies and (ANY in self.allowed_origins or not (self.allowed_origins or self.dev)):
            problems.append(
                "STARLING_PROXY_COOKIES: any page of the web could make a browser send these cookies: set "
                "STARLING_ALLOWED_ORIGINS to the origins of your pages (not *)"
            )
        if self.proxy_refresh and not self.proxy_connect:
            problems.append(
                "STARLING_PROXY_REFRESH is asked about connections that STARLING_PROXY_CONNECT let in: set that too"
            )
        return problems

    def _webhook_contradictions(self) -> list[str]:
        problems = []
        secret = self.webhook_secret.get_secret_value() if self.webhook_secret else ""
        if self.webhook_url and not secret and not self.dev:
            problems.append(
                "STARLING_WEBHOOK_URL without STARLING_WEBHOOK_SECRET: anyone could send the receiver such requests; "
                "make a secret with `openssl rand -base64 32`"
            )
        if secret and len(secret.encode()) < 24 and not self.dev:
            problems.append(
                "STARLING_WEBHOOK_SECRET is shorter than 24 bytes and could be guessed: "
                "make one with `openssl rand -base64 32`"
            )
        if self.webhook_url and self.broker_scheme == "postgresql" and {"occupied", "vacated"} & {*self.webhook_events}:
            problems.append(
                "STARLING_WEBHOOK_EVENTS holds occupied or vacated, which postgresql:// does not keep: use a redis:// "
                "broker, or set STARLING_WEBHOOK_EVENTS=connect,disconnect,subscribe,unsubscribe"
            )
        return problems


def usable_cpus() -> int:
    """CPUs this process may use: the smaller of its CPU affinity and its cgroup's quota, at least 1."""
    # macOS has neither of the two.
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return available
    if quota == "max":
        return available
    return max(1, min(available, int(quota) // int(period)))


def read_file(path: Path | str) -> str:
    """Return the text of a file in UTF-8, without the byte order mark that editors on Windows put before it.

    Raises OSError, UnicodeDecodeError.
    """
    return Path(path).read_text(encoding="utf-8-sig")


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings from `environment`. Raises SettingsError with all problems at once, each with its remedy."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or _SERVICE_LINK.match(variable) or variable in CLIENT_VARIABLES:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in Settings.model_fields:
            values[name] = environment[variable]
        elif name.endswith("_file") and (field := name.removesuffix("_file")) in Settings.model_fields:
            if f"{PREFIX}{field.upper()}" in environment:
                problems.append(f"{variable} and {PREFIX}{field.upper()} are both set: unset one of the two")
            try:
                values[field] = read_file(environment[variable]).strip()
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{variable}: cannot read {environment[variable]}: {describe_failure(error)}")
        else:
            problems.append(f"{variable} is not a setting{_nearest(name)}")
    settings = _validate(values, problems)
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


def _validate(values: dict[str, Any], problems: list[str]) -> Settings | None:
    """Build Settings, adding to `problems`; refused values are left out so that contradictions are found too."""
    try:
        return Settings(**values)
    except SettingsError as error:
        problems += error.problems
    except ValidationError as error:
        refused = {str(problem["loc"][0]) for problem in error.errors()}
        problems += [_describe(problem) for problem in error.errors(include_url=False)]
        _validate({name: value for name, value in values.items() if name not in refused}, problems)
    return None


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    return f": did you mean {PREFIX}{near[0].upper()}?" if near else ": `starling settings` lists them all"


def _describe(problem: Any) -> str:
    name = str(problem["loc"][0])
    field = Settings.model_fields[name]
    shown = "" if field.annotation in (SecretStr, SecretStr | None) else f" (it is {str(problem['input'])[:80]!r})"
    variable = f"{PREFIX}{name.upper()}"
    return f"{variable}: {describe_value(problem)}{shown}. `starling explain {variable}` says what it is for"
