"""Presence in memory, for the broker of a single process."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from starling.clocks import steady_clock
from starling.engine.presence import DEFAULT_TTL, PresenceCounts, TooManyPresent
from starling.protocol.messages import ClientInfo
from starling.protocol.shared_values import SharedMembers


@dataclass(slots=True)
class _Members:
    clients: dict[str, ClientInfo] = field(default_factory=dict)
    users: Counter[str] = field(default_factory=Counter)


class MemoryPresence:
    """Implements starling.engine.presence.PresenceStore. `ttl` and `clock` are in seconds; the clock never goes back.

    `check` raises BrokerUnavailable while nothing may be read or changed.
    """

    def __init__(
        self,
        ttl: float = DEFAULT_TTL,
        clock: Callable[[], float] = steady_clock,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._check = check
        self.ttl = ttl
        self._clock = clock
        self._channels: dict[str, _Members] = {}
        # The soonest first, because every entry lives equally long and is put last when it is refreshed.
        self._deadlines: dict[tuple[str, str], float] = {}
        # Those with a time of their own, which are few.
        self._own_deadlines: dict[tuple[str, str], float] = {}

    async def add(self, channel: str, info: ClientInfo) -> bool:
        """Add a client; True when its user was not in the channel before."""
        return self._keep(channel, info, self._sweep())

    async def enter(self, channel: str, info: ClientInfo, most: int) -> bool:
        """Add a client where fewer than `most` others are; False, and nothing done, where there are as many."""
        now = self._sweep()
        members = self._channels.get(channel)
        others = members.clients.keys() - {info.client} if members else set()
        if len(others) >= most:
            return False
        self._keep(channel, info, now)
        return True

    async def refresh(self, entries: Mapping[str, Collection[ClientInfo]]) -> None:
        """Keep the clients of many channels alive; an entry that is gone is made again."""
        now = self._sweep()
        for channel, infos in entries.items():
            for info in infos:
                self._keep(channel, info, now)

    async def remove(self, entries: Mapping[str, Collection[ClientInfo]]) -> dict[str, set[str]]:
        """Take clients out of many channels; returns for each channel which of their users are gone."""
        self._sweep()
        gone: dict[str, set[str]] = {}
        for channel, infos in entries.items():
            for info in infos:
                self._take_out(channel, info.client)
            members = self._channels.get(channel)
            gone[channel] = {info.user for info in infos if members is None or info.user not in members.users}
        return gone

    async def put(self, channel: str, info: ClientInfo, seconds: float) -> bool:
        """Show a client for `seconds`; True when it was not in the channel before."""
        now = self._sweep()
        before = self._channels.get(channel)
        new = before is None or info.client not in before.clients
        self._keep(channel, info, now)
        del self._deadlines[channel, info.client]
        self._own_deadlines[channel, info.client] = now + seconds
        return new

    async def end(self, channel: str, info: ClientInfo, left: float | None) -> ClientInfo | None:
        """Take a client out that has `left` seconds at most; returns it as it was shown."""
        now, key = self._sweep(), (channel, info.client)
        ends_at = self._own_deadlines.get(key, self._deadlines.get(key))
        if ends_at is None or (left is not None and ends_at - now > left):
            return None
        shown = self._channels[channel].clients[info.client]
        self._take_out(channel, info.client)
        return shown

    async def get(self, channel: str, most: int | None = None, max_bytes: int | None = None) -> SharedMembers:
        """The clients in a channel, by client id. Raises TooManyPresent beyond `most` clients or `max_bytes`."""
        self._sweep()
        members = self._channels.get(channel)
        if members is None:
            return SharedMembers(())
        if most is not None and len(members.clients) > most:
            raise TooManyPresent
        if max_bytes is not None and sum(map(_size, members.clients.values())) > max_bytes:
            raise TooManyPresent
        return SharedMembers(members.clients.items())

    async def stats(self, channel: str) -> PresenceCounts:
        """How many are in a channel."""
        self._sweep()
        members = self._channels.get(channel)
        return PresenceCounts(len(members.clients), len(members.users)) if members else PresenceCounts(0, 0)

    def _keep(self, channel: str, info: ClientInfo, now: float) -> bool:
        members = self._channels.get(channel) or _Members()
        came = info.user not in members.users
        self._take_out(channel, info.client)
        members = self._channels.setdefault(channel, members)
        members.clients[info.client] = info
        members.users[info.user] += 1
        self._deadlines[channel, info.client] = now + self.ttl
        return came

    def _take_out(self, channel: str, client: str) -> None:
        key = (channel, client)
        if self._deadlines.pop(key, None) is None and self._own_deadlines.pop(key, None) is None:
            return
        members = self._channels[channel]
        user = members.clients.pop(client).user
        members.users[user] -= 1
        if not members.users[user]:
            del members.users[user]
        if not members.clients:
            del self._channels[channel]

    def _sweep(self) -> float:
        """Take out whose time is over; returns the time."""
        self._check()
        now = self._clock()
        while self._deadlines:
            (channel, client), deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                break
            self._take_out(channel, client)
        for channel, client in [key for key, deadline in self._own_deadlines.items() if deadline <= now]:
            self._take_out(channel, client)
        return now


def _size(info: ClientInfo) -> int:
    return len(info.client) + len(info.user) + len(info.conn_info) + len(info.chan_info)
