"""Bookkeeping of the channels that a process wants and of those that the server acknowledged on the present link."""

import asyncio
from itertools import islice


class LinkSubscriptions:
    """Compares the requested channels with the server's state, and returns the requests that bring them in line.

    Requests go out in batches, one at a time: `next_missing`, then `acknowledged` when the server has answered;
    `next_surplus` needs no answer. The requested channels may change in between.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.wanted: set[str] = set()
        self._acknowledged: set[str] = set()
        self._missing: set[str] = set()
        self._surplus: set[str] = set()
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def want(self, channel: str) -> None:
        """Request `channel`, over this link and the ones that follow."""
        self.wanted.add(channel)
        self._surplus.discard(channel)
        if channel not in self._acknowledged:
            self._missing.add(channel)
            self.changed.set()

    def drop(self, channel: str) -> None:
        """Withdraw the request."""
        self.wanted.discard(channel)
        self._missing.discard(channel)
        if channel in self._acknowledged:
            self._surplus.add(channel)
            self.changed.set()
        if waiting := self._waiting.pop(channel, None):
            waiting.cancel()

    async def wait(self, channel: str, timeout: float) -> bool:  # noqa: ASYNC109  # a request outlives its waiting
        """Whether the server has acknowledged `channel` within `timeout` seconds."""
        if channel not in self._acknowledged:
            waiting = self._waiting.get(channel)
            if waiting is None:
                waiting = self._waiting[channel] = asyncio.get_running_loop().create_future()
            await asyncio.wait((waiting,), timeout=timeout)
        return channel in self._acknowledged

    def next_missing(self, most: int) -> list[str]:
        """Channels to subscribe now."""
        return list(islice(self._missing, most))

    def acknowledged(self, channels: list[str]) -> None:
        """The server has subscribed `channels`."""
        self._acknowledged.update(channels)
        self._missing.difference_update(channels)
        for channel in channels:
            if channel not in self.wanted:
                self._surplus.add(channel)
            elif waiting := self._waiting.pop(channel, None):
                waiting.set_result(None)

    def next_surplus(self, most: int) -> list[str]:
        """Channels to unsubscribe now; from here on they count as not subscribed."""
        channels = list(islice(self._surplus, most))
        self._surplus.difference_update(channels)
        self._acknowledged.difference_update(channels)
        return channels

    def link_lost(self) -> None:
        """Nothing is subscribed any more, and everything wanted is missing."""
        self._acknowledged.clear()
        self._surplus.clear()
        self._missing = set(self.wanted)

    def close(self) -> None:
        """Want nothing, and release the callers that wait."""
        self.wanted.clear()
        self.link_lost()
        for waiting in self._waiting.values():
            waiting.cancel()
        self._waiting.clear()
