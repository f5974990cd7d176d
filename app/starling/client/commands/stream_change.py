"""A client's `publish` in an append-only stream: a chunk that is added, or the stream's cancellation."""

import base64
import binascii
import time
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

from starling.client.client_connection import ClientConnection
from starling.client.commands.rights import require
from starling.client.hook_calls import shown_to_hooks
from starling.engine.allowances import Budgets, payer
from starling.engine.append_refusals import StreamRefused
from starling.engine.append_store import AppendOutcome, Chunk, StreamKind
from starling.engine.append_streams import AppendStreams
from starling.engine.channels import ChannelOptions, Channels
from starling.engine.hooks import Hooks
from starling.engine.rights import Verb
from starling.engine.stream_chunks import ChunkInvalid, bytes_chunk, json_chunk, text_chunk
from starling.protocol.codes import ERROR_BAD_REQUEST, ERROR_TOO_MANY_REQUESTS, CommandRefused, Error
from starling.protocol.decisions import Decision, Publish
from starling.protocol.messages import NO_PAYLOAD, PublishResult

REASON_LENGTH = 1024


class _Sent(Struct, forbid_unknown_fields=True):
    """What clients send: one of these. `cancel` is true, or the reason."""

    text: str | None = None
    json: list[Raw] | None = None
    bytes: str | None = None
    cancel: bool | str | None = None


class StreamPermit(NamedTuple):
    """What a client may do: cancel for a reason, or add a chunk; and the options of the channel."""

    options: ChannelOptions
    cancel: str | None
    kind: StreamKind
    chunk: Chunk | None


_decode = msgspec.json.Decoder(_Sent).decode


class StreamChanges:
    """Appends and cancels for clients."""

    def __init__(self, channels: Channels, hooks: Hooks, streams: AppendStreams, first_uses: Budgets) -> None:
        """`first_uses` are paid for streams that a client opens by its append."""
        self._channels = channels
        self._hooks = hooks
        self._streams = streams
        self._first_uses = first_uses

    def prepare(self, client: ClientConnection, action: Publish, options: ChannelOptions) -> StreamPermit:
        """The right to do what the client asks. Raises CommandRefused."""
        permit = read_change(action.request.data, options)
        verb = Verb.APPEND if permit.cancel is None else Verb.CANCEL
        require(client, verb, action, options, self._channels)
        return permit

    async def run(self, client: ClientConnection, action: Publish, permit: StreamPermit) -> list[Decision]:
        """Do it, once the hooks agree. Raises CommandRefused and BrokerUnavailable."""
        shown = shown_to_hooks(client, action.subscription.chan_info if action.subscription else NO_PAYLOAD)
        try:
            if permit.cancel is not None:
                await self._hooks.cancel(shown, action.channel, permit.cancel)
                await self._streams.cancel(action.channel, permit.options, permit.cancel)
            else:
                if self._hooks.sees_publications:
                    data = await self._hooks.publish(shown, action.channel, action.request.data)
                    permit = read_change(data, permit.options)
                await self._append(client, action.channel, permit)
        except CommandRefused as refused:
            reason = refused.reason
            if isinstance(reason, StreamRefused):
                # Of the rest a client of the protocol can read nothing.
                raise CommandRefused(Error(reason.code, reason.message)) from refused
            raise
        return client.session.answered(action, PublishResult(), time.monotonic())

    async def _append(self, client: ClientConnection, channel: str, permit: StreamPermit) -> None:
        options, kind, chunk = permit.options, permit.kind, permit.chunk
        try:
            await self._streams.append(channel, options, chunk, kind, watched=False)
        except CommandRefused as refused:
            problem = refused.reason.stream if isinstance(refused.reason, StreamRefused) else None
            if problem is None or problem.reason is not AppendOutcome.NO_STREAM:
                raise
        else:
            return
        if self._first_uses.exhausted(payer(client)):
            raise CommandRefused(ERROR_TOO_MANY_REQUESTS)
        self._first_uses.spend(payer(client))
        await self._streams.open(channel, options, kind, watched=False)
        await self._streams.append(channel, options, chunk, kind, watched=False)


def read_change(data: Raw, options: ChannelOptions) -> StreamPermit:
    """What a client asks with the data of a publication. Raises CommandRefused."""
    try:
        sent = _decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise _bad_request("data: it must be one of text, json (an array), bytes (base64) and cancel") from None
    given = [name for name in _Sent.__struct_fields__ if getattr(sent, name) is not None]
    if len(given) != 1 or sent.cancel is False:
        raise _bad_request("data: give one of text, json (an array), bytes (base64) and cancel")
    if sent.cancel is not None:
        reason = "" if isinstance(sent.cancel, bool) else sent.cancel
        if len(reason) > REASON_LENGTH:
            raise _bad_request(f"data.cancel: at most {REASON_LENGTH} characters")
        return StreamPermit(options, reason, StreamKind.TEXT, None)
    kind = StreamKind(given[0])
    if options.stream not in ("any", kind.value):
        raise _bad_request(f"data: the stream holds {options.stream}")
    try:
        chunk = _chunk(sent)
    except (ChunkInvalid, binascii.Error) as invalid:
        raise _bad_request(f"data.{given[0]}: {invalid}") from invalid
    return StreamPermit(options, None, kind, chunk if chunk.units else None)


def _chunk(sent: _Sent) -> Chunk:
    if sent.text is not None:
        return text_chunk(sent.text)
    if sent.json is not None:
        return json_chunk([bytes(item) for item in sent.json])
    return bytes_chunk(base64.b64decode(sent.bytes or "", validate=True))


def _bad_request(remedy: str) -> CommandRefused:
    return CommandRefused(Error(ERROR_BAD_REQUEST.code, f"bad request: {remedy}"))
