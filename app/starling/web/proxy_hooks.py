"""Hooks whose decisions a backend takes over HTTP, event by event; what has no proxy is left to the hooks module."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import msgspec
import structlog
from msgspec import Raw

from starling.engine.channels import Channels
from starling.engine.hook_request import Request
from starling.engine.hooks import (
    Client,
    ConnectDecision,
    Hooks,
    RefreshDecision,
    SubscribeDecision,
)
from starling.engine.proxied import Proxied
from starling.protocol.codes import ERROR_INTERNAL, CommandRefused
from starling.protocol.messages import NO_PAYLOAD
from starling.telemetry.metrics import Metrics
from starling.web.options import ProxyOptions
from starling.web.proxy_backend import BackendAway, ProxyBackend
from starling.web.proxy_cache import ProxyCache
from starling.web.proxy_messages import (
    BadReply,
    CallVerdict,
    ConnectVerdict,
    ProxyRequest,
    PublishVerdict,
    RefreshVerdict,
    ReplyDecoder,
    SubscribeVerdict,
    payload,
    put_data,
    transport_and_protocol,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.proxies")

Result = TypeVar("Result")

_DECODERS: Mapping[type, ReplyDecoder[object]] = {
    kind: ReplyDecoder(kind) for kind in (ConnectVerdict, RefreshVerdict, SubscribeVerdict, PublishVerdict, CallVerdict)
}
_COOKIE = "cookie"
# RFC 9110 section 5.5; what else a client writes could begin another field.
_FIELD_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")


class ProxyHooks:
    """Implements starling.engine.hooks.Hooks."""

    def __init__(self, options: ProxyOptions, inner: Hooks, channels: Channels, metrics: Metrics) -> None:
        """`inner` decides where there is no proxy."""
        self._options = options
        self._urls = options.proxy_urls
        self._inner = inner
        self._channels = channels
        self._metrics = metrics
        self._backends: dict[str, ProxyBackend] = {}
        self._granted: ProxyCache[SubscribeDecision] = ProxyCache()
        self.keeps_client_headers = frozenset(options.proxy_client_headers)
        self.keeps_headers = frozenset(options.proxy_headers) | ({_COOKIE} if options.proxy_cookies else frozenset())
        metrics.sources.append(self._report)

    # The inner hooks may be registered after this object was made.

    @property
    def sees_clients(self) -> bool:
        """As the inner hooks: no proxy is asked about clients with a token."""
        return self._inner.sees_clients

    @property
    def authenticates(self) -> bool:
        """Whether `connect` is called for clients without a token."""
        return "connect" in self._urls or self._inner.authenticates

    @property
    def sees_unsubscribes(self) -> bool:
        """As the inner hooks."""
        return self._inner.sees_unsubscribes

    @property
    def sees_disconnects(self) -> bool:
        """As the inner hooks."""
        return self._inner.sees_disconnects

    @property
    def sees_subscriptions(self) -> bool:
        """As the inner hooks: the namespaces with a proxy ask for their decision themselves."""
        return self._inner.sees_subscriptions

    @property
    def sees_publications(self) -> bool:
        """Whether publications of any namespace are proxied."""
        return self._inner.sees_publications or self._channels.publish_proxied

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the inner hooks; afterwards close the connections to backends."""
        async with self._inner.running():
            try:
                yield
            finally:
                for backend in self._backends.values():
                    await backend.close()

    async def connect(self, client: Client, request: Request, data: Raw) -> ConnectDecision:
        """Ask the connect proxy about a client without a token."""
        if client.has_token or "connect" not in self._urls:
            return await self._inner.connect(client, request, data)
        body = self._request(client, data)
        body.user = msgspec.UNSET
        body.name, body.version = request.client_name, request.client_version
        answer = await self._ask("connect", self._urls["connect"], ConnectVerdict, body, request)
        with _read("connect", self._metrics):
            return ConnectDecision(
                data=answer.payload(),
                user=answer.user,
                info=answer.shown(),
                meta=bytes(payload(answer.meta)),
                expires_at=answer.end,
                channels={
                    **{channel: SubscribeDecision() for channel in answer.channels},
                    **{channel: _subscribe_decision(terms) for channel, terms in answer.subs.items()},
                },
                renewable="refresh" in self._urls,
            )

    async def refresh(self, client: Client) -> RefreshDecision | None:
        """Ask the refresh proxy."""
        if "refresh" not in self._urls:
            return await self._inner.refresh(client)
        answer = await self._ask(
            "refresh", self._urls["refresh"], RefreshVerdict, self._request(client), client.request
        )
        with _read("refresh", self._metrics):
            return _refresh_decision(answer)

    async def subscribe(self, client: Client, channel: str, data: Raw) -> SubscribeDecision | None:
        """Ask the subscribe proxy of the channel's namespace, but about no client with a subscription token.

        An answer may be one that was kept: of a user, and where the client sent no data.
        """
        options = self._channels.options(channel)
        if not options.subscribe_proxy or client.has_token:
            return await self._inner.subscribe(client, channel, data)

        async def ask() -> SubscribeDecision:
            body = self._request(client, data, channel)
            answer = await self._ask("subscribe", options.subscribe_proxy, SubscribeVerdict, body, client.request)
            with _read("subscribe", self._metrics):
                return _subscribe_decision(answer)

        seconds = options.subscribe_proxy_cache
        if not (seconds and client.user) or data:
            return await ask()
        decision, kept = await self._granted.get((client.user, channel), seconds, ask)
        if kept:
            self._metrics.proxy_requests["subscribe", "cached"] += 1
        return decision

    async def sub_refresh(self, client: Client, channel: str) -> RefreshDecision | None:
        """Ask the sub_refresh proxy of the channel's namespace."""
        options = self._channels.options(channel)
        if not options.sub_refresh_proxy:
            return await self._inner.sub_refresh(client, channel)
        body = self._request(client, channel=channel)
        answer = await self._ask("sub_refresh", options.sub_refresh_proxy, RefreshVerdict, body, client.request)
        with _read("sub_refresh", self._metrics):
            return _refresh_decision(answer)

    async def publish(self, client: Client, channel: str, data: Raw) -> Raw:
        """Ask the publish proxy of the channel's namespace; without data in its answer the client's is published."""
        options = self._channels.options(channel)
        if not options.publish_proxy:
            return await self._inner.publish(client, channel, data)
        body = self._request(client, data, channel)
        answer = await self._ask("publish", options.publish_proxy, PublishVerdict, body, client.request)
        with _read("publish", self._metrics):
            return answer.payload() or data

    async def call(self, client: Client, method: str, data: Raw) -> Raw:
        """Ask the rpc proxy of the method's namespace (`NAMESPACE:METHOD`), or that of all methods."""
        where = self._answers(method)
        if not where:
            return await self._inner.call(client, method, data)
        body = self._request(client, data)
        body.method = method
        answer = await self._ask("rpc", where, CallVerdict, body, client.request)
        with _read("rpc", self._metrics):
            return answer.payload()

    async def message(self, client: Client, data: Raw) -> None:
        """Give it to the inner hooks: no proxy takes messages."""
        await self._inner.message(client, data)

    async def cancel(self, client: Client, channel: str, reason: str) -> None:
        """Give it to the inner hooks: no proxy is asked."""
        await self._inner.cancel(client, channel, reason)

    async def unsubscribed(self, client: Client, channel: str) -> None:
        """Give it to the inner hooks."""
        await self._inner.unsubscribed(client, channel)

    async def disconnected(self, client: Client, code: int, reason: str) -> None:
        """Give it to the inner hooks."""
        await self._inner.disconnected(client, code, reason)

    def _answers(self, method: str) -> Proxied:
        name, separator, _ = method.partition(":")
        options = self._channels.namespaces.get(name) if separator else None
        return (options or self._channels.default).rpc_proxy or "rpc" in self._urls

    # Requests

    def _request(self, client: Client, data: Raw = NO_PAYLOAD, channel: str = "") -> ProxyRequest:
        transport, protocol = transport_and_protocol(client.transport)
        body = ProxyRequest(
            client=client.client,
            transport=transport,
            protocol=protocol,
            encoding="json",
            user=client.user,
            channel=channel or msgspec.UNSET,
            meta=Raw(client.meta) if client.meta else msgspec.UNSET,
        )
        put_data(body, data)
        return body

    async def _ask(
        self, event: str, where: Proxied, kind: type[Result], body: ProxyRequest, request: Request | None
    ) -> Result:
        """The result in a backend's reply. Raises CommandRefused: a temporary error where there is no decision."""
        url = where if isinstance(where, str) else self._urls[event]
        if (backend := self._backends.get(url)) is None:
            backend = self._backends[url] = ProxyBackend(
                url, self._metrics, timeout=self._options.proxy_timeout_seconds
            )
        try:
            reply = await backend.ask(event, msgspec.json.encode(body), self._forwarded(request))
        except BackendAway as away:
            raise CommandRefused(ERROR_INTERNAL) from away
        with _read(event, self._metrics):
            try:
                result = _DECODERS[kind].decode(reply)
            except CommandRefused:
                self._metrics.proxy_requests[event, "refused"] += 1
                raise
        self._metrics.proxy_requests[event, "answered"] += 1
        return result  # type: ignore[return-value] # the decoder is of this kind

    def _forwarded(self, request: Request | None) -> dict[str, str]:
        if request is None:
            return {}
        written = request.client_headers
        headers = {
            name: written[name]
            for name in self._options.proxy_client_headers
            if name in written and _FIELD_VALUE.fullmatch(written[name])
        }
        headers |= {name: request.headers[name] for name in self._options.proxy_headers if name in request.headers}
        if self._options.proxy_cookies:
            cookies = request.cookies
            pairs = [f"{name}={cookies[name]}" for name in self._options.proxy_cookies if name in cookies]
            if pairs:
                headers[_COOKIE] = "; ".join(pairs)
        return headers

    def _report(self, metrics: Metrics) -> None:
        metrics.set("starling_proxy_backends_away", sum(backend.away for backend in self._backends.values()))


@contextmanager
def _read(event: str, metrics: Metrics) -> Iterator[None]:
    """Count and log a reply that cannot be read; the client gets a temporary error."""
    try:
        yield
    except BadReply as bad:
        metrics.proxy_requests[event, "bad_reply"] += 1
        remedy = 'answer with {"result": {…}}, {"error": {"code": …, "message": …}} or {"disconnect": {…}}'
        log.error("proxy_reply_bad", proxy=event, reason=str(bad), remedy=remedy)  # noqa: TRY400 - the reply is at fault
        raise CommandRefused(ERROR_INTERNAL) from bad


def _subscribe_decision(answer: SubscribeVerdict) -> SubscribeDecision:
    return SubscribeDecision(
        info=answer.shown(),
        data=answer.payload(),
        expires_at=answer.end,
        filter=answer.filter(),
        override=answer.overridden(),
    )


def _refresh_decision(answer: RefreshVerdict) -> RefreshDecision:
    return RefreshDecision(answer.end, answer.shown() or None, answer.expired)
