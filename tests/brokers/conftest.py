"""Started brokers over real servers, stopped again whatever the test did, and no task left behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from starling.brokers.open import open_broker
from tests.brokers.party import Party
from tests.support.local_server import LOCAL_URL, LocalServer
from tests.support.redis_cluster import RedisCluster
from tests.support.services import Server
from tests.support.waiting import DEADLINE, until

Opener = Callable[..., Awaitable[Party]]


@pytest.fixture
async def opener() -> AsyncIterator[Opener]:
    """`await opener(url)` starts a broker; with `up=False` it does not wait for the link.

    Those at `local://` meet at one server of the test's own. On Redis it is the user who may do what docs/redis.md says
    and nothing else, unless the URL names another.
    """
    tasks_before = asyncio.all_tasks()
    parties: list[Party] = []
    urls: set[str] = set()

    local = LocalServer()

    async def open_party(
        url: str, *, up: bool = True, timeout: float = DEADLINE, prefix: str = "starling", kind: type[Party] = Party
    ) -> Party:
        urls.add(url)
        if prefix == "starling":
            url = _limited(url)
        party = kind(
            local.broker(timeout=timeout) if url == LOCAL_URL else open_broker(url, timeout=timeout, prefix=prefix)
        )
        await party.broker.start(party)
        parties.append(party)
        if up:
            await until(lambda: party.up, "the link comes up")
        return party

    yield open_party
    await asyncio.gather(*(party.broker.stop() for party in parties))
    if urls - {"memory://", LOCAL_URL}:
        # Connections that were cut report their transports in the next turns of the loop.
        await asyncio.sleep(0.05)
    assert asyncio.all_tasks() - tasks_before - {asyncio.current_task()} == set()


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.processes) for name in ("redis", "postgres")])
def server(request: pytest.FixtureRequest) -> Server:
    """A server that two brokers can meet at."""
    made: Server = request.getfixturevalue(f"{request.param}_server")
    return made


@pytest.fixture(scope="session")
def cluster_installation() -> Iterator[RedisCluster]:
    """One cluster for all tests that harm none; use `redis_cluster` instead."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(cluster_installation: RedisCluster) -> RedisCluster:
    """A cluster of three masters without a key; the test must leave it as it is."""
    cluster_installation.flush()
    return cluster_installation


@pytest.fixture(
    params=[
        "memory",
        "local",
        *(pytest.param(name, marks=pytest.mark.processes) for name in ("redis", "cluster", "postgres")),
    ]
)
def url(request: pytest.FixtureRequest) -> str:
    """Where a broker of each kind connects to; that of `local` has what all links share, and no server."""
    if request.param == "memory":
        return "memory://"
    if request.param == "local":
        return LOCAL_URL
    if request.param == "cluster":
        cluster: RedisCluster = request.getfixturevalue("redis_cluster")
        return cluster.url
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server.url


@pytest.fixture(
    params=["memory", *(pytest.param(name, marks=pytest.mark.processes) for name in ("redis_server", "redis_cluster"))]
)
def store_url(request: pytest.FixtureRequest) -> str:
    """Where a broker that keeps history connects to."""
    found: str = "memory://" if request.param == "memory" else request.getfixturevalue(request.param).url
    return found


@pytest.fixture
async def pair(url: str, opener: Opener) -> tuple[Party, Party]:
    """Two brokers on one server, each with its own view; on memory, where nobody else is, the same one twice.

    A busy machine makes no call to the server fail.
    """
    here = await opener(url, timeout=DEADLINE)
    return here, here if url == "memory://" else await opener(url, timeout=DEADLINE)


def _limited(url: str) -> str:
    parts = urlsplit(url)
    limited = parts.scheme == "redis" and "@" not in parts.netloc
    return urlunsplit(parts._replace(netloc=f"starling:PASSWORD@{parts.netloc}")) if limited else url
