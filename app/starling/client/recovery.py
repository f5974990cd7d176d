"""Recovery on entering a channel: whether it is possible, where it starts, and its part of the subscribe result."""

from starling.client.authority import Grant
from starling.engine.broker import StreamPosition
from starling.engine.channels import ChannelFacts
from starling.engine.engine import Engine
from starling.engine.follower import Joined
from starling.engine.rights import Subject, Verb, may
from starling.protocol.commands import SubscribeRequest
from starling.protocol.messages import FLAG_REJECT_UNRECOVERED, NO_PAYLOAD, SubscribeResult

# Where a client stands in a channel without history.
NO_HISTORY = Joined(StreamPosition(0, ""), [], recovered=False)


def joined_now(engine: Engine, channel: str, grant: Grant) -> Joined | None:
    """Where a client that recovers nothing stands at once in a channel of this process; None where it must join it."""
    if not grant.options.keeps_history:
        return NO_HISTORY if engine.subscriptions.is_live(channel) else None
    position = engine.subscriptions.position_now(channel)
    return None if position is None else Joined(position, [], recovered=False)


def recovers_from(request: SubscribeRequest, grant: Grant, *, user: str) -> StreamPosition | None:
    """The position since which the client gets what it missed; None where it asks for none, or may not."""
    if not (request.recover and recoverable(request, grant, user=user)):
        return None
    return StreamPosition(request.offset, request.epoch)


def may_bring_much(since: StreamPosition | None, grant: Grant) -> bool:
    """Whether a client may get much when it enters a channel: what it missed, or a whole append-only stream."""
    return since is not None or grant.options.stream is not None


def subscribe_result(request: SubscribeRequest, grant: Grant, joined: Joined, *, user: str) -> SubscribeResult:
    """The result for a client that has `joined` a channel; the session adds the subscription's end."""
    options = grant.options
    result = SubscribeResult(data=grant.data or NO_PAYLOAD)
    result.recoverable = recoverable(request, grant, user=user)
    asked = request.positioned or options.force_positioning
    result.positioned = options.keeps_history and (result.recoverable or asked)
    if result.positioned:
        result.epoch, result.offset = joined.position.epoch, joined.position.offset
    # A client that asked must learn that it got nothing, also where there is no recovery at all.
    result.was_recovering = request.recover
    if options.stream is not None:
        # Every subscriber gets the whole stream, from its position if it has one.
        result.recovered, result.publications = joined.recovered, joined.publications
        result.offset = request.offset if joined.recovered and request.recover else 0
        return result
    cache = options.force_recovery_mode == "cache" and (result.recoverable or options.auto_cache_recover)
    if (request.recover and result.recoverable) or cache:
        result.recovered = joined.recovered
        result.publications = joined.publications
        if joined.recovered:
            # The SDKs move on from here with every publication that they deliver, and stop where the application does.
            result.offset = request.offset
    return result


def rejects_unrecovered(request: SubscribeRequest, grant: Grant, result: SubscribeResult) -> bool:
    """Whether the client asked for error 112 in place of a subscription that misses publications.

    Where there is history that the client may not read it gets its subscription.
    """
    asked = request.flag & FLAG_REJECT_UNRECOVERED and request.recover
    return bool(asked) and not result.recovered and (result.recoverable or not grant.options.keeps_history)


def recoverable(request: SubscribeRequest, grant: Grant, *, user: str) -> bool:
    """Whether the client can recover in the channel: it asks for it, and may, or the options force it."""
    options = grant.options
    if not options.keeps_history:
        return False
    if options.stream is not None or options.force_recovery:
        return True
    asked = request.recoverable or request.recover
    channel = ChannelFacts(request.channel, options)
    may_read = asked and may(Subject(user, subscribed=True), Verb.HISTORY, channel).allowed
    return may_read or (asked and grant.recover)
