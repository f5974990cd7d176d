"""The map of a Redis cluster, and the master that sentinels name: what is made of their answers, right ones and others.

A fake answers, because a real cluster cannot be made to answer so; what it answers otherwise is in test_cluster.py and
test_sentinel.py.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from redis.asyncio.sentinel import MasterNotFoundError
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from starling.brokers.redis.cluster_map import SLOTS, ClusterMap, Node, slot_of
from starling.brokers.redis.sentinel import Sentinels
from starling.engine.broker import BrokerUnavailable

ONE, TWO, REPLICA = ("10.0.0.1", 7001), ("10.0.0.2", 7002), ("10.0.0.3", 7003)


def address(node: Node) -> list[object]:
    return [node[0].encode(), node[1], b"an id", []]


HALVES = [[0, 8191, address(ONE), address(REPLICA)], [8192, 16383, address(TWO)]]


async def read(answers: Mapping[Node, object], *seeds: Node) -> ClusterMap:
    """A map that was read of nodes that answer so."""
    found = ClusterMap(seeds)

    async def ask(node: Node) -> object:
        answer = answers[node]
        if isinstance(answer, Exception):
            raise answer
        return answer

    await found.refresh(ask)
    return found


async def test_every_slot_has_the_master_that_the_first_answer_names_and_replicas_may_be_asked_too() -> None:
    found = await read({ONE: HALVES}, ONE)
    assert (found.node_of(0), found.node_of(8191), found.node_of(8192), found.node_of(SLOTS - 1)) == (
        ONE,
        ONE,
        TWO,
        TWO,
    )
    assert found.is_whole
    assert found.masters == {ONE, TWO}
    assert found.nodes == {ONE, TWO, REPLICA}
    assert found.known.is_set()


async def test_a_node_that_does_not_know_its_own_address_is_at_the_one_that_it_was_asked_at() -> None:
    for nameless in (b"", None):
        found = await read({ONE: [[0, 16383, [nameless, 7001]]]}, ONE)
        assert found.masters == {ONE}


@pytest.mark.parametrize(
    "first", [BrokerUnavailable("away"), ResponseError("NOPERM"), [], "nonsense", None, [[0, 16384, address(ONE)], [1]]]
)
async def test_where_a_node_has_no_answer_of_use_the_next_one_is_asked(first: object) -> None:
    found = await read({ONE: first, TWO: HALVES}, ONE, TWO)
    assert found.is_whole


async def test_where_no_node_has_an_answer_of_use_the_last_ones_problem_is_reported() -> None:
    with pytest.raises(BrokerUnavailable, match=r"10\.0\.0\.2:7002 refused: NOPERM"):
        await read({ONE: BrokerUnavailable("away"), TWO: ResponseError("NOPERM")}, ONE, TWO)
    with pytest.raises(BrokerUnavailable, match=r"10\.0\.0\.1:7001 knows no node that serves a slot"):
        await read({ONE: []}, ONE)


async def test_a_cluster_that_lacks_slots_is_not_whole() -> None:
    found = await read({ONE: HALVES[:1]}, ONE)
    assert not found.is_whole
    assert found.node_of(16383) is None


async def test_a_slot_that_moved_is_at_its_new_node_at_once_and_the_map_counts_as_outdated() -> None:
    found = await read({ONE: HALVES}, ONE)
    found.moved(5, ONE)
    assert not found.outdated.is_set()
    found.moved(5, TWO)
    assert found.outdated.is_set()
    assert (found.node_of(4), found.node_of(5)) == (ONE, TWO)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "a"), b"a"),
        (("SPUBLISH", b"starling:{room}", b"x"), b"room"),
        ((b"EVALSHA", "sha", 2, b"k:{x}:1", b"k:{x}:2"), b"x"),
        (("GET", 7), b"7"),
        ((b"EVALSHA", "sha", 0), None),
        (("INFO", "server"), None),
        (("CLUSTER", "SLOTS"), None),
        (("PING",), None),
    ],
)
def test_a_command_goes_to_the_slot_of_its_first_key(command: tuple[Any, ...], key: bytes | None) -> None:
    assert slot_of(command) == (None if key is None else key_slot(key))


# Sentinels


class Sentinel:
    """One that answers so; an Event is set before it ever answers."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def sentinel_masters(self) -> object:
        if isinstance(self._answer, asyncio.Event):
            await self._answer.wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def master(node: Node, epoch: int, **state: bool) -> dict[str, Any]:
    flags = {"is_master": True, "is_sdown": False, "is_odown": False, "num-other-sentinels": 2} | state
    return {"main": {"ip": node[0], "port": node[1], "config-epoch": epoch, **flags}}


async def discover(*answers: object) -> tuple[str, int]:
    sentinels = Sentinels([])
    asked: list[Any] = [Sentinel(answer) for answer in answers]
    sentinels.sentinels = asked
    return await sentinels.discover_master("main")


async def test_the_sentinel_that_knows_the_latest_election_is_believed() -> None:
    cut_off, others = master(ONE, 4), master(TWO, 5)
    assert await discover(cut_off, others, others) == TWO
    assert await discover(others, cut_off, RedisConnectionError("away")) == TWO


async def test_a_frozen_sentinel_is_not_waited_for_where_most_have_answered() -> None:
    async with asyncio.timeout(60):
        assert await discover(asyncio.Event(), master(ONE, 1), master(ONE, 1)) == ONE


async def test_without_a_sentinel_that_names_the_master_each_problem_is_reported_once() -> None:
    with pytest.raises(MasterNotFoundError, match="no sentinel names a master 'main': away, it is not among those"):
        await discover(RedisConnectionError("away"), {}, RedisConnectionError("away"))


async def test_a_master_that_the_sentinels_hold_for_down_is_none() -> None:
    with pytest.raises(MasterNotFoundError, match="hold the master 'main' for down"):
        await discover(master(ONE, 1, is_sdown=True), master(ONE, 1, is_odown=True))
