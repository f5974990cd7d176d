"""A Centrifugo configuration, of version 5 or 6, translated into Starling's settings and channel options.

Options have the names of version 6 in here; starling.cli.centrifugo_options has the tables.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from msgspec import Struct, field

from starling.cli.centrifugo_options import (
    CHANNEL_OPTIONS,
    CHANNEL_PROXIES,
    DURATION_OPTIONS,
    NOTHING_TO_DO,
    OTHER_CHANNEL_OPTIONS,
    PROXIES,
    REASONS,
    REDIS_ADDRESS,
    VERSION_5,
)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


class Left(NamedTuple):
    """An option without a counterpart: its path, and what to do about it."""

    path: str
    reason: str


class Translation(Struct):
    """What a configuration becomes: settings by variable, the channels document, and what has no counterpart."""

    settings: dict[str, str] = field(default_factory=dict)
    channels: dict[str, Any] = field(default_factory=lambda: {"default": {}, "namespaces": {}})
    left: list[Left] = field(default_factory=list)


class CentrifugoError(ValueError):
    """A document that is no configuration of Centrifugo; the message says why."""


def translate(document: object) -> Translation:
    """Translate the configuration of Centrifugo 5 (flat names) or 6 (nested). Raises CentrifugoError.

    Every option of the document is in the settings, in the channels, or in `left`; one that is off or empty counts for
    nothing.
    """
    if not isinstance(document, Mapping):
        raise CentrifugoError("it must be an object with the options of Centrifugo")
    return _Translator(document).translate()


class _Translator:
    """One translation: each option is taken from `_options` once, and what is left has no counterpart."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._result = Translation()
        self._default = {key: value for key, value in document.items() if _is_channel_option(key)}
        self._options: dict[str, Any] = {}
        for path, value in _flatten({key: value for key, value in document.items() if key not in self._default}):
            self._options[VERSION_5.get(path, path)] = value
        self._proxies = {
            proxy.get("name", ""): proxy for proxy in self._take("proxies") or () if isinstance(proxy, Mapping)
        }

    def translate(self) -> Translation:
        self._tokens()
        self._simple_settings()
        self._redis()
        self._backends()
        self._channels()
        for path, value in self._options.items():
            if path not in NOTHING_TO_DO and value not in (None, "", False, [], {}):
                self._leave(path)
        return self._result

    def _take(self, path: str) -> Any:
        return self._options.pop(path, None)

    def _leave(self, path: str, reason: str = "") -> None:
        if not reason:
            known = [start for start in REASONS if path == start or path.startswith((f"{start}.", f"{start}_"))]
            reason = REASONS[max(known, key=len)] if known else "no counterpart"
        self._result.left.append(Left(path, reason))

    def _set(self, variable: str, value: str) -> None:
        self._result.settings[f"STARLING_{variable}"] = value

    def _tokens(self) -> None:
        keys = [self._take(f"client.token.{kind}_public_key") for kind in ("rsa", "ecdsa")]
        given = [key for key in keys if key]
        if given:
            self._set("TOKEN_PUBLIC_KEY", str(given[0]))
        if len(given) > 1:
            self._leave("client.token.ecdsa_public_key", "one public key checks tokens; serve both from a JWKS address")

    def _simple_settings(self) -> None:
        for path, (variable, convert) in SIMPLE.items():
            value = self._take(path)
            if value in (None, "", False, [], 0):
                continue
            try:
                self._set(variable, convert(value))
            except ValueError as error:
                self._leave(path, str(error))
        limits = [self._take(f"client.{kind}_max_publication_limit") for kind in ("history", "recovery")]
        numbers = [limit for limit in limits if isinstance(limit, int) and limit > 0]
        if numbers:
            self._set("RECOVERY_LIMIT", str(max(numbers)))

    def _redis(self) -> None:
        redis = {path: self._take(path) for path in [*self._options] if path.startswith("engine.redis.")}
        options = {path.removeprefix("engine.redis."): value for path, value in redis.items()}
        used = self._options.get("engine.type", self._options.get("engine")) == "redis"
        self._options.pop("engine", None)
        ttl = options.pop("presence_ttl", None)
        if ttl:
            self._set("PRESENCE_TTL_SECONDS", _seconds(ttl))
        if not used:
            return
        self._set("BROKER_URL", _redis_address(options))
        for name, value in options.items():
            if name not in REDIS_ADDRESS and value not in (None, "", False, [], {}):
                self._leave(f"engine.redis.{name}")

    def _backends(self) -> None:
        """Proxies of connect, refresh and rpc; those of channels are read with the namespaces."""
        timeouts: list[float] = []
        headers: list[str] = []
        for kind, path in PROXIES.items():
            enabled, name = self._take(f"{path}.enabled"), self._take(f"{path}.name")
            proxy = self._proxies.get(name, {}) if name else {}
            endpoint = self._take(f"{path}.endpoint") or proxy.get("endpoint")
            timeout = self._take(f"{path}.timeout") or proxy.get("timeout")
            own_headers = self._take(f"{path}.http_headers") or proxy.get("http_headers") or []
            if not endpoint or enabled is False:
                continue
            if not _is_http(endpoint):
                self._leave(f"{path}.endpoint", f"{endpoint} is not HTTP: proxies are asked over http:// or https://")
                continue
            self._set(f"PROXY_{kind.upper()}", endpoint)
            headers += own_headers
            if timeout:
                timeouts.append(float(_seconds(timeout)))
        if timeouts:
            self._set("PROXY_TIMEOUT_SECONDS", _number(max(timeouts)))
        names = dict.fromkeys(str(name) for name in headers)
        for name in [name for name in names if name.lower() == "cookie"]:
            del names[name]
            self._leave("http_headers: Cookie", "name the cookies that proxies get in STARLING_PROXY_COOKIES")
        if names:
            self._set("PROXY_HEADERS", ",".join(names))
        self._take("rpc.without_namespace.proxy_enabled")

    def _channels(self) -> None:
        meta_ttl = self._take("channel.history_meta_ttl")
        default = dict(self._default)
        for path in [path for path in self._options if path.startswith("channel.without_namespace.")]:
            default[path.removeprefix("channel.without_namespace.")] = self._take(path)
        self._result.channels["default"] = self._namespace("channel.without_namespace", default, meta_ttl)
        for index, namespace in enumerate(self._take("channel.namespaces") or ()):
            if not isinstance(namespace, Mapping) or not namespace.get("name"):
                raise CentrifugoError(f"namespaces[{index}]: it has no name")
            name = str(namespace["name"])
            options = {key: value for key, value in namespace.items() if key != "name"}
            self._result.channels["namespaces"][name] = self._namespace(f"namespaces.{name}", options, meta_ttl)

    def _namespace(self, path: str, options: Mapping[str, Any], meta_ttl: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in options.items():
            if value in (None, "", False, [], 0, "0s"):
                continue
            if name in CHANNEL_OPTIONS:
                found[name] = _channel_duration(value) if name in DURATION_OPTIONS else value
            elif name in ("allow_recovery", "allow_positioning"):
                self._leave(
                    f"{path}.{name}",
                    "set force_recovery, or allow_history_for_subscriber, with which clients may ask for recovery",
                )
            elif not any(name in (f"{kind}_proxy_name", f"{kind}_proxy_enabled", f"proxy_{kind}") for kind in _KINDS):
                self._leave(f"{path}.{name}")
        if meta_ttl and found.get("history_size"):
            found.setdefault("history_meta_ttl", _channel_duration(meta_ttl))
        for kind in CHANNEL_PROXIES:
            proxied = self._channel_proxy(path, kind, options)
            if proxied is not None:
                found[f"{kind}_proxy"] = proxied
        return found

    def _channel_proxy(self, path: str, kind: str, options: Mapping[str, Any]) -> bool | str | None:
        name = options.get(f"{kind}_proxy_name")
        if name and name != "default":
            endpoint = self._proxies.get(name, {}).get("endpoint")
            if not endpoint or not _is_http(endpoint):
                self._leave(f"{path}.{kind}_proxy_name", f"the proxy {name} has no HTTP endpoint")
                return None
            return str(endpoint)
        if not (options.get(f"proxy_{kind}") or options.get(f"{kind}_proxy_enabled") or name):
            return None
        if f"STARLING_PROXY_{kind.upper()}" not in self._result.settings:
            self._leave(f"{path}.{kind}_proxy", "its endpoint is missing, or is not HTTP")
            return None
        return True


_KINDS = (*CHANNEL_PROXIES, "subscribe_stream")


def _is_channel_option(name: str) -> bool:
    """Whether a name of the top level is an option of channels without a namespace, as version 5 has them."""
    return name in CHANNEL_OPTIONS or name in OTHER_CHANNEL_OPTIONS


def _flatten(document: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, where)
        else:
            yield where, value


def _is_http(address: object) -> bool:
    return isinstance(address, str) and urlsplit(address).scheme in {"http", "https"}


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _seconds(value: Any) -> str:
    """Seconds of a Go duration such as `1m30s`. Raises ValueError."""
    text = str(value)
    if not isinstance(value, str) or not re.fullmatch(rf"(?:{_DURATION.pattern})+", text):
        raise ValueError(f"{text} is not a duration such as 25s or 1m30s")
    return _number(sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text)))


def _channel_duration(value: Any) -> Any:
    """A duration as the channels file has it; what is none stays, so that the check of the file names it."""
    try:
        return f"{_seconds(value)}s"
    except ValueError:
        return value


def _redis_address(options: Mapping[str, Any]) -> str:
    """The value of STARLING_BROKER_URL for the options of `engine.redis`."""
    hosts, kind = _addresses(options.get("address")) or ["127.0.0.1:6379"], ""
    if options.get("cluster_address"):
        hosts, kind = _addresses(options["cluster_address"]), "+cluster"
    elif options.get("sentinel_address"):
        hosts, kind = _addresses(options["sentinel_address"]), "+sentinel"
    address = hosts[0] if len(hosts) == 1 and "://" in hosts[0] and not kind else ""
    if address:
        return address
    scheme = ("rediss" if options.get("tls.enabled") else "redis") + kind
    user, password = options.get("user") or "", options.get("password") or ""
    login = f"{quote(str(user), safe='')}:{quote(str(password), safe='')}@" if user or password else ""
    hosts = [host.partition("://")[2] or host for host in hosts]
    database = options.get("db") or 0
    if kind != "+sentinel":
        return f"{scheme}://{login}{','.join(hosts)}" + (f"/{database}" if database and not kind else "")
    query = [f"db={database}"] if database else []
    for name, option in (("sentinel_username", "sentinel_user"), ("sentinel_password", "sentinel_password")):
        if options.get(option):
            query.append(f"{name}={quote(str(options[option]), safe='')}")
    service = quote(str(options.get("sentinel_master_name") or "mymaster"), safe="")
    return f"{scheme}://{login}{','.join(hosts)}/{service}" + (f"?{'&'.join(query)}" if query else "")


def _addresses(value: Any) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [str(part) for part in value or ()]


def _text(value: Any) -> str:
    return str(value)


def _on(value: Any) -> str:
    return "true" if value is True or str(value).lower() in {"true", "1"} else "false"


def _list(value: Any) -> str:
    """Names separated by commas; version 5 separates them by spaces."""
    return ",".join(value.split() if isinstance(value, str) else [str(part) for part in value])


def _level(value: Any) -> str:
    levels = {"trace": "debug", "debug": "debug", "info": "info", "warn": "warning", "error": "error", "fatal": "error"}
    if str(value) not in levels:
        raise ValueError("the levels are debug, info, warning and error")
    return levels[str(value)]


SIMPLE: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "client.token.hmac_secret_key": ("TOKEN_HMAC_SECRET", _text),
    "client.token.jwks_public_endpoint": ("TOKEN_JWKS_URL", _text),
    "client.token.audience": ("TOKEN_AUDIENCE", _text),
    "client.token.issuer": ("TOKEN_ISSUER", _text),
    "client.allowed_origins": ("ALLOWED_ORIGINS", _list),
    "client.allow_anonymous_connect_without_token": ("ALLOW_ANONYMOUS", _on),
    "client.ping_interval": ("PING_SECONDS", _seconds),
    "client.pong_timeout": ("PONG_SECONDS", _seconds),
    "client.expired_close_delay": ("EXPIRY_GRACE_SECONDS", _seconds),
    "client.stale_close_delay": ("CONNECT_SECONDS", _seconds),
    "client.channel_limit": ("MAX_CHANNELS", _text),
    "client.queue_max_size": ("WRITE_BUFFER_BYTES", _text),
    "client.connection_limit": ("MAX_CONNECTIONS", _text),
    "client.user_connection_limit": ("WORKER_CONNECTIONS_PER_USER", _text),
    "client.connection_rate_limit": ("CONNECTS_PER_SECOND", _text),
    "client.subscribe_to_user_personal_channel.enabled": ("SUBSCRIBE_TO_PERSONAL_CHANNEL", _on),
    "client.subscribe_to_user_personal_channel.personal_channel_namespace": ("PERSONAL_CHANNEL_NAMESPACE", _text),
    "http_api.key": ("API_KEYS", _text),
    "http_server.address": ("HOST", _text),
    "http_server.port": ("PORT", _text),
    "http_server.internal_address": ("INTERNAL_HOST", _text),
    "http_server.internal_port": ("INTERNAL_PORT", _text),
    "websocket.compression": ("COMPRESSION", _on),
    "websocket.message_size_limit": ("MAX_MESSAGE_BYTES", _text),
    "shutdown.timeout": ("DRAIN_SECONDS", _seconds),
    "swagger.enabled": ("API_DOCS", _on),
    "opentelemetry.enabled": ("TRACING", _on),
    "log.level": ("LOG_LEVEL", _level),
}
