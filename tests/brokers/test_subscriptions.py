"""Request and the server's state become one, whatever the order in which requests, answers and losses come."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from starling.brokers.subscriptions import LinkSubscriptions

channels = st.sampled_from("abcd")


class ServerModel(RuleBasedStateMachine):
    """A server that subscribes what it is asked, when its turn comes, and forgets all when the link is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.subscriptions = LinkSubscriptions()
        self.requested: set[str] = set()
        self.server: set[str] = set()
        self.request: list[str] = []

    @rule(channel=channels)
    def want(self, channel: str) -> None:
        self.subscriptions.want(channel)
        self.requested.add(channel)

    @rule(channel=channels)
    def take_back(self, channel: str) -> None:
        self.subscriptions.drop(channel)
        self.requested.discard(channel)

    @rule(most=st.integers(1, 3))
    def ask(self, most: int) -> None:
        if not self.request:
            self.request = self.subscriptions.next_missing(most)

    @rule()
    def answer(self) -> None:
        self.server.update(self.request)
        self.subscriptions.acknowledged(self.request)
        self.request = []

    @rule(most=st.integers(1, 3))
    def unsubscribe(self, most: int) -> None:
        if not self.request:
            self.server.difference_update(self.subscriptions.next_surplus(most))

    @rule()
    def lose_the_link(self) -> None:
        self.server.clear()
        self.request = []
        self.subscriptions.link_lost()

    @rule()
    def settle(self) -> None:
        self.answer()
        while self.request or (missing := self.subscriptions.next_missing(2)):
            self.request = missing
            self.answer()
        while surplus := self.subscriptions.next_surplus(2):
            self.server.difference_update(surplus)
        assert self.server == self.requested == self.subscriptions.wanted

    @invariant()
    def what_counts_as_acknowledged_is_subscribed(self) -> None:
        for channel in self.requested:
            if self.loop.run_until_complete(self.subscriptions.wait(channel, 0)):
                assert channel in self.server

    def teardown(self) -> None:
        self.loop.close()


TestServerModel = ServerModel.TestCase
TestServerModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


async def test_several_may_wait_for_one_channel() -> None:
    subscriptions = LinkSubscriptions()
    subscriptions.want("room")
    waiting = [asyncio.ensure_future(subscriptions.wait("room", 5)) for _ in range(3)]
    await asyncio.sleep(0)
    subscriptions.acknowledged(subscriptions.next_missing(10))
    assert await asyncio.gather(*waiting) == [True, True, True]


async def test_a_request_that_is_withdrawn_releases_those_who_wait() -> None:
    subscriptions = LinkSubscriptions()
    subscriptions.want("room")
    waiting = asyncio.ensure_future(subscriptions.wait("room", 5))
    await asyncio.sleep(0)
    subscriptions.drop("room")
    assert await waiting is False
