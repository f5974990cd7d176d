"""Who may read and write append-only streams over HTTP: a key of the server API, or a client's token or ticket."""

from collections.abc import Callable
from http import HTTPStatus

from msgspec import Raw
from starlette.types import Scope

from starling.client.authority import Identity, guesses
from starling.client.commands.stream_change import read_change
from starling.client.dispatcher import UNAUTHENTICATED
from starling.client.hook_calls import granted
from starling.engine.append_store import Chunk, StreamKind
from starling.engine.channels import ChannelOptions
from starling.engine.hooks import Client
from starling.engine.rights import Subject, Verb, may
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error
from starling.protocol.commands import ConnectRequest, SubscribeRequest
from starling.protocol.messages import NO_PAYLOAD
from starling.web.cross_origin import request_of
from starling.web.dependencies import WebContext
from starling.web.durable_reading import StreamRequest
from starling.web.durable_request import Reader, RequestRefused

KeyCheck = Callable[[Scope], bool]


class StreamAccess:
    """Decides for one request; a key does everything, a client what its rights say. Only a key deletes."""

    def __init__(self, context: WebContext, has_key: KeyCheck) -> None:
        self._context = context
        self._has_key = has_key

    async def check(self, scope: Scope, channel: str, options: ChannelOptions, method: str) -> Reader | None:
        """Raise RequestRefused or CommandRefused where the request is not permitted; return whose it is.

        That is None for a key, which has no limits.
        """
        if self._has_key(scope):
            return None
        context, request = self._context, request_of(scope)
        if context.is_foreign(request):
            raise RequestRefused(HTTPStatus.FORBIDDEN, "this origin may not connect: see STARLING_ALLOWED_ORIGINS")
        if context.failed_too_often(request):
            raise RequestRefused(HTTPStatus.TOO_MANY_REQUESTS, "this address has failed too often")
        handshake = context.handshake(request, cookie=context.takes_cookie(request))
        clients = context.engine.admission.clients
        try:
            identity = await context.authority.identify(ConnectRequest(), handshake)
        except CommandRefused as refused:
            if refused.reason.code in UNAUTHENTICATED:
                clients.failed_connects.spend(request.address)
            raise
        if guesses(handshake, identity):
            clients.failed_connects.spend(request.address)
        client = Client(identity.user, "", identity.info, NO_PAYLOAD, identity.meta, "http")
        if method in ("GET", "HEAD"):
            await self._check_read(identity, client, channel)
            return Reader(client, request.address, identity.token)
        facts = context.engine.channels.facts(channel, options)
        if method == "DELETE" or not may(Subject(identity.user), Verb.APPEND, facts).allowed:
            raise CommandRefused(codes.ERROR_PERMISSION_DENIED)
        return Reader(client, request.address, identity.token)

    async def appended(self, request: StreamRequest, kind: StreamKind, chunk: Chunk | None) -> Chunk | None:
        """What is appended in the place of a client's `chunk`, as the hook of publications decides.

        Raises CommandRefused.
        """
        hooks = self._context.engine.hooks
        if request.reader is None or chunk is None or not hooks.sees_publications:
            return chunk
        sent = Raw(chunk.data)
        decided = await hooks.publish(request.reader.client, request.channel, sent)
        if decided is sent:
            return chunk
        change = read_change(decided, request.options)
        if change.cancel is not None or change.kind is not kind:
            raise CommandRefused(Error(codes.ERROR_BAD_REQUEST.code, f"bad request: the hook returns no {kind}"))
        return change.chunk

    async def _check_read(self, identity: Identity, client: Client, channel: str) -> None:
        """As a subscription: by the token's channels, the rights, and the hooks that may refuse what these allow."""
        context = self._context
        grant = identity.subscriptions.get(channel)
        if grant is None:
            grant = await context.authority.grant(identity, SubscribeRequest(channel))
        hooks = context.engine.hooks
        if hooks.sees_subscriptions or grant.needs_hook or grant.options.subscribe_proxy:
            grant = granted(grant, await hooks.subscribe(client, channel, NO_PAYLOAD))
        if grant.filter is not None:
            raise CommandRefused(codes.ERROR_PERMISSION_DENIED)
