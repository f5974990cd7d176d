"""Presence of this process's clients, and the joins and leaves that are published for them."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import structlog

from starling.engine.agents import Agents
from starling.engine.broker import Broker, BrokerUnavailable, PublicationTooLarge
from starling.engine.channels import ChannelOptions
from starling.engine.presence import PresenceCounts, PresenceStore, TooManyPresent
from starling.protocol.codes import ERROR_LIMIT_EXCEEDED, ERROR_NOT_AVAILABLE, CommandRefused
from starling.protocol.messages import ClientInfo
from starling.protocol.shared_values import SharedMembers
from starling.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.presence")

# Clients refreshed or taken out in one go; what else is to be done gets its turn in between.
_PORTION = 1000
# Leaves that an outage kept from being published are published afterwards, up to this number.
_UNDONE_LIMIT = 10_000
_CLOSE_SECONDS = 3.0

_Key = tuple[str, str]


@dataclass(eq=False, slots=True)
class _Stay:
    """One client in one channel.

    `listed`: presence holds it. `publishes`: its join and leave are published. `first_of_user`: no other client of its
    user was in the channel. `announced`: its join was published, or was not needed.
    """

    channel: str
    info: ClientInfo
    listed: bool
    publishes: bool
    first_of_user: bool = True
    announced: bool = False

    @property
    def key(self) -> _Key:
        return self.channel, self.info.client


class PresenceTracker:
    """Keeps the clients of this process in presence, and publishes joins and leaves.

    For each client and channel: `arrive`, then `announce` once the client has its answer, then `depart`. A client
    that arrives must depart, announced or not; a second or unmatched `depart` does nothing. None of these fails while
    the broker is away: `refresh` catches up on what it can.

    Without `leave_delay` joins and leaves are published for each client, at once. With it (seconds) they are published
    for each user, so that a page reload shows nothing: a client that departs stays in presence for that long, its leave
    is published if no other client of its user is in the channel then, and its join if none was before. That needs
    presence to count users, so channels with joins and leaves alone are counted too. Anonymous clients cannot be
    recognised when they reconnect: they are published one by one and at once, as all are without a presence store.

    When in doubt a join is published: twice does less harm than never. The entries of a crashed process leave presence
    within the store's ttl, and no leave is published for them.
    """

    def __init__(
        self,
        presence: PresenceStore | None,
        broker: Broker,
        *,
        start_task: Callable[[Coroutine[object, None, None]], object],
        leave_delay: float = 0.0,
    ) -> None:
        """`presence` None: this broker keeps none. `start_task` runs work in a task that the caller owns."""
        self.agents = Agents(presence, broker, start_task=start_task)
        """Members that backends show without a connection."""
        self._presence = presence
        self._broker = broker
        self._start_task = start_task
        self._leave_delay = leave_delay
        self._here: dict[_Key, _Stay] = {}
        self._waiting: deque[tuple[float, _Stay]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: dict[_Key, _Stay] = {}
        self._taking_out = False
        # A refresh must not restore an entry that is being removed.
        self._lock = asyncio.Lock()
        self._away = False

    @property
    def clients(self) -> int:
        """How many are here, each once a channel."""
        return len(self._here)

    def keeps(self, options: ChannelOptions) -> bool:
        """Whether the clients in channels with `options` are listed."""
        return self._presence is not None and options.presence

    async def members(
        self, channel: str, options: ChannelOptions, most: int | None = None, max_bytes: int | None = None
    ) -> SharedMembers:
        """The clients in a channel over all processes, by client id.

        Raises BrokerUnavailable, and CommandRefused: 108 where no presence is kept, 106 where there are over `most`, or
        over `max_bytes` of them: then `count` is left.
        """
        try:
            return await self._store(options).get(channel, most, max_bytes)
        except TooManyPresent as too_many:
            raise CommandRefused(ERROR_LIMIT_EXCEEDED) from too_many

    async def count(self, channel: str, options: ChannelOptions) -> PresenceCounts:
        """How many clients and users are in a channel over all processes. Raises as `members` does."""
        return await self._store(options).stats(channel)

    def _store(self, options: ChannelOptions) -> PresenceStore:
        if self._presence is None or not options.presence:
            raise CommandRefused(ERROR_NOT_AVAILABLE)
        return self._presence

    def report(self, metrics: Metrics) -> None:
        """Set the metric of clients in presence."""
        metrics.set("starling_presence_clients", self.clients)

    async def arrive(self, channel: str, info: ClientInfo, options: ChannelOptions) -> None:
        """Show a client in presence before it is answered, so that it finds itself there."""
        counted = options.presence or (options.join_leave and self._leave_delay > 0)
        stay = _Stay(channel, info, listed=counted and self._presence is not None, publishes=options.join_leave)
        if not stay.listed and not stay.publishes:
            return
        if stay.key in self._leaving:
            async with self._lock:
                if before := self._leaving.pop(stay.key, None):
                    await self._take_out([before])
        before_reconnect = self._here.get(stay.key)
        if before_reconnect is not None:
            stay.first_of_user, stay.announced = before_reconnect.first_of_user, before_reconnect.announced
        self._here[stay.key] = stay
        if stay.listed and self._presence is not None:
            try:
                first = await self._presence.add(channel, info)
            except BrokerUnavailable as error:
                self._note_away(error)
            else:
                stay.first_of_user = first if before_reconnect is None else before_reconnect.first_of_user

    async def update(self, channel: str, info: ClientInfo) -> None:
        """Show a client that is in a channel with another info from now on; nothing, if it is not there."""
        async with self._lock:
            stay = self._here.get((channel, info.client))
            if stay is None:
                return
            stay.info = info
            if stay.listed and self._presence is not None:
                try:
                    await self._presence.add(channel, info)
                except BrokerUnavailable as error:
                    self._note_away(error)

    async def enter(self, channel: str, info: ClientInfo, most: int) -> bool:
        """Count a client where fewer than `most` others are, of all processes; False where there are as many.

        No join is published. While the broker is away, and without a presence store, every client enters.
        """
        if self._presence is None:
            return True
        stay = _Stay(channel, info, listed=True, publishes=False)
        try:
            if not await self._presence.enter(channel, info, most):
                return False
        except BrokerUnavailable as error:
            self._note_away(error)
        self._here[stay.key] = stay
        return True

    def announce(self, channel: str, client: str) -> None:
        """Publish the join of a client, now that it receives the channel's publications itself."""
        stay = self._here.get((channel, client))
        if stay is None or stay.announced:
            return
        stay.announced = True
        if stay.publishes and (stay.first_of_user or not self._by_user(stay)):
            self._start_task(self._publish(self._broker.publish_join, stay))

    def depart(self, channel: str, client: str) -> None:
        """A client left, or did not enter after all."""
        stay = self._here.get((channel, client))
        if stay is None:
            return
        if stay.announced and self._by_user(stay):
            due = asyncio.get_running_loop().time() + self._leave_delay
            self._waiting.append((due, stay))
            self._set_timer()
        else:
            self._remove(stay)

    async def refresh(self) -> None:
        """Keep this process's entries alive, and catch up on what an outage left undone.

        To be called three times within the store's ttl, and when the link to the broker returns. Raises nothing for a
        broker that is away.
        """
        keys = [key for key, stay in self._here.items() if stay.listed]
        for start in range(0, len(keys), _PORTION):
            if not await self._refresh(keys[start : start + _PORTION]):
                return
        if self._away:
            self._away = False
            log.info("presence_made_good", entries=len(keys), departures=len(self._leaving))
        self._begin_taking_out()

    async def close(self) -> None:
        """Remove every client and publish the leaves, within seconds: for a process that ends."""
        self.agents.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        self._leaving |= self._here
        self._here.clear()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._take_out_all()
        except TimeoutError:
            log.info("presence_close_cut_short", seconds=_CLOSE_SECONDS)
        if self._leaving:
            log.warning("presence_left_behind", entries=len(self._leaving), reason="they go when their time is over")

    def _by_user(self, stay: _Stay) -> bool:
        return self._leave_delay > 0 and stay.listed and bool(stay.info.user)

    # Keeping alive

    async def _refresh(self, keys: Sequence[_Key]) -> bool:
        entries: dict[str, list[ClientInfo]] = defaultdict(list)
        async with self._lock:
            for key in keys:
                if stay := self._here.get(key):
                    entries[stay.channel].append(stay.info)
            if self._presence is None or not entries:
                return True
            try:
                await self._presence.refresh(entries)
            except BrokerUnavailable as error:
                self._note_away(error)
                return False
        return True

    # Removing

    def _set_timer(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_at(self._waiting[0][0], self._delay_over)

    def _delay_over(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._waiting and self._waiting[0][0] <= now:
            stay = self._waiting.popleft()[1]
            # A client that reconnected has another stay by now.
            if self._here.get(stay.key) is stay:
                self._remove(stay)
        self._set_timer()

    def _remove(self, stay: _Stay) -> None:
        del self._here[stay.key]
        self._leaving[stay.key] = stay
        self._begin_taking_out()

    def _begin_taking_out(self) -> None:
        if self._leaving and not self._taking_out:
            self._taking_out = True
            self._start_task(self._take_out_in_turn())

    async def _take_out_in_turn(self) -> None:
        try:
            await self._take_out_all()
        finally:
            self._taking_out = False

    async def _take_out_all(self) -> None:
        while self._leaving:
            async with self._lock:
                stays = list(islice(self._leaving.values(), _PORTION))
                if not await self._take_out(stays):
                    self._keep_undone()
                    return
                for stay in stays:
                    del self._leaving[stay.key]

    async def _take_out(self, stays: Sequence[_Stay]) -> bool:
        """Remove clients from presence and publish their leaves; False while the broker is away."""
        entries: dict[str, list[ClientInfo]] = defaultdict(list)
        for stay in stays:
            if stay.listed:
                entries[stay.channel].append(stay.info)
        gone: dict[str, set[str]] = {}
        if self._presence is not None and entries:
            try:
                gone = await self._presence.remove(entries)
            except BrokerUnavailable as error:
                self._note_away(error)
                return False
        leaves = self._leaves(stays, gone)
        await asyncio.gather(*(self._publish(self._broker.publish_leave, stay) for stay in leaves))
        return True

    def _leaves(self, stays: Sequence[_Stay], gone: Mapping[str, set[str]]) -> list[_Stay]:
        """Of the removed clients, those whose leaves are to be published."""
        leaves: list[_Stay] = []
        published: set[_Key] = set()
        for stay in stays:
            user = stay.info.user
            if not stay.publishes:
                continue
            if not self._by_user(stay):
                if stay.announced:
                    leaves.append(stay)
            # A user whose only client was never announced has no join, and so no leave.
            elif (
                (stay.announced or not stay.first_of_user)
                and user in gone[stay.channel]
                and (stay.channel, user) not in published
            ):
                published.add((stay.channel, user))
                leaves.append(stay)
        return leaves

    def _keep_undone(self) -> None:
        """Bound what waits for the broker: the oldest, and those never announced, expire in the store."""
        undone = [(key, stay) for key, stay in self._leaving.items() if stay.announced]
        self._leaving = dict(undone[-_UNDONE_LIMIT:])
        if len(undone) > _UNDONE_LIMIT:
            log.warning("leaves_given_up", leaves=len(undone) - _UNDONE_LIMIT, reason="the broker is away too long")

    # Publishing

    async def _publish(self, publish: Callable[[str, ClientInfo], Awaitable[None]], stay: _Stay) -> None:
        try:
            await publish(stay.channel, stay.info)
        except BrokerUnavailable as error:
            self._note_away(error)
        except PublicationTooLarge as error:
            log.warning("join_or_leave_too_large", reason=str(error))

    def _note_away(self, error: BrokerUnavailable) -> None:
        if not self._away:
            self._away = True
            log.warning("presence_not_kept", reason=str(error), remedy="it is made good when the broker answers again")
