"""Both stores of revocations keep the same promises."""

import time

import pytest
import redis as redis_client

from starling.brokers.memory.revocations import MemoryRevocations
from starling.engine.broker import BrokerUnavailable
from starling.engine.revocation import Revocation, RevocationStore
from tests.brokers.conftest import Opener
from tests.support.services import RedisServer


def until(seconds: float, kind: str = "token", name: str = "t") -> Revocation:
    return Revocation(kind, name, time.time() + seconds)  # type: ignore[arg-type]


@pytest.fixture(
    params=["memory", *(pytest.param(name, marks=pytest.mark.processes) for name in ("redis_server", "redis_cluster"))]
)
async def store(request: pytest.FixtureRequest, opener: Opener) -> RevocationStore:
    if request.param == "memory":
        return MemoryRevocations()
    party = await opener(request.getfixturevalue(request.param).url)
    assert party.broker.revocations is not None
    return party.broker.revocations


async def test_an_empty_store_has_version_nought(store: RevocationStore) -> None:
    assert await store.version() == 0
    assert (await store.load()).revocations == []


async def test_what_is_added_is_kept_and_each_moves_the_version(store: RevocationStore) -> None:
    end = time.time() + 60
    given = [
        Revocation("token", "t", end),
        Revocation("session", "s", end),
        Revocation("user", "ü {x}", end, 100.5),
        Revocation("user", "ü {x}", end, 100.5, "room"),
    ]

    assert await store.add(given[:1]) == 1
    assert await store.add(given[1:]) == 4

    stored = await store.load()
    assert stored.version == await store.version() == 4
    assert sorted(stored.revocations, key=repr) == sorted(given, key=repr)


async def test_to_add_one_again_is_nothing(store: RevocationStore) -> None:
    revocation = until(60)

    assert await store.add([revocation]) == 1
    assert await store.add([revocation]) == 1

    assert (await store.load()).revocations == [revocation]


async def test_of_two_ends_the_later_one_counts(store: RevocationStore) -> None:
    early, late = until(60), until(600)

    await store.add([early, late])
    await store.add([early])

    assert (await store.load()).revocations == [late]


async def test_a_second_moment_of_one_user_is_kept_next_to_the_first(store: RevocationStore) -> None:
    end = time.time() + 60
    await store.add([Revocation("user", "u", end, 100.0), Revocation("user", "u", end, 200.0)])

    assert {one.issued_before for one in (await store.load()).revocations} == {100.0, 200.0}


async def test_what_has_expired_goes_with_the_next_addition(store: RevocationStore) -> None:
    await store.add([until(-1, name="old"), until(60, name="new")])
    await store.add([until(60, name="newer")])

    assert {one.id for one in (await store.load()).revocations} == {"new", "newer"}


async def test_thousands_are_added_and_read(store: RevocationStore) -> None:
    end = time.time() + 60

    version = await store.add([Revocation("token", f"token-{number}", end) for number in range(2500)])

    stored = await store.load()
    assert (version, stored.version, len(stored.revocations)) == (2500, 2500, 2500)


async def test_what_another_put_there_is_passed_over(opener: Opener, redis_server: RedisServer) -> None:
    party = await opener(redis_server.url)
    store = party.broker.revocations
    assert store is not None
    await store.add([until(60, name="good")])
    with redis_client.Redis.from_url(redis_server.url) as plain:
        plain.hset("starling:{revoked}:entries", "bad", "{")

    assert [one.id for one in (await store.load()).revocations] == ["good"]


async def test_a_redis_that_is_away_is_reported_in_bounded_time(opener: Opener, redis_server: RedisServer) -> None:
    party = await opener(redis_server.url, timeout=0.3)
    store = party.broker.revocations
    assert store is not None
    redis_server.freeze()

    for call in (store.add([until(60)]), store.load(), store.version()):
        with pytest.raises(BrokerUnavailable):
            await call
