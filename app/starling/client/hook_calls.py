"""What a connection shows to hooks, and what their decisions make of its identity and its grants."""

from msgspec import Raw
from msgspec.structs import replace

from starling.client.authority import Grant, HookTerms, Identity, earlier
from starling.client.client_connection import ClientConnection
from starling.engine.engine import Engine
from starling.engine.hook_request import Request
from starling.engine.hooks import Client, ConnectDecision, Hooks, SubscribeDecision
from starling.protocol.codes import ERROR_INTERNAL, ERROR_PERMISSION_DENIED, CommandRefused
from starling.protocol.commands import ConnectRequest
from starling.protocol.messages import NO_PAYLOAD
from starling.protocol.tags_filter import TagsFilter


def shown_to_hooks(client: ClientConnection, chan_info: Raw = NO_PAYLOAD, *, has_token: bool = False) -> Client:
    """The client as hooks see it."""
    identity = client.identity
    return Client(
        identity.user, client.id, identity.info, chan_info, identity.meta, client.kind, has_token, client.request
    )


def keep_headers(client: ClientConnection, request: ConnectRequest, hooks: Hooks) -> None:
    """Keep what all hooks see of the request that the client's connection was opened with, and nothing else."""
    if client.request is None:
        return
    names, written = hooks.keeps_headers, hooks.keeps_client_headers
    client.request = client.request.reduced(names) if names or written else None
    if client.request is not None and written and request.headers:
        headers = {name.lower(): value for name, value in request.headers.items()}
        client.request.client_headers = {name: headers[name] for name in written if name in headers}


def hook_request(client: ClientConnection, request: ConnectRequest, hooks: Hooks) -> Request:
    """The request that the client's connection was opened with, with what its connect command adds; kept no longer."""
    opened = client.request or Request(address=client.address)
    keep_headers(client, request, hooks)
    opened.client_name, opened.client_version = request.name, request.version
    opened.client_headers = {name.lower(): value for name, value in request.headers.items()}
    return opened


def granted(grant: Grant, decision: SubscribeDecision | None) -> Grant:
    """What a client has in a channel after hooks were asked. Raises CommandRefused where nobody grants it.

    A decision widens no end and no filter that a token set.
    """
    if decision is None:
        if grant.needs_hook:
            raise CommandRefused(ERROR_PERMISSION_DENIED)
        return grant
    # Where a backend is asked at the end whether the subscription goes on, it moves the end itself.
    end = None if grant.options.sub_refresh_proxy else decision.expires_at
    return replace(
        grant,
        options=grant.options.overridden(decision.override),
        info=decision.info or grant.info,
        data=decision.data or grant.data,
        expires_at=earlier(grant.expires_at, decision.expires_at),
        filter=_narrowed(grant.filter, decision.filter),
        renewable=grant.renewable and decision.expires_at is None,
        needs_hook=False,
        hooked=None if end is None and not decision.info else HookTerms(bytes(grant.info), end=end),
    )


def completed(identity: Identity, decided: Identity, decision: ConnectDecision) -> Identity:
    """The identity of a token with what a hook adds to it. Raises CommandRefused for another user than the token's."""
    if decision.user not in ("", identity.user):
        raise CommandRefused(ERROR_INTERNAL)
    end = decision.expires_at
    says = decision.info or decision.meta or end is not None
    return replace(
        identity,
        info=decision.info or identity.info,
        meta=decision.meta or identity.meta,
        expires_at=earlier(identity.expires_at, end),
        hooked=HookTerms(bytes(identity.info), identity.meta, end) if says else None,
        subscriptions={
            **identity.subscriptions,
            **{
                channel: replace(grant, filter=_narrowed(identity.forced_filter(channel), grant.filter))
                for channel, grant in decided.subscriptions.items()
            },
        },
    )


def _narrowed(forced: TagsFilter | None, other: TagsFilter | None) -> TagsFilter | None:
    """What matches both filters; None matches all."""
    return other if forced is None else forced.narrowed(other)


def report_unsubscribed(engine: Engine, client: ClientConnection, channel: str) -> None:
    """Call the hook of a subscription's end, in a task of its own."""
    if engine.hooks.sees_unsubscribes:
        engine.tasks.start(engine.hooks.unsubscribed(shown_to_hooks(client), channel))


def report_disconnected(engine: Engine, client: ClientConnection, code: int, reason: str) -> None:
    """Call the hook of a connection's end, in a task of its own."""
    if engine.hooks.sees_disconnects:
        engine.tasks.start(engine.hooks.disconnected(shown_to_hooks(client), code, reason))
