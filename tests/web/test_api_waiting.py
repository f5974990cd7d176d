"""Publications that wait while the broker is away: as long as they were asked to, and no more of them than may."""

import pytest

from starling.engine.broker import BrokerUnavailable
from starling.web import api_waiting
from starling.web.api_waiting import Waiting, waiting_key


class Broker:
    """Away for its first `times` publications."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.asked = 0

    async def publish(self) -> str:
        self.asked += 1
        if self.asked <= self.times:
            raise BrokerUnavailable("away")
        return "stored"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_waiting, "PAUSE_SECONDS", 0.001)


async def test_a_publication_that_waits_is_stored_when_the_broker_is_back() -> None:
    broker = Broker(3)
    assert await Waiting().until_stored(broker.publish, 60) == "stored"
    assert broker.asked == 4


async def test_one_that_does_not_wait_is_tried_once() -> None:
    broker = Broker(1)
    with pytest.raises(BrokerUnavailable):
        await Waiting().until_stored(broker.publish, 0)
    assert broker.asked == 1


async def test_one_whose_time_is_over_has_failed() -> None:
    with pytest.raises(BrokerUnavailable, match="away"):
        await Waiting().until_stored(Broker(10**9).publish, 0.01)


async def test_beyond_the_limit_none_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_waiting, "WAITING_LIMIT", 0)
    broker = Broker(1)
    with pytest.raises(BrokerUnavailable):
        await Waiting().until_stored(broker.publish, 60)
    assert broker.asked == 1


def test_each_publication_that_waits_has_a_key_of_its_own() -> None:
    assert len({waiting_key() for _ in range(100)}) == 100
