"""Readers of `/sse`: the publications of the channels of a URL as server-sent events, by whose ids a reader resumes."""

import asyncio
import random
from collections.abc import Mapping, Sequence

import msgspec

from starling.client.authority import Grant, Handshake, Identity
from starling.client.client_connection import Executor
from starling.client.event_frames import (
    RESET,
    EventEncoder,
    EventIds,
    EventStreams,
    IdentifyingTransport,
    publication_fields,
    push_event,
)
from starling.client.one_way import StreamedConnection
from starling.client.pending_transport import Answer
from starling.client.recovery import recoverable
from starling.client.views import tags_filter
from starling.engine.broker import StreamPosition
from starling.engine.transport import Transport
from starling.protocol import codes
from starling.protocol.codec_json import JSON
from starling.protocol.codes import CommandRefused, Error
from starling.protocol.commands import ConnectRequest, HistoryRequest, SubscribeRequest
from starling.protocol.decisions import Decision
from starling.protocol.event_stream import KEEP_ALIVE, event, identify, opening
from starling.protocol.messages import ConnectResult, HistoryResult, Push, Reply, StreamFrame, SubscribeResult
from starling.protocol.messages import StreamPosition as RequestedPosition
from starling.protocol.resume_id import CHANNEL_BYTES, ID_BYTES, ResumeId
from starling.protocol.session_core import SessionState

# How long readers wait before they reconnect: not all of one worker at once. Milliseconds.
RETRY_FROM, RETRY_TO = 1000, 3000
# The epoch of no stream: a reader with a position in it cannot go on.
NO_EPOCH = "-"


class EventStreamConnection(StreamedConnection):
    """A reader of the channels of its URL.

    Readers of one channel share the frames of its publications, ids included. Those of several channels, and those
    whose ids carry the right to resume a ticket's session, have ids of their own.
    """

    __slots__ = ("_begun", "_channels", "_identifying", "_ids", "_page_seconds", "_streams", "encoder", "from_start")

    kind = "event_stream"
    own_channels_only = True
    encoder: EventEncoder

    def __init__(
        self,
        executor: Executor,
        handshake: Handshake,
        answer: Answer,
        streams: EventStreams,
        channels: Sequence[str],
        resume: ResumeId,
        *,
        token: str = "",
        names_channels: bool = False,
    ) -> None:
        """`resume` is where the reader stopped. `names_channels`: events have their channel for a type, by default."""
        super().__init__(executor, handshake, _connect_request(channels, token, resume), answer)
        self._channels = channels
        self._streams = streams
        self.from_start = resume.from_start
        self._ids = EventIds(channels, names_channels=names_channels)
        for index, position in resume.positions.items():
            self._ids.move(channels[index], position.epoch, position.offset)
        self._identifying = len(channels) > 1 or names_channels
        self._begun = False
        # How long a reader may take for one page: as long as for the answer to a ping.
        self._page_seconds = executor.limits.ping_seconds + executor.limits.pong_seconds
        self.encoder = streams.partial if self._identifying else streams.live_only

    def wrap(self, transport: Transport) -> Transport:
        """What writes to the reader, with ids of its own where it has such."""
        return IdentifyingTransport(transport, self._ids) if self._identifying else transport

    # What the connect command leads to

    def adopt(self, identity: Identity) -> None:
        """Become `identity`; where it came by a ticket, every id carries the right to resume its session."""
        super().adopt(identity)
        self._ids.right = identity.resume
        if identity.resume:
            self._identifying, self.encoder = True, self._streams.partial

    def carry_out(self, decisions: list[Decision]) -> None:
        """End the stream too, once every subscription has ended: nothing would ever come in it again."""
        super().carry_out(decisions)
        if self.session.state is SessionState.CONNECTED and not self.session.subscriptions:
            self.send_disconnect(codes.DISCONNECT_FORCE_NO_RECONNECT)

    def check_grants(self, grants: Mapping[str, Grant]) -> None:
        """Raise CommandRefused where an id could not hold the positions in all channels that keep history."""
        keeping, most = sum(self._keeps(channel, grant) for channel, grant in grants.items()), self._streams.most
        if len(grants) > 1 and keeping > most:
            raise _bad_request(
                f"{keeping} of these channels can be resumed, and one stream resumes {most} at most: open several "
                "streams, or see STARLING_SSE_RECOVERABLE_CHANNELS"
            )
        if len(self._ids.right) + keeping * CHANNEL_BYTES > ID_BYTES:
            raise _bad_request(
                f"with the right to resume the session of this ticket, ids would have over {ID_BYTES} bytes: give the "
                "ticket fewer channels or less info, or use a token"
            )

    def _keeps(self, channel: str, grant: Grant) -> bool:
        return recoverable(SubscribeRequest(channel, recoverable=True), grant, user=self.user)

    def begin_channel(self, request: SubscribeRequest, grant: Grant) -> bool:
        """Ask for positions where the channel keeps any; True where the reader may have missed something in it."""
        if not self._keeps(request.channel, grant):
            # It has nothing to resume, whatever the reader brought.
            request.recover = request.recover and request.epoch != NO_EPOCH
            return False
        request.recoverable = request.positioned = True
        if not self._identifying:
            self.encoder = self._streams.resumable
        if grant.options.stream or grant.options.force_recovery_mode == "cache":
            return False
        return request.recover or self.from_start

    async def send_missed(self, request: SubscribeRequest, grant: Grant) -> None:
        """Send what the reader has missed in a channel, page by page; `request` then asks for what follows.

        What this process has in memory comes with the answer of the channel, and so does a history that has a gap.
        """
        since = StreamPosition(request.offset, request.epoch) if request.recover else None
        while since is None or not self._recalls(request.channel, since):
            try:
                async with asyncio.timeout(self._page_seconds):
                    page = await self._send_page(request, grant, since)
            except TimeoutError:
                # It has not taken the page before, and keeps everything that is held for it from being sent.
                self.send_disconnect(codes.DISCONNECT_SLOW)
                raise CommandRefused(codes.DISCONNECT_SLOW) from None
            if page is None:
                return
            last = page.publications[-1].offset if page.publications else page.offset
            since = StreamPosition(last, page.epoch)
            request.recover, request.offset, request.epoch = True, since.offset, since.epoch
            if last >= page.offset:
                return

    def _recalls(self, channel: str, since: StreamPosition) -> bool:
        """Whether the answer of a channel brings what followed `since`, without a read."""
        return self._streams.answers_fit and self.engine.subscriptions.recalls(channel, since)

    async def _send_page(
        self, request: SubscribeRequest, grant: Grant, since: StreamPosition | None
    ) -> HistoryResult | None:
        """Send publications that follow `since`, the oldest first; None where they cannot be had."""
        wanted, limit = tags_filter(request, grant), self.engine.options.recovery_limit
        position = None if since is None else RequestedPosition(since.offset, since.epoch)
        asked = HistoryRequest(request.channel, limit, position)
        async with self.gates.reading:
            try:
                page = await self.engine.history.read(
                    request.channel,
                    grant.options,
                    asked,
                    limit,
                    self._streams.page_bytes,
                    matches=None if wanted is None else wanted.matches,
                )
            except CommandRefused:
                return None
            parts = [self._opening_block()] if page.publications else []
            for publication in page.publications:
                try:
                    fields = publication_fields(publication)
                except CommandRefused:
                    self.engine.hub.unreadable.note(connection_id=self.id)
                    continue
                parts.append(self._ids.event(fields, request.channel, page.epoch, publication.offset))
            if parts:
                self._write_page(b"".join(parts))
        return page

    def _write_page(self, payload: bytes) -> None:
        """Write before the answer to the connect command, for which everything else waits."""
        self._pending.accept()
        self.stats.messages_out += 1
        self.stats.bytes_out += len(payload)
        self.sent += 1
        self._pending.send_frame(StreamFrame(payload))

    def _opening_block(self) -> bytes:
        """What the response begins with; nothing, if it has begun."""
        if self._begun:
            return b""
        self._begun = True
        return opening(random.randint(RETRY_FROM, RETRY_TO), self._ids.text)  # noqa: S311 - spreads reconnects

    # What the reader gets

    def encode_connect(self, result: ConnectResult) -> bytes:
        """The ids of the channels, the channels that cannot go on, and what was missed in the others."""
        self.accept()
        JSON.leave_out_unreadable(Reply(connect=result))
        known = self._ids.text
        lost: dict[str, SubscribeResult] = {}
        for channel in self._channels:
            entered = result.subs[channel]
            if entered.was_recovering and not entered.recovered:
                lost[channel] = entered
                self._ids.forget(channel)
            elif entered.recoverable and not entered.was_recovering:
                self._ids.move(channel, entered.epoch, entered.offset)
        parts = [self._opening_block()]
        for channel, entered in lost.items():
            if entered.recoverable:
                self._ids.move(channel, entered.epoch, entered.offset)
            parts.append(event(msgspec.json.encode({"channel": channel}), name=RESET, event_id=self._ids.text))
        for channel in self._channels:
            entered = result.subs[channel]
            epoch = entered.epoch if entered.recoverable else ""
            parts += [
                self._ids.event(publication_fields(publication), channel, epoch, publication.offset)
                for publication in entered.publications
            ]
        if not any(parts) and self._ids.text != known:
            parts.append(identify(self._ids.text))
        return b"".join(parts)

    def encode_push(self, push: Push) -> bytes:
        """The event of a push."""
        if push.pub is None:
            return push_event(push)
        epoch = self.engine.subscriptions.epoch_of(push.channel)
        return self._ids.event(publication_fields(push.pub), push.channel, epoch, push.pub.offset)

    def keep_alive(self) -> bytes:
        """A comment."""
        return KEEP_ALIVE


def _connect_request(channels: Sequence[str], token: str, resume: ResumeId) -> ConnectRequest:
    subs = {}
    for index, channel in enumerate(channels):
        subs[channel] = SubscribeRequest(channel)
        if (position := resume.positions.get(index)) is not None:
            subs[channel].recover = True
            subs[channel].epoch, subs[channel].offset = position.epoch, position.offset
    return ConnectRequest(token=token, subs=subs)


def _bad_request(detail: str) -> CommandRefused:
    reason = codes.ERROR_BAD_REQUEST
    return CommandRefused(Error(reason.code, f"{reason.message}: {detail}"))
