"""Regular expressions for channel names that one name could stop a worker with."""

import re
import signal
import threading
import time

import pytest

from starling.engine.channel_pattern import slow_name
from starling.engine.channels import ChannelsError
from starling.engine.channels_document import parse_channels


@pytest.mark.parametrize(
    "expression",
    [
        r"^(a+)+$",
        r"^(a*)*$",
        r"^(a|a)+$",
        r"^(a|aa)+$",
        r"^([a-z]+)*$",
        r"^(\w+\s?)*$",
        r"^([0-9]+)+x$",
        r"^user-(q+)+$",
        r"(x+x+)+y",
        r"^(.*)*:(.*)*$",
        r"^(ab|ba|a|b)*$",
        r"^([A-Za-z0-9]+-?)+$",
        r"^(\d+\.?)+$",
        r"^([^/]+)+$",
        r"^(?:[\u4e00-\u9fff]+)+$",
        r"^x{3}-(?:[m-p]+)+$",
        r"^user-([0-9]+,)*([0-9]+,)*([0-9]+,)*([0-9]+,)*$",
        r"^(q.r)+(q.r)+(q.r)+(q.r)+z$",
        r"(?i)^(room|[^@]+@)(?P<rest>(?:[K]|\x4b)+)+$",
        # Instant for every name that is shorter than the shortest slow one.
        r"^(a{1,255}){255}$",
        r"^(?:[a-z]+){64}$",
        r"^(?=.{40})(a+)+$",
    ],
)
def test_an_expression_with_a_name_that_takes_long_is_found_at_once_and_refused(expression: str) -> None:
    began = time.thread_time()
    assert slow_name(re.compile(expression)) is not None
    assert time.thread_time() - began < 2.0

    with pytest.raises(ChannelsError, match=r"namespaces\.rx: channel_regex takes over 10 ms"):
        parse_channels({"namespaces": {"rx": {"channel_regex": expression}}}, developer=False)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        r"^[0-9]+$",
        r"^box#",
        r"^[a-z0-9-]+$",
        r"^(?:room|lobby)-\d{1,9}$",
        r"^[A-Z]+(-[A-Z]+)*$",
        r".*",
        r"^\w+:\w+$",
        r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$",
        r"^([\w-]+\.)*[\w-]+$",
        r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        r"^(?!admin)(?#no staff)(?P<q>[^]a]+)(?P=q)?$",
    ],
)
def test_ordinary_expressions_pass(expression: str) -> None:
    assert slow_name(re.compile(expression)) is None
    parse_channels({"namespaces": {"rx": {"channel_regex": expression}}}, developer=False)


def test_the_signal_that_interrupts_a_search_is_given_back() -> None:
    def own(_: int, __: object) -> None:
        """Handle what a test does not raise."""

    before = signal.signal(signal.SIGVTALRM, own)
    try:
        assert slow_name(re.compile(r"^(?=.{40})(a+)+$")) is not None
        assert signal.getsignal(signal.SIGVTALRM) is own
        assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGVTALRM, before)


def test_outside_of_the_main_thread_an_expression_is_tried_without_signals() -> None:
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(slow_name(re.compile(r"^(a+)+$"))))
    thread.start()
    thread.join()
    assert found != [None]
