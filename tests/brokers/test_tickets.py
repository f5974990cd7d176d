"""Both stores of tickets keep the same promise: each ticket is spent once, however many clients race for it."""

import asyncio
import random
from collections import Counter

import pytest
import redis as redis_client

from starling.auth.tickets import RIGHT_MARK, Tickets
from starling.auth.tokens import KeyNotLoaded, RefusalReason, TokenRefused
from starling.brokers.memory.tickets import MemoryTickets
from starling.engine.broker import BrokerUnavailable
from starling.engine.small_stores import TicketStore
from tests.brokers.conftest import Opener
from tests.support.services import RedisServer

ROUNDS = 40


@pytest.fixture(
    params=["memory", *(pytest.param(name, marks=pytest.mark.processes) for name in ("redis_server", "redis_cluster"))]
)
async def stores(request: pytest.FixtureRequest, opener: Opener) -> list[TicketStore]:
    """What the processes of one service have: three links to one Redis, or the memory of the only process."""
    if request.param == "memory":
        return [MemoryTickets()] * 3
    parties = [await opener(request.getfixturevalue(request.param).url) for _ in range(3)]
    return [party.broker.tickets for party in parties if party.broker.tickets is not None]


async def test_of_all_who_race_for_a_ticket_exactly_one_wins(stores: list[TicketStore]) -> None:
    assert len(stores) == 3
    processes = [Tickets(store) for store in stores]
    seed = random.randrange(2**32)
    chance = random.Random(seed)

    async def attempt(process: Tickets, ticket: str) -> str:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        try:
            return (await process.take(ticket)).user
        except TokenRefused as refused:
            return refused.reason.value

    for turn in range(ROUNDS):
        user, racers = f"user {turn}", chance.randrange(2, 12)
        issued = await chance.choice(processes).issue(user, [], b"", seconds=30, expires_at=None)
        outcomes = Counter(
            await asyncio.gather(*(attempt(chance.choice(processes), issued.ticket) for _ in range(racers)))
        )
        assert outcomes == {user: 1, "ticket_spent": racers - 1}, f"seed {seed}, round {turn}"


async def test_a_right_to_resume_is_good_in_every_process(stores: list[TicketStore]) -> None:
    first, second, _ = (Tickets(store) for store in stores)
    issued = await first.issue("alice", ["news"], b'{"a":1}', seconds=30, expires_at=4e9)

    spent = await first.take(issued.ticket)
    for process in (second, first, second):
        resumed = await process.take(spent.resume)
        assert resumed == spent
    assert (spent.user, list(spent.subs), spent.info, spent.expires_at) == ("alice", ["news"], b'{"a":1}', 4e9)
    assert spent.token.session == issued.session


async def test_a_right_that_was_changed_or_never_given_is_refused(stores: list[TicketStore]) -> None:
    tickets = Tickets(stores[0])
    right = (await tickets.take((await tickets.issue("al", [], b"", seconds=30, expires_at=None)).ticket)).resume
    content, _, signature = right.removeprefix(RIGHT_MARK).partition(".")
    other = content[:-6] + ("A" if content[-6] != "A" else "B") + content[-5:]

    for forged in (f"{other}.{signature}", f"{content}.", f".{signature}", "", "ü.ü", f"{content}.{signature[:-4]}"):
        with pytest.raises(TokenRefused) as refused:
            await tickets.take(RIGHT_MARK + forged)
        assert refused.value.reason in (RefusalReason.BAD_SIGNATURE, RefusalReason.MALFORMED)


async def test_a_session_that_is_over_cannot_be_resumed() -> None:
    tickets = Tickets(MemoryTickets())
    spent = await tickets.take((await tickets.issue("alice", [], b"", seconds=30, expires_at=1.0)).ticket)

    with pytest.raises(TokenRefused) as refused:
        await tickets.take(spent.resume)
    assert refused.value.reason is RefusalReason.EXPIRED


async def test_a_ticket_ends_where_nobody_spends_it() -> None:
    now = 100.0
    store = MemoryTickets(lambda: now)
    await store.keep("digest", b"content", 30)
    now = 130.0

    assert await store.spend("digest") is None


async def test_redis_forgets_a_ticket_that_nobody_spends_and_never_sees_it(
    redis_server: RedisServer, opener: Opener
) -> None:
    party = await opener(redis_server.url)
    assert party.broker.tickets is not None
    issued = await Tickets(party.broker.tickets).issue("alice", [], b"", seconds=30, expires_at=None)

    with redis_client.Redis.from_url(redis_server.url) as redis:
        (name,) = redis.keys("starling:{ticket:*")
        assert issued.ticket.encode() not in name + redis.get(name)
        assert 0 < redis.pttl(name) <= 30_000


async def test_where_no_tickets_are_kept_none_is_made_and_none_is_good() -> None:
    tickets = Tickets(None)
    assert not tickets.available
    with pytest.raises(ValueError, match="keeps no tickets"):
        await tickets.issue("alice", [], b"", seconds=60, expires_at=None)
    with pytest.raises(TokenRefused) as refused:
        await tickets.take("st_anything")
    assert refused.value.reason is RefusalReason.TICKET_SPENT


async def test_while_the_store_is_away_a_ticket_is_neither_good_nor_spent() -> None:
    away = True

    def check() -> None:
        if away:
            raise BrokerUnavailable("away")

    tickets = Tickets(MemoryTickets(check=check))
    with pytest.raises(BrokerUnavailable):
        await tickets.issue("alice", [], b"", seconds=60, expires_at=None)
    away = False
    issued = await tickets.issue("alice", [], b"", seconds=60, expires_at=None)
    away = True
    with pytest.raises(KeyNotLoaded) as refused:
        await tickets.take(issued.ticket)
    assert refused.value.reason is RefusalReason.TICKETS_UNAVAILABLE
    away = False
    assert (await tickets.take(issued.ticket)).user == "alice"
