"""What a service publishes, kept for its test: in channels without history too."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from starling.brokers.memory.broker import MemoryBroker
from starling.engine.broker import PublishOptions, PublishOutcome, PublishRequest, StreamPosition
from starling.protocol.messages import Publication

_MOST = 10_000


class Recording:
    """The data of the publications that a broker takes, by channel, oldest first; the newest 10,000 of each."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._data: defaultdict[str, deque[bytes]] = defaultdict(lambda: deque(maxlen=_MOST))
        self._keys: set[tuple[str, str]] = set()
        self._take_one, self._take_now, self._take_all = broker.publish, broker.begin_publish, broker.begin_publish_all
        # The broker itself knows nothing of tests.
        taken = {"publish": self._publish, "begin_publish": self._begin_publish, "begin_publish_all": self._begin_all}
        vars(broker).update(taken)

    def of(self, channel: str) -> list[Any]:
        """The data of a channel; bytes where it is no JSON."""
        return [_value(data) for data in self._data.get(channel, ())]

    def stop(self) -> None:
        """Record no more."""
        for name in ("publish", "begin_publish", "begin_publish_all"):
            vars(self._broker).pop(name, None)

    async def _publish(self, channel: str, publication: Publication, options: PublishOptions) -> StreamPosition:
        position = await self._take_one(channel, publication, options)
        self._note(channel, publication, options, position)
        return position

    def _begin_publish(
        self, channel: str, publication: Publication, options: PublishOptions, done: Callable[[PublishOutcome], None]
    ) -> PublishOutcome | None:
        outcome = self._take_now(channel, publication, options, done)
        self._note(channel, publication, options, outcome)
        return outcome

    def _begin_all(
        self, requests: Sequence[PublishRequest], done: Callable[[Sequence[PublishOutcome]], None]
    ) -> Sequence[PublishOutcome] | None:
        outcomes = self._take_all(requests, done)
        for request, outcome in zip(requests, outcomes or (), strict=True):
            self._note(*request, outcome)
        return outcomes

    def _note(
        self, channel: str, publication: Publication, options: PublishOptions, outcome: PublishOutcome | None
    ) -> None:
        if not isinstance(outcome, StreamPosition):
            return
        if key := options.idempotency_key:
            # The broker has taken it once.
            if (channel, key) in self._keys:
                return
            self._keys.add((channel, key))
        self._data[channel].append(bytes(publication.data))


def _value(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data
