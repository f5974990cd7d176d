"""Agents in presence over the stores of two processes: joins, renewals and leaves, each published once."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from msgspec import Raw

from starling.engine.agents import Agents
from starling.engine.channels import ChannelOptions
from starling.engine.presence import PresenceCounts
from starling.protocol.codes import CommandRefused
from starling.protocol.messages import ClientInfo
from tests.brokers.conftest import Opener
from tests.brokers.party import Party
from tests.support.waiting import until

ROOM = "room"
SHOWN = ChannelOptions(presence=True, join_leave=True)
BOT = ClientInfo("bot", "agent:bot", Raw(b'{"a":1}'))


class Processes:
    """Two processes of one service, each with its agents, and one of them listening in the room."""

    def __init__(self, parties: list[Party]) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.listener = parties[0]
        self.agents = [
            Agents(party.broker.presence, party.broker, start_task=self.start) for party in (parties[0], parties[-1])
        ]

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def shown(self) -> dict[str, ClientInfo]:
        assert self.listener.broker.presence is not None
        return await self.listener.broker.presence.get(ROOM)

    async def stats(self) -> PresenceCounts:
        assert self.listener.broker.presence is not None
        return await self.listener.broker.presence.stats(ROOM)


@pytest.fixture
async def processes(store_url: str, opener: Opener) -> Processes:
    parties = [await opener(store_url)]
    if store_url != "memory://":
        parties.append(await opener(store_url))
    await parties[0].broker.subscribe(ROOM)
    return Processes(parties)


async def test_an_agent_is_shown_and_counted_and_its_join_is_published(processes: Processes) -> None:
    first, _ = processes.agents
    await first.set(ROOM, "bot", BOT.conn_info, 60, SHOWN)

    await until(lambda: processes.listener.joins == [(ROOM, BOT)])
    assert await processes.shown() == {"agent:bot": BOT}
    assert await processes.stats() == PresenceCounts(1, 1)
    first.stop()


async def test_a_second_set_renews_whatever_process_it_reaches(processes: Processes) -> None:
    first, second = processes.agents
    await first.set(ROOM, "bot", BOT.conn_info, 0.05, SHOWN)
    await second.set(ROOM, "bot", Raw(b"2"), 60, SHOWN)
    renewed = ClientInfo("bot", "agent:bot", Raw(b"2"))
    # The first process looks after its own end, finds that it has been put off, and then joins and leaves another.
    await first.set(ROOM, "other", Raw(b""), 0.1, SHOWN)

    await until(lambda: [info.user for _, info in processes.listener.leaves] == ["other"])
    assert [info.user for _, info in processes.listener.joins] == ["bot", "other"]
    assert await processes.shown() == {"agent:bot": renewed}
    second.stop()


async def test_the_leave_of_an_agent_is_published_once_when_its_time_is_over(processes: Processes) -> None:
    first, second = processes.agents
    await first.set(ROOM, "bot", BOT.conn_info, 0.1, SHOWN)
    await second.set(ROOM, "bot", BOT.conn_info, 0.1, SHOWN)
    await first.set(ROOM, "last", Raw(b""), 0.5, SHOWN)

    await until(lambda: any(info.user == "last" for _, info in processes.listener.leaves))
    assert [info.user for _, info in processes.listener.leaves] == ["bot", "last"]
    assert await processes.shown() == {}


async def test_unset_takes_an_agent_out_once_whatever_process_set_it(processes: Processes) -> None:
    first, second = processes.agents
    await first.set(ROOM, "bot", BOT.conn_info, 60, SHOWN)
    await second.unset(ROOM, "bot", SHOWN)
    await first.unset(ROOM, "bot", SHOWN)
    await first.set(ROOM, "last", Raw(b""), 60, SHOWN)

    await until(lambda: len(processes.listener.joins) == 2)
    assert processes.listener.leaves == [(ROOM, BOT)]
    assert list(await processes.shown()) == ["agent:last"]
    first.stop()


async def test_a_client_of_the_same_user_stays_when_its_agent_goes(processes: Processes) -> None:
    first, second = processes.agents
    presence = processes.listener.broker.presence
    assert presence is not None
    await presence.add(ROOM, ClientInfo("bot", "c1"))
    await first.set(ROOM, "bot", BOT.conn_info, 60, SHOWN)

    assert await processes.stats() == PresenceCounts(2, 1)
    await second.unset(ROOM, "bot", SHOWN)
    assert await processes.stats() == PresenceCounts(1, 1)
    await until(lambda: [info for _, info in processes.listener.leaves] == [BOT])
    first.stop()


async def test_a_channel_without_joins_shows_agents_in_silence(processes: Processes) -> None:
    first, _ = processes.agents
    quiet = ChannelOptions(presence=True)
    await first.set(ROOM, "bot", BOT.conn_info, 60, quiet)
    await first.unset(ROOM, "bot", quiet)
    await first.set(ROOM, "bot", BOT.conn_info, 60, SHOWN)

    await until(lambda: processes.listener.joins == [(ROOM, BOT)])
    assert processes.listener.leaves == []
    first.stop()


async def test_without_presence_an_agent_is_refused(processes: Processes) -> None:
    with pytest.raises(CommandRefused) as refused:
        await processes.agents[0].set(ROOM, "bot", Raw(b""), 60, ChannelOptions())

    assert refused.value.reason.code == 108
