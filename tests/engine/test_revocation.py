"""What is refused and what is not, and how a node keeps up with the others and with the store."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import redis as redis_client
import structlog

from starling.brokers.broadcast import BroadcastBroker
from starling.brokers.open import open_broker
from starling.engine import revocation
from starling.engine.broker import BrokerUnavailable, LinkState, StreamEntry
from starling.engine.control import Control, NodeInfo
from starling.engine.hub import Hub
from starling.engine.receiver import TokenFacts
from starling.engine.revocation import Revocation, Revocations, RevocationSet
from starling.protocol.messages import ClientInfo
from tests.support.local_server import LocalServer
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE, until

LATER = time.time() + 3600

MeetingServer = LocalServer | RedisServer


@pytest.mark.parametrize(
    ("revocation", "token", "refused"),
    [
        (Revocation("token", "t1", LATER), TokenFacts("alice", "t1"), True),
        (Revocation("token", "t1", LATER), TokenFacts("alice", "t2"), False),
        (Revocation("token", "t1", LATER), TokenFacts("alice"), False),
        (Revocation("token", "t1", LATER), TokenFacts("alice", "t1", channel="room"), True),
        (Revocation("session", "s1", LATER), TokenFacts("alice", "t1", "s1"), True),
        (Revocation("session", "s1", LATER), TokenFacts("alice", "s1", "s2"), False),
        (Revocation("token", "s1", LATER), TokenFacts("alice", "t1", "s1"), False),
        (Revocation("user", "alice", LATER, 100.0), TokenFacts("alice", issued_at=99.0), True),
        (Revocation("user", "alice", LATER, 100.0), TokenFacts("alice", issued_at=100.0), False),
        (Revocation("user", "alice", LATER, 100.0), TokenFacts("alice", issued_at=101.0), False),
        (Revocation("user", "alice", LATER, 100.0), TokenFacts("alice"), True),
        (Revocation("user", "alice", LATER, 100.0), TokenFacts("bob", issued_at=1.0), False),
        (Revocation("user", "alice", LATER, 100.0), TokenFacts("", issued_at=1.0), False),
        (Revocation("user", "alice", LATER, 100.0), TokenFacts("alice", issued_at=1.0, channel="room"), True),
        (Revocation("user", "alice", LATER, 100.0, "room"), TokenFacts("alice", issued_at=1.0), False),
        (Revocation("user", "alice", LATER, 100.0, "room"), TokenFacts("alice", issued_at=1.0, channel="room"), True),
        (Revocation("user", "alice", LATER, 100.0, "room"), TokenFacts("alice", issued_at=1.0, channel="hall"), False),
    ],
)
def test_what_a_revocation_refuses(revocation: Revocation, token: TokenFacts, refused: bool) -> None:
    known = RevocationSet()
    known.add(revocation)

    assert known(token) is refused


def test_the_later_moment_of_one_user_counts() -> None:
    known = RevocationSet()

    assert known.add(Revocation("user", "alice", LATER, 200.0))
    assert not known.add(Revocation("user", "alice", LATER, 100.0))
    assert known(TokenFacts("alice", issued_at=150.0))


def test_what_has_expired_is_forgotten() -> None:
    known = RevocationSet()
    known.add(Revocation("token", "t", 100.0))

    known.forget_expired(99.0)
    assert known(TokenFacts("alice", "t"))
    known.forget_expired(100.0)
    assert not known(TokenFacts("alice", "t"))
    assert len(known) == 0


class Member:
    """A node as far as revocation goes."""

    def __init__(self, broker: BroadcastBroker, uid: str) -> None:
        self.uid = uid
        self.broker = broker
        self.tasks: set[asyncio.Task[None]] = set()
        self.up = asyncio.Event()
        self.control = Control(broker, start_task=self.start_task, describe=lambda: NodeInfo(uid))
        self.hub: Any = Hub()
        self.revocations = Revocations(broker.revocations, self.control, self.hub, start_task=self.start_task)

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.add(asyncio.create_task(work))

    def on_publication(self, channel: str, entry: StreamEntry, received_at: float) -> None:
        self.control.on_publication(entry.publication)

    def on_join(self, channel: str, info: ClientInfo) -> None: ...

    def on_leave(self, channel: str, info: ClientInfo) -> None: ...

    def on_link(self, state: LinkState) -> None:
        if state is LinkState.UP:
            self.revocations.catch_up()
            self.up.set()

    async def start(self) -> None:
        await self.broker.start(self)
        self.start_task(self.control.run(self.uid))
        self.start_task(self.revocations.run())

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await self.broker.stop()


@pytest.fixture(params=["local", pytest.param("redis", marks=pytest.mark.processes)])
def server(request: pytest.FixtureRequest) -> MeetingServer:
    """A server at which nodes meet: in this process, and a Redis."""
    redis: RedisServer | None = request.getfixturevalue("redis_server") if request.param == "redis" else None
    return redis or LocalServer()


@asynccontextmanager
async def members(server: MeetingServer, count: int, *, up: bool = True) -> AsyncIterator[list[Member]]:
    def broker() -> BroadcastBroker:
        return (
            server.broker(timeout=DEADLINE)
            if isinstance(server, LocalServer)
            else open_broker(server.url, timeout=DEADLINE)
        )

    async with AsyncExitStack() as stack:
        started = [Member(broker(), f"node-{number}") for number in range(count)]
        for member in started:
            stack.push_async_callback(member.stop)
            await member.start()
        if up:
            await until(lambda: all(member.up.is_set() and member.revocations.loaded for member in started))
        yield started


async def test_one_nodes_revocation_is_every_nodes_at_once(
    server: MeetingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that nobody learns of it by reading the store.
    monkeypatch.setattr(revocation, "CHECK_SECONDS", 3600.0)
    async with members(server, 3) as (one, *others):
        token = TokenFacts("alice", "t1")
        await one.revocations.revoke(Revocation("token", "t1", LATER))

        await until(lambda: all(member.revocations.refuses(token) for member in (one, *others)))
        await until(lambda: all(member.revocations.stats.delays for member in (one, *others)))


async def test_a_node_that_starts_later_knows_what_was_revoked_before(server: MeetingServer) -> None:
    async with members(server, 1) as (one,):
        await one.revocations.revoke(Revocation("user", "alice", LATER, 100.0))

        async with members(server, 1) as (late,):
            assert late.revocations.refuses(TokenFacts("alice", issued_at=1.0))


async def test_before_the_store_was_read_nothing_is_judged(
    server: MeetingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "RETRY_SECONDS", 0.1)
    server.stop()
    async with members(server, 1, up=False) as (one,):
        await until(lambda: one.broker.stats.failed_swaps > 1, "it tried again")
        assert not one.revocations.loaded
        await one.revocations.until_loaded(0.01)
        assert not one.revocations.loaded

        server.start()
        await one.revocations.until_loaded(DEADLINE)
        assert one.revocations.loaded


async def test_what_was_ordered_while_the_link_was_lost_is_learnt_when_it_returns(server: MeetingServer) -> None:
    async with members(server, 3) as (one, other, third):
        client = Client(faulty=False)
        one.hub.connections.add(client)
        await one.broker.unsubscribe(":control")
        await other.revocations.revoke(Revocation("token", "t1", LATER))
        await until(lambda: third.revocations.refuses(TokenFacts("alice", "t1")), "who listens has got it")
        assert not one.revocations.refuses(TokenFacts("alice", "t1"))

        cut_links(server)

        await until(lambda: one.revocations.refuses(TokenFacts("alice", "t1")))
        await until(lambda: client.ended)


async def test_a_gap_in_the_orders_is_filled_from_the_store(server: MeetingServer) -> None:
    async with members(server, 2) as (one, other):
        await one.broker.unsubscribe(":control")
        await other.revocations.revoke(Revocation("token", "missed", LATER))
        await one.broker.subscribe(":control")
        await other.revocations.revoke(Revocation("token", "heard", LATER))

        await until(lambda: one.revocations.refuses(TokenFacts("alice", "missed")))


async def test_a_store_that_lost_its_memory_is_reported_again(server: MeetingServer) -> None:
    async with members(server, 2) as (one, other):
        await one.revocations.revoke(Revocation("token", "t1", LATER))
        await until(lambda: other.revocations.refuses(TokenFacts("alice", "t1")))

        server.kill()
        server.start()
        await until(lambda: one.broker.stats.reconnects and other.broker.stats.reconnects)

        async with members(server, 1) as (late,):
            await until(lambda: late.revocations.refuses(TokenFacts("alice", "t1")))
        assert one.revocations.refuses(TokenFacts("alice", "t1"))


def cut_links(server: MeetingServer) -> None:
    if isinstance(server, LocalServer):
        server.cut()
        return
    with redis_client.Redis.from_url(server.url) as plain:
        plain.client_kill_filter(_type="pubsub")


async def full(server: MeetingServer, *, is_full: bool) -> None:
    if isinstance(server, LocalServer):
        server.full = is_full
        return
    with redis_client.Redis.from_url(server.url) as plain:
        plain.config_set("maxmemory-policy", "noeviction")
        plain.config_set("maxmemory", "1" if is_full else "0")


async def test_what_a_full_store_refuses_holds_everywhere_and_reaches_who_starts_and_is_stored_at_last(
    server: MeetingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "OFFER_SECONDS", 0.2)
    token = TokenFacts("alice", "t1")
    async with members(server, 2) as (one, other):
        await full(server, is_full=True)
        client = Client(faulty=False)
        other.hub.connections.add(client)

        assert not await one.revocations.revoke(Revocation("token", "t1", LATER))

        await until(lambda: one.revocations.refuses(token) and other.revocations.refuses(token))
        await until(lambda: client.ended == 1)
        async with members(server, 1) as (late,):
            # It judges nothing before it knows: so it is right from the first token on.
            assert late.revocations.refuses(token)
            assert [member.revocations.unstored for member in (one, other, late)] == [1, 1, 1]
            await full(server, is_full=False)
            await until(lambda: not any(member.revocations.unstored for member in (one, other, late)))
    async with members(server, 1) as (alone,):
        assert alone.revocations.refuses(token)


async def test_what_is_stored_moves_on_though_the_store_was_full_before(server: MeetingServer) -> None:
    async with members(server, 1) as (one,):
        assert await one.revocations.revoke(Revocation("token", "t1", LATER))
        await full(server, is_full=True)
        assert not await one.revocations.revoke(Revocation("session", "s1", LATER))
        await full(server, is_full=False)
        assert await one.revocations.revoke(Revocation("user", "alice", LATER, 100.0))
        await until(lambda: not one.revocations.unstored, deadline=20)
        assert one.broker.revocations is not None
        stored = (await one.broker.revocations.load()).revocations
        assert sorted(each.kind for each in stored) == ["session", "token", "user"]


async def test_what_another_node_stored_at_the_same_moment_is_known_though_its_order_was_missed(
    server: MeetingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "OFFER_SECONDS", 0.2)
    async with members(server, 1) as (one,):
        await full(server, is_full=True)
        assert not await one.revocations.revoke(Revocation("token", "t1", LATER))
        store: Any = one.broker.revocations
        add = store.add

        async def add_after_another(revocations: Collection[Revocation]) -> int:
            await add([Revocation("token", "t2", LATER)])
            return int(await add(revocations))

        monkeypatch.setattr(store, "add", add_after_another)
        await full(server, is_full=False)
        await until(lambda: one.revocations.refuses(TokenFacts("alice", "t2")), "it reads what it did not add")


async def test_where_nothing_is_kept_nothing_is_revoked_and_everything_judged() -> None:
    member = Member(open_broker("postgresql://localhost:1/none"), "a")

    assert member.revocations.loaded
    assert not member.revocations.available
    with pytest.raises(ValueError, match="keeps no revocations"):
        await member.revocations.revoke(Revocation("token", "t", LATER))


def talk_nonsense(server: MeetingServer, *, nonsense: bool) -> None:
    if isinstance(server, LocalServer):
        server.revocations.fault = ValueError("no number") if nonsense else None
        return
    with redis_client.Redis.from_url(server.url) as plain:
        if nonsense:
            plain.hset("starling:{revoked}:entries", "", "no number")
        else:
            plain.delete("starling:{revoked}:entries")


async def test_a_store_that_talks_nonsense_is_asked_again(
    server: MeetingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "RETRY_SECONDS", 0.1)
    talk_nonsense(server, nonsense=True)
    async with members(server, 1, up=False) as (one,):
        with structlog.testing.capture_logs() as logs:
            await until(lambda: len([line for line in logs if line["event"] == "revocations_failed"]) > 1)
        assert not one.revocations.loaded

        talk_nonsense(server, nonsense=False)
        await until(lambda: one.revocations.loaded)


class Client:
    """A connection as far as revocation goes; none of ours fails at this, so the faulty one has to be made."""

    def __init__(self, *, faulty: bool) -> None:
        self.id = "faulty" if faulty else "sound"
        self.ended = 0
        self._faulty = faulty

    def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
        if self._faulty:
            raise RuntimeError("this connection cannot be ended")
        token = TokenFacts("alice", "t1")
        self.ended += refuses(token)
        return token


async def test_a_connection_that_cannot_be_ended_saves_no_other_and_stops_no_later_order() -> None:
    member = Member(open_broker("memory://"), "a")
    sound = [Client(faulty=False) for _ in range(5)]
    member.hub.connections |= {*sound, Client(faulty=True)}
    await member.start()
    await until(lambda: member.up.is_set() and member.revocations.loaded)
    # What it reads of the store by itself is read by now.
    await asyncio.sleep(0.1)

    for _ in range(2):
        await member.revocations.revoke(Revocation("token", "t1", LATER))
        await until(lambda: member.revocations.stats.delays)
        member.revocations.stats.take_delays()

    assert [client.ended for client in sound] == [2] * 5
    assert member.revocations.stats.commands == {"token": 2, "session": 0, "user": 0}
    await member.stop()


async def test_the_very_token_of_a_revoked_session_is_refused_though_the_store_is_away(
    server: MeetingServer,
) -> None:
    class InSession(Client):
        def drop_revoked(self, refuses: Callable[[TokenFacts], bool]) -> TokenFacts | None:
            token = TokenFacts("alice", "t1", session="s1")
            if not refuses(token):
                return None
            # Away from just now on, so that nobody but this node can know of the token.
            server.stop()
            self.ended += 1
            return token

    async with members(server, 1) as (one,):
        client = InSession(faulty=False)
        one.hub.connections.add(client)
        # Its order may be received, and the store be away, before the publishing of it was acknowledged.
        with suppress(BrokerUnavailable):
            await one.revocations.revoke(Revocation("session", "s1", LATER))
        await until(lambda: client.ended)

        await until(lambda: one.revocations.refuses(TokenFacts("alice", "t1")))
