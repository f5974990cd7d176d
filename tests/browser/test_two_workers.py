"""Tabs whose connections are held by different worker processes chat as if there were one."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.browser.tab import Tab
from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.support.waiting import DEADLINE


@pytest.fixture
def service(redis_server: RedisServer) -> Iterator[Starling]:
    settings = {"STARLING_DEV": "true", "STARLING_WORKERS": "2", "STARLING_BROKER_URL": redis_server.url}
    with Starling(settings) as service:
        yield service


def worker_of(service: Starling, tab: Tab) -> int:
    """Process id of the worker that holds the tab's chat connection, from the service's log, which comes a bit late."""
    client_id = int(tab.client_id)
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        for line in service.lines:
            if line["event"] == "client_connected" and line.get("client_id") == client_id:
                return int(line["pid"])
        time.sleep(0.02)
    raise AssertionError(f"no log line tells of client {client_id}")


def test_tabs_on_two_workers_chat_over_redis(service: Starling, open_tab: Callable[[str], Tab]) -> None:
    tabs: list[Tab] = []
    workers: set[int] = set()
    while len(workers) < 2:
        assert len(tabs) < 20, "every tab met the same worker"
        tabs.append(open_tab(service.http))
        tabs[-1].chat.expect_state("Open")
        workers.add(worker_of(service, tabs[-1]))
    one, other = tabs[0], tabs[-1]

    one.chat.send("hello")
    hello = f"Client #{one.client_id} says: hello"
    one.chat.expect_messages("You wrote: hello", hello)
    for tab in tabs[1:]:
        tab.chat.expect_messages(hello)

    gone = other.client_id
    other.page.close()
    one.chat.expect_messages("You wrote: hello", hello, f"Client #{gone} left the chat")
