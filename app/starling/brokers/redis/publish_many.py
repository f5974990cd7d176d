"""Many publications with few calls of one script: what they have in common is sent once. Not for a cluster."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from starling.brokers.envelope import encode_body, encode_publication, stored_names
from starling.brokers.redis.calls import PUBLISH_MANY, Command, RedisCalls, RedisNames, Reply, milliseconds, new_epoch
from starling.brokers.redis.refusal import refused
from starling.clocks import wall_milliseconds
from starling.engine.broker import (
    BrokerUnavailable,
    PublishOptions,
    PublishOutcome,
    PublishRequest,
    SamePublication,
    StoredPositions,
    StreamPosition,
    channels_of,
)
from starling.protocol.messages import Publication

# Redis serves nobody else while a script runs, so each call does little: about 40 small publications that are kept.
MOST_MICROSECONDS = 500
CALLS_AT_ONCE = 4
# About the bytes of a name, and of what goes with a body.
_OVERHEAD = 50

_NOT_KEPT = StreamPosition(0, "")
# What a server says whose keys are in several places, so that a script cannot make their names.
_OF_DIVIDED_SERVERS = ("non local key", "undeclared key", "same slot")

Done = Callable[[Sequence[PublishOutcome]], None]
OneByOne = Callable[[Sequence[PublishRequest], Done], None]
"""Publishes each by a command of its own, and reports the outcomes."""


class ManyCall(NamedTuple):
    """A call of the script, the numbers of its publications, and about its size in bytes."""

    command: Command
    portion: range
    size: int


class PublishMany:
    """Publishes many over one connection."""

    def __init__(self, calls: RedisCalls, names: RedisNames, one_by_one: OneByOne) -> None:
        """`one_by_one` publishes what the script cannot."""
        self.calls = calls
        self.one_by_one = one_by_one
        self.divided = False
        self._prefix = names.prefix

    def begin(self, requests: Sequence[PublishRequest], done: Done) -> Sequence[PublishOutcome] | None:
        """As starling.engine.broker.Broker.begin_publish_all."""
        names = stored_names(channels_of(requests))
        # The script takes a line for each name. No rule lets a name have two, and this is where it would be two names.
        if self.divided or "\n" in "".join(names):
            self.one_by_one(requests, done)
            return None
        under_way = _UnderWay(self, requests, names, done)
        return under_way.outcomes() if under_way.go_on() else None

    def next_call(self, requests: Sequence[PublishRequest], names: Sequence[str], begun: int, epoch: str) -> ManyCall:
        """The call of the script for those after the first `begun`, for as many as take MOST_MICROSECONDS.

        `names` are stored names of channels; `epoch` names new streams: a text for these requests, and no others.
        """
        arguments: list[bytes | str | int] = [self._prefix, epoch, begun]
        count, size, number, left = len(requests), 0, begun, MOST_MICROSECONDS
        now, script_options = wall_milliseconds(), _NO_OPTIONS
        while number < count:
            _, publication, options = requests[number]
            data_size = len(publication.data)
            known = options is script_options.options
            if not known:
                script_options = _script_options(options)
            each_takes = script_options.microseconds + data_size // script_options.bytes_a_microsecond
            if left < each_takes and number > begun:
                break
            end = _end_of_run(requests, number, min(count, number + max(1, left // each_takes)))
            arguments.append("" if known else script_options.text)
            arguments += script_options.arguments(publication, now)
            # Most publications of a batch go to one channel each.
            arguments.append(f"{names[number]}\n" if end == number + 1 else "\n".join([*names[number:end], ""]))
            size += data_size + _OVERHEAD
            left -= (end - number) * each_takes
            number = end
        return ManyCall(PUBLISH_MANY.call((), *arguments), range(begun, number), size + _OVERHEAD * (number - begun))


class _UnderWay:
    """Publications and what is known of them so far."""

    def __init__(self, many: PublishMany, requests: Sequence[PublishRequest], names: Sequence[str], done: Done) -> None:
        self._many = many
        self._requests = requests
        self._names = names
        self._done = done
        self._begun = 0
        self._epoch = new_epoch()
        # Positions as the script writes them, for the first ones, as long as all are kept; then there are outcomes.
        self._stored: list[bytes] = []
        self._stored_count = 0
        self._outcomes: list[PublishOutcome] = []

    def go_on(self) -> bool:
        """Send the next calls; whether there are none, because all outcomes are known."""
        calls: list[ManyCall] = []
        while self._begun < len(self._requests) and len(calls) < CALLS_AT_ONCE:
            calls.append(self._many.next_call(self._requests, self._names, self._begun, self._epoch))
            self._begun = calls[-1].portion.stop
        if not calls:
            return True
        portions = [call.portion for call in calls]
        size = sum([call.size for call in calls])
        try:
            self._many.calls.post_all([call.command for call in calls], size, partial(self._on_replies, portions))
        except BrokerUnavailable as unavailable:
            self._give_up(portions[0].start, unavailable)
            return True
        return False

    def outcomes(self) -> Sequence[PublishOutcome]:
        """All outcomes, in the order of the requests."""
        if self._stored_count == len(self._requests):
            return self._positions()
        return self._listed()

    def _positions(self) -> StoredPositions:
        return StoredPositions(b",".join(self._stored), self._stored_count)

    def _listed(self) -> list[PublishOutcome]:
        """The outcomes one by one, from now on."""
        if not self._outcomes:
            rest = len(self._requests) - self._stored_count
            self._outcomes = [*self._positions(), *([_NOT_KEPT] * rest)]
            self._stored_count = 0
        return self._outcomes

    def _give_up(self, first: int, unavailable: BrokerUnavailable) -> None:
        self._begun = len(self._requests)
        self._listed()[first:] = [unavailable] * (len(self._requests) - first)

    def _on_replies(self, portions: Sequence[range], replies: list[Reply | ResponseError] | Exception) -> None:
        again: list[int] = []
        if isinstance(replies, Exception):
            failure = replies if isinstance(replies, BrokerUnavailable) else BrokerUnavailable(str(replies))
            self._give_up(portions[0].start, failure)
        else:
            for portion, reply in zip(portions, replies, strict=True):
                again += self._read(portion, reply)
        if again:
            requests = [self._requests[number] for number in again]
            self._many.one_by_one(requests, partial(self._on_repeated, again))
        elif self.go_on():
            self._done(self.outcomes())

    def _on_repeated(self, numbers: Sequence[int], outcomes: Sequence[PublishOutcome]) -> None:
        for number, outcome in zip(numbers, outcomes, strict=True):
            self._listed()[number] = outcome
        if self.go_on():
            self._done(self.outcomes())

    def _read(self, portion: range, reply: Reply | ResponseError) -> Sequence[int]:
        """Note the outcomes of one call; returns the numbers of those that must be published one by one."""
        if not self._outcomes and (stored := _all_stored(reply, len(portion))):
            self._stored.append(stored)
            self._stored_count += len(portion)
            return ()
        outcomes = self._listed()
        if isinstance(reply, NoScriptError):
            # Redis forgets scripts when it restarts.
            self._many.calls.renew()
            return portion
        if isinstance(reply, ResponseError) or not isinstance(reply, list):
            failed = refused(reply) if isinstance(reply, ResponseError) else _MALFORMED
            outcomes[portion.start : portion.stop] = [failed] * len(portion)
            return ()
        again: list[int] = []
        number = portion.start
        for part in reply:
            if isinstance(part, int):
                number -= part
            elif isinstance(part, bytes):
                count = part.count(b"{")
                outcomes[number : number + count] = StoredPositions(part, count)
                number += count
            elif isinstance(part, list):
                again += self._read_part(number, part[::2], part[1::2])
                number += len(part) // 2
        return again

    def _read_part(self, first: int, offsets: Sequence[object], epochs: Sequence[object]) -> list[int]:
        again: list[int] = []
        for number, (offset, epoch) in enumerate(zip(offsets, epochs, strict=True), first):
            if isinstance(offset, int) and isinstance(epoch, bytes):
                self._outcomes[number] = StreamPosition(offset, epoch.decode())
            elif not isinstance(offset, ResponseError):
                self._outcomes[number] = _MALFORMED
            elif any(words in str(offset) for words in _OF_DIVIDED_SERVERS):
                self._many.divided = True
                again.append(number)
            else:
                if isinstance(offset, ReadOnlyError):
                    # A replica now: the address may lead to the master when it is asked again.
                    self._many.calls.renew()
                self._outcomes[number] = refused(offset)
        return again


def _all_stored(reply: Reply | ResponseError, count: int) -> bytes:
    """The positions in a reply where it has nothing else, and `count` of them; otherwise nothing."""
    if not isinstance(reply, list) or len(reply) != 1:
        return b""
    (part,) = reply
    return part if isinstance(part, bytes) and part.count(b"{") == count else b""


_MALFORMED = BrokerUnavailable("a publish script answered in another form than it should")


class _ScriptOptions(NamedTuple):
    """How publications with the same options are kept, and about what Redis takes for one of them in one channel."""

    options: PublishOptions | None
    text: str
    microseconds: int
    bytes_a_microsecond: int
    sends_body: bool

    def arguments(self, publication: Publication, now: int) -> Sequence[bytes | str | int]:
        """What the script needs of a publication and its options, `now` in milliseconds since 1970."""
        if self.sends_body or self.options is None:
            return (encode_body(publication, now),)
        options = self.options
        body = encode_body(publication, now)
        changed = options.trace is not None or options.delta
        live = encode_body(publication, now, options.trace, delta=options.delta) if changed else body
        arguments: list[bytes | str | int] = [body if options.history_size else encode_publication(live)]
        if options.idempotency_key:
            arguments.append(options.idempotency_key)
        if options.history_size and options.version:
            arguments += [options.version, options.version_epoch]
        if options.history_size and changed:
            arguments.append(live)
        return arguments


_NO_OPTIONS = _ScriptOptions(None, "", 0, 1, sends_body=False)


def _script_options(options: PublishOptions) -> _ScriptOptions:
    key = "i" if options.idempotency_key else ""
    if not options.history_size:
        return _ScriptOptions(options, f"0 0 0 {key}", 8, 1000, sends_body=False)
    changed = options.trace is not None or options.delta
    letters = f"{key}{'v' if options.version else ''}{'l' if changed else ''}"
    text = f"{_limits(options.history_size, options.history_ttl, options.history_meta_ttl)} {letters}"
    return _ScriptOptions(options, text, 16 if key else 12, 200, sends_body=not letters)


def _end_of_run(requests: Sequence[PublishRequest], begin: int, last: int) -> int:
    """The end of those from `begin` on, up to `last`, that have one publication and the same options."""
    if isinstance(requests, SamePublication):
        return last
    _, publication, options = requests[begin]
    end = begin + 1
    while end < last and requests[end][1] is publication and requests[end][2] is options:
        end += 1
    return end


@lru_cache(maxsize=256)
def _limits(history_size: int, history_ttl: float, history_meta_ttl: float) -> str:
    return f"{history_size} {milliseconds(history_ttl)} {milliseconds(history_meta_ttl)}"
