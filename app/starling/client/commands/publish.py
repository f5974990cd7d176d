"""`publish`: a client's publication in a channel."""

import time
from typing import NamedTuple

from starling.client.client_connection import ClientConnection
from starling.client.commands.base import CommandHandler, Later, Work
from starling.client.commands.rights import channel_options, require
from starling.client.commands.stream_change import StreamChanges, StreamPermit
from starling.client.hook_calls import shown_to_hooks
from starling.engine.allowances import Budgets, payer
from starling.engine.append_streams import AppendStreams
from starling.engine.broker import PublishOptions, PublishOutcome, StreamPosition
from starling.engine.channels import ChannelOptions, Channels
from starling.engine.hooks import Hooks
from starling.engine.publisher import Publisher, check_publication
from starling.engine.rights import Verb
from starling.protocol.codes import ERROR_TOO_MANY_REQUESTS, CommandRefused
from starling.protocol.decisions import Decision, Publish
from starling.protocol.messages import NO_PAYLOAD, ClientInfo, Publication, PublishResult


class _Permit(NamedTuple):
    """The channel's options, how the publication is kept, and who it is from."""

    channel: ChannelOptions
    options: PublishOptions
    info: ClientInfo


class PublishHandler(CommandHandler[Publish, _Permit | StreamPermit]):
    """Publishes; the answer means that the broker has stored it."""

    action = Publish
    method = "publish"
    traced = True

    def __init__(
        self, channels: Channels, hooks: Hooks, publisher: Publisher, streams: AppendStreams, first_uses: Budgets
    ) -> None:
        """`first_uses` are paid for the first publication in a channel that keeps history."""
        self._streams = StreamChanges(channels, hooks, streams, first_uses)
        self._first_uses = first_uses
        self._channels = channels
        self._hooks = hooks
        self._publisher = publisher

    def prepare(self, client: ClientConnection, action: Publish) -> _Permit | StreamPermit:
        """The right to publish in the channel, of the data that it takes."""
        options = channel_options(client, action, self._channels)
        if options.stream is not None:
            return self._streams.prepare(client, action, options)
        require(client, Verb.PUBLISH, action, options, self._channels)
        if options.keeps_history and action.subscription is None and self._first_uses.exhausted(payer(client)):
            raise CommandRefused(ERROR_TOO_MANY_REQUESTS)
        chan_info = action.subscription.chan_info if action.subscription else NO_PAYLOAD
        check_publication(bytes(action.request.data), options)
        return _Permit(options, options.publish_options(), client.info(chan_info))

    def try_now(
        self, client: ClientConnection, action: Publish, prepared: _Permit | StreamPermit, later: Later
    ) -> list[Work] | None:
        """Publish without a task where no hook has a say."""
        if self._hooks.sees_publications or isinstance(prepared, StreamPermit):
            return None

        def done(outcome: PublishOutcome) -> None:
            later(self._answer(client, action, outcome) if isinstance(outcome, StreamPosition) else outcome)

        publication = Publication(data=action.request.data, info=prepared.info)
        outcome = self._publisher.begin(action.channel, publication, prepared.options, done)
        if outcome is None:
            return []
        if isinstance(outcome, StreamPosition):
            return [*self._answer(client, action, outcome)]
        raise outcome

    async def run(self, client: ClientConnection, action: Publish, prepared: _Permit | StreamPermit) -> list[Decision]:
        """Publish what the hook makes of it."""
        if isinstance(prepared, StreamPermit):
            return await self._streams.run(client, action, prepared)
        shown = shown_to_hooks(client, prepared.info.chan_info)
        data = await self._hooks.publish(shown, action.channel, action.request.data)
        if data is not action.request.data:
            check_publication(bytes(data), prepared.channel)
        publication = Publication(data=data, info=prepared.info)
        position = await self._publisher.publish(action.channel, publication, prepared.options)
        return self._answer(client, action, position)

    def _answer(self, client: ClientConnection, action: Publish, position: StreamPosition) -> list[Decision]:
        if position.offset == 1:
            self._first_uses.spend(payer(client))
        return client.session.answered(action, PublishResult(), time.monotonic())
