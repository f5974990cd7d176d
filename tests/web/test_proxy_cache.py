"""Subscribe answers that are kept by user and channel."""

import asyncio

import pytest

from starling.protocol.codes import (
    DISCONNECT_PERMISSION_DENIED,
    ERROR_INTERNAL,
    ERROR_PERMISSION_DENIED,
    CommandRefused,
    Disconnect,
    Error,
)
from starling.web.proxy_cache import MOST_ANSWERS, ProxyCache

KEY = ("alice", "chat:1")


class Backend:
    """Counts what it is asked, and waits while `free` is not set."""

    def __init__(self) -> None:
        self.asked = 0
        self.refusal: Error | Disconnect | None = None
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self) -> int:
        self.asked += 1
        number = self.asked
        await self.free.wait()
        if self.refusal is not None:
            raise CommandRefused(self.refusal)
        return number


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def cache(now: list[float]) -> ProxyCache[int]:
    return ProxyCache(lambda: now[0])


@pytest.fixture
async def backend() -> Backend:
    return Backend()


async def test_an_answer_is_kept_for_its_seconds_and_no_longer(
    cache: ProxyCache[int], backend: Backend, now: list[float]
) -> None:
    assert await cache.get(KEY, 5, backend) == (1, False)
    now[0] += 4.9
    assert await cache.get(KEY, 5, backend) == (1, True)
    now[0] += 0.2
    assert await cache.get(KEY, 5, backend) == (2, False)


@pytest.mark.parametrize("other", [("bob", "chat:1"), ("alice", "chat:2")])
async def test_another_user_or_channel_is_asked_about_anew(
    cache: ProxyCache[int], backend: Backend, other: tuple[str, str]
) -> None:
    await cache.get(KEY, 5, backend)

    assert await cache.get(other, 5, backend) == (2, False)


async def test_requests_at_the_same_time_are_one_and_survive_the_first_of_them(
    cache: ProxyCache[int], backend: Backend
) -> None:
    backend.free.clear()
    first, second, third = (asyncio.create_task(cache.get(KEY, 5, backend)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait((first,))
    backend.free.set()

    assert [await second, await third] == [(1, True), (1, True)]
    assert backend.asked == 1


async def test_a_refusal_is_kept(cache: ProxyCache[int], backend: Backend) -> None:
    backend.refusal = ERROR_PERMISSION_DENIED
    for _ in range(2):
        with pytest.raises(CommandRefused) as refused:
            await cache.get(KEY, 5, backend)
        assert refused.value.reason == ERROR_PERMISSION_DENIED

    assert backend.asked == 1


@pytest.mark.parametrize("refusal", [ERROR_INTERNAL, DISCONNECT_PERMISSION_DENIED])
async def test_what_is_temporary_or_ends_a_connection_is_not_kept(
    cache: ProxyCache[int], backend: Backend, refusal: Error | Disconnect
) -> None:
    backend.refusal = refusal
    with pytest.raises(CommandRefused):
        await cache.get(KEY, 5, backend)
    backend.refusal = None

    assert await cache.get(KEY, 5, backend) == (2, False)


async def test_the_oldest_answers_are_dropped_where_there_are_too_many(
    cache: ProxyCache[int], backend: Backend
) -> None:
    for number in range(MOST_ANSWERS + 1):
        await cache.get(("alice", f"chat:{number}"), 60, backend)

    assert len(cache) == MOST_ANSWERS
    assert (await cache.get(("alice", "chat:0"), 60, backend))[1] is False
    assert (await cache.get(("alice", f"chat:{MOST_ANSWERS}"), 60, backend))[1] is True
