"""Revocation: tokens that are refused before they expire, the contract of their store, and the connections that end."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

import structlog
from msgspec import Struct

from starling.engine.broker import BrokerRefused, BrokerUnavailable
from starling.engine.control import Control, NodeCommand
from starling.engine.hub import Hub
from starling.engine.receiver import TokenFacts
from starling.telemetry.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.revocation")

# How often the store is asked whether something was missed.
CHECK_SECONDS = 25.0
RETRY_SECONDS = 1.0
# How often the store is offered what it refused.
OFFER_SECONDS = 5.0
# How long a node that starts waits for the others to send what the store refused.
PEER_SECONDS = 1.0
# Connections looked at in one go; what else is to be done gets its turn in between.
_PORTION = 1000


class Revocation(Struct, frozen=True, omit_defaults=True):
    """What is refused until `expires_at` (seconds since 1970): a token, a session's tokens, or a user's older ones.

    `id` is the token's, the session's or the user's. A user's tokens are refused where they were issued before
    `issued_before`; with a `channel` only the subscription tokens of it.
    """

    kind: Literal["token", "session", "user"]
    id: str
    expires_at: float
    issued_before: float = 0.0
    channel: str = ""


class StoredRevocations(NamedTuple):
    """All that a store holds; `version` grows with each addition."""

    version: int
    revocations: list[Revocation]


class RevocationStore(Protocol):
    """Keeps revocations until they expire. Every method raises BrokerUnavailable."""

    async def add(self, revocations: Collection[Revocation]) -> int:
        """Keep them; returns the version. To add one again is nothing."""

    async def version(self) -> int:
        """The version now."""

    async def load(self) -> StoredRevocations:
        """All that are in force."""

    async def writable(self) -> bool:
        """Whether the store takes an addition now; False where it answers that it does not."""


class RevokeCommand(NodeCommand):
    """Refuse and end what fits. `version` is the store's with it, `sent_at` in seconds since 1970.

    `version` 0: the store did not take it, so each node keeps it and offers it to the store.
    """

    revocation: Revocation
    version: int
    sent_at: float


class UnstoredRevocationsCommand(NodeCommand):
    """Send what you keep because the store did not take it: a node that starts cannot read it there."""


class RevocationStats:
    """What telemetry reads: commands by kind, the seconds from command to effect since they were last taken, and ended
    connections.
    """

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.ended = 0
        self.commands: Counter[str] = Counter(token=0, session=0, user=0)

    def take_delays(self) -> list[float]:
        """The seconds since they were last taken."""
        taken, self.delays = self.delays, []
        return taken


class RevocationSet:
    """What is refused, by the kind and the id of each revocation."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str, str], Revocation] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Revocation]:
        return iter(self._by_key.values())

    def add(self, revocation: Revocation) -> bool:
        """Take one in; False when nothing more is refused by it. Of two about one thing the wider counts."""
        key = (revocation.kind, revocation.id, revocation.channel)
        known = self._by_key.get(key)
        if known is not None:
            expires_at = max(known.expires_at, revocation.expires_at)
            issued_before = max(known.issued_before, revocation.issued_before)
            wider = Revocation(revocation.kind, revocation.id, expires_at, issued_before, revocation.channel)
            if wider == known:
                return False
            revocation = wider
        self._by_key[key] = revocation
        return True

    def session(self, session: str) -> Revocation | None:
        """The revocation of a session, if there is one."""
        return self._by_key.get(("session", session, ""))

    def discard(self, revocation: Revocation) -> None:
        """Take one out, whatever its times."""
        self._by_key.pop((revocation.kind, revocation.id, revocation.channel), None)

    def forget_expired(self, now: float) -> None:
        """Take out those whose tokens have all expired."""
        self._by_key = {key: known for key, known in self._by_key.items() if known.expires_at > now}

    def __call__(self, token: TokenFacts) -> bool:
        """Whether a token is refused."""
        known = self._by_key
        if not known:
            return False
        if token.token_id and ("token", token.token_id, "") in known:
            return True
        if token.session and ("session", token.session, "") in known:
            return True
        if not token.user:
            return False
        for channel in {"", token.channel}:
            of_user = known.get(("user", token.user, channel))
            if of_user is not None and (token.issued_at is None or token.issued_at < of_user.issued_before):
                return True
        return False


class Revocations:
    """This node's knowledge of what is refused, the same on every node within moments.

    It stands in memory, so that a connect costs no look-up elsewhere and an outage of the store lets nobody in again.
    Before the store was read for the first time nothing can be judged: `loaded` is false. A store that lost its memory
    gets again what this node knows. What the store refuses, for want of memory say, every node keeps and offers again
    until the store takes it, and sends to each node that starts.
    """

    def __init__(
        self,
        store: RevocationStore | None,
        control: Control,
        hub: Hub,
        *,
        start_task: Callable[[Coroutine[object, None, None]], object],
    ) -> None:
        """`store` None: this broker keeps none, and nothing can be revoked."""
        self.stats = RevocationStats()
        self.loaded = store is None
        self._first_load = asyncio.Event()
        self._store = store
        self._control = control
        self._hub = hub
        self._start_task = start_task
        self._refused = RevocationSet()
        self._unstored = RevocationSet()
        self._version = 0
        self._pending: list[RevokeCommand] = []
        self._reload = asyncio.Event()
        control.on_command(RevokeCommand, self._carry_out)
        control.on_command(UnstoredRevocationsCommand, self._send_unstored)

    def __len__(self) -> int:
        return len(self._refused)

    @property
    def unstored(self) -> int:
        """How many the store has not taken yet."""
        return len(self._unstored)

    @property
    def available(self) -> bool:
        """Whether this broker keeps revocations."""
        return self._store is not None

    async def until_loaded(self, seconds: float) -> None:
        """Wait until tokens can be judged, at most `seconds`."""
        if not self.loaded:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._first_load.wait()

    def report(self, metrics: Metrics) -> None:
        """Set the metrics of revocations."""
        metrics.set("starling_revocations_in_force", len(self))
        metrics.set("starling_revocations_unstored", self.unstored)
        for kind, total in self.stats.commands.items():
            metrics.count("starling_revocations_total", total, kind)
        metrics.count("starling_revoked_connections_total", self.stats.ended)
        for delay in self.stats.take_delays():
            metrics.observe("starling_revocation_seconds", delay)

    def still_valid(self, token: TokenFacts | None) -> bool:
        """Whether what was granted by a token may still be used; None, no token, is never revoked.

        It is asked at each moment that a token counts: at its verification, when `connect` uses that of the upgrade,
        and when a subscription is answered. What it has granted by then is ended by `drop_revoked`.
        """
        return token is None or not self._refused(token)

    def refuses(self, token: TokenFacts) -> bool:
        """Whether a token is refused."""
        return self._refused(token)

    async def revoke(self, revocation: Revocation) -> bool:
        """Store it, and have every node carry it out; False where the store refused it and the nodes keep it.

        Raises BrokerUnavailable; it may be stored then all the same.
        """
        if self._store is None:
            raise ValueError("this broker keeps no revocations")
        sent_at, version = time.time(), 0
        try:
            version = await self._store.add([revocation])
        except BrokerRefused as refusal:
            log.warning(
                "revocation_not_stored",
                kind=revocation.kind,
                reason=str(refusal),
                remedy="the running workers hold to it and offer it again: let the broker take writes",
            )
        await self._control.send(RevokeCommand(revocation, version, sent_at))
        return version > 0

    async def run(self) -> None:
        """Keep up with the store until cancelled."""
        while self._store is not None:
            self._reload.clear()
            try:
                if not self.loaded or await self._store.version() != self._version:
                    await self._load(self._store)
                await self._offer(self._store)
            except BrokerUnavailable:
                log.debug("revocations_not_read")
            except Exception:
                # Whatever it was, what is revoked from now on must be known too.
                log.exception("revocations_failed")
            else:
                await self._until_asked(OFFER_SECONDS if self.unstored else CHECK_SECONDS)
                self._refused.forget_expired(time.time())
                self._unstored.forget_expired(time.time())
                continue
            await self._until_asked(RETRY_SECONDS)

    async def _until_asked(self, seconds: float) -> None:
        """Wait until the store is to be read, at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._reload.wait()

    def catch_up(self) -> None:
        """Commands may have been missed: read the store again."""
        self._version = -1
        self._reload.set()

    async def _load(self, store: RevocationStore) -> None:
        await self._ask_peers(store)
        stored = await store.load()
        now = time.time()
        kept = {(one.kind, one.id, one.channel) for one in stored.revocations}
        lost = [one for one in self._refused if one.expires_at > now and (one.kind, one.id, one.channel) not in kept]
        for one in lost:
            self._unstored.add(one)
        new = RevocationSet()
        for revocation in stored.revocations:
            if revocation.expires_at > now and self._refused.add(revocation):
                new.add(revocation)
        self._version, self.loaded = stored.version, True
        self._first_load.set()
        if len(new):
            await self._end_all(new)

    async def _ask_peers(self, store: RevocationStore) -> None:
        """Have the other nodes send what the store did not take; wait for them where it takes nothing even now."""
        await self._control.send(UnstoredRevocationsCommand())
        if not self.loaded and not await store.writable():
            await asyncio.sleep(PEER_SECONDS / 2)
            # This node may not have been listening when it asked first.
            await self._control.send(UnstoredRevocationsCommand())
            await asyncio.sleep(PEER_SECONDS / 2)

    def _send_unstored(self, _: UnstoredRevocationsCommand) -> None:
        if self.unstored:
            self._start_task(self._send_all(list(self._unstored)))

    async def _send_all(self, revocations: Collection[Revocation], version: int = 0) -> None:
        try:
            for revocation in revocations:
                await self._control.send(RevokeCommand(revocation, version, time.time()))
        except BrokerUnavailable:
            log.debug("revocations_not_sent")

    async def _offer(self, store: RevocationStore) -> None:
        """Have the store take what it has not taken yet. Raises BrokerUnavailable where that is not known."""
        offered = list(self._unstored)
        if not offered:
            return
        try:
            version = await store.add(offered)
        except BrokerRefused as refusal:
            log.debug("revocations_not_stored", revocations=len(offered), reason=str(refusal))
            return
        log.warning("revocations_restored", revocations=len(offered), reason="the store had lost or refused them")
        for revocation in offered:
            self._unstored.discard(revocation)
        # The others learn by it that the store has them. This node reads the store again where others added some, too.
        await self._send_all(offered, version)

    def _carry_out(self, command: RevokeCommand) -> None:
        self.stats.commands[command.revocation.kind] += 1
        known = not self._refused.add(command.revocation)
        if not command.version:
            self._unstored.add(command.revocation)
            self._reload.set()
        else:
            self._unstored.discard(command.revocation)
        # Between this one and the last that was received, others may have been missed.
        if command.version == self._version + 1:
            self._version = command.version
        elif command.version > self._version:
            self._reload.set()
        if known and not command.version:
            return
        self._pending.append(command)
        if len(self._pending) == 1:
            self._start_task(self._end_pending())

    async def _end_pending(self) -> None:
        """End what the commands of this moment revoke; those that arrive meanwhile are executed together."""
        # Others of the same burst come in first.
        await asyncio.sleep(0)
        while commands := tuple(self._pending):
            refused = RevocationSet()
            for command in commands:
                refused.add(command.revocation)
            await self._end_all(refused)
            now = time.time()
            self.stats.delays += [max(0.0, now - command.sent_at) for command in commands]
            del self._pending[: len(commands)]

    async def _end_all(self, refused: RevocationSet) -> None:
        """End what lives here by the tokens that are refused."""
        connections = list(self._hub.connections)
        for start in range(0, len(connections), _PORTION):
            for connection in connections[start : start + _PORTION]:
                try:
                    token = connection.drop_revoked(refused)
                except Exception:
                    # The others have to end all the same, and so have those of later commands.
                    log.exception("revocation_failed", connection_id=connection.id)
                    continue
                if token is not None:
                    self.stats.ended += 1
                    self._follow_up(token, refused)
            await asyncio.sleep(0)

    def _follow_up(self, token: TokenFacts, refused: RevocationSet) -> None:
        """Refuse the very token of a session that was revoked: the token itself need not name that session."""
        session = refused.session(token.session)
        if session is not None and token.token_id and not self.refuses(TokenFacts("", token.token_id)):
            revocation = Revocation("token", token.token_id, session.expires_at)
            self._refused.add(revocation)
            self._start_task(self._revoke_quietly(revocation))

    async def _revoke_quietly(self, revocation: Revocation) -> None:
        try:
            await self.revoke(revocation)
        except BrokerUnavailable:
            # It stands in memory here, and goes to the store when that is back.
            log.warning("revocation_not_kept", kind=revocation.kind)
