"""Locks of channels, which exist only while somebody has them or waits for them."""

import asyncio


class ChannelLock:
    """A lock that stands in `locks` while somebody has it or waits for it: idle channels have none."""

    __slots__ = ("_channel", "_lock", "_locks", "_users")

    def __init__(self, channel: str, locks: "dict[str, ChannelLock]") -> None:
        self._channel = channel
        self._locks = locks
        self._lock = asyncio.Lock()
        self._users = 0

    async def __aenter__(self) -> None:
        """Wait for those before."""
        self._users += 1
        self._locks[self._channel] = self
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        """Let the next one in."""
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            del self._locks[self._channel]
