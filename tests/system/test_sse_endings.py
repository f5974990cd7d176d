"""How streams of readers end: they are too slow, they are gone, or their process ends."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from starling.auth.issue import issue_connection_token
from tests.support.running import SECRET, Starling
from tests.support.streams import EventStream, get
from tests.web.test_sse import Served, settings

pytestmark = pytest.mark.processes
ADDRESSES = {"one": "/sse/kept:slow", "several": "/sse?channel=kept:slow&channel=news"}


@pytest.fixture(scope="module")
def starling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    environment = settings(tmp_path_factory.mktemp("endings"))
    with Starling({**environment, "STARLING_WRITE_BUFFER_BYTES": "65536"}) as running:
        yield running


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=list(ADDRESSES))
def test_a_reader_that_is_too_slow_is_disconnected_and_resumes(starling: Starling, address: str) -> None:
    served = Served(starling.port)
    slow = EventStream(served.port, get(address, served.bearer), receive_buffer=4096).opened()
    count, last = 60, slow.reader.last_event_id
    for number in range(count):
        served.publish("kept:slow", [number, "x" * 50_000])
    assert starling.reported("client_disconnected", code=3008, transport="event_stream")
    got: list[int] = []
    with slow.socket:
        try:
            while True:
                event = slow.event()
                if event.type == "message":
                    got.append(json.loads(event.data)[0])
                    last = event.last_event_id
        except (EOFError, OSError):
            pass
    assert got == list(range(len(got)))
    assert len(got) < count
    with served.open(address, f"Last-Event-ID: {last}") as again:
        assert [each[0] for each in again.data(count - len(got))] == list(range(len(got), count))


def test_a_returning_reader_that_takes_nothing_is_disconnected_too(starling: Starling) -> None:
    served = Served(starling.port)
    for number in range(60):
        served.publish("kept:past", [number, "x" * 50_000])
    bearer = f"Authorization: Bearer {issue_connection_token(SECRET, 'sleeper', 60)}"
    address = "/sse?channel=kept:past&channel=kept:other&since=0"
    with EventStream(served.port, get(address, bearer), receive_buffer=4096).socket:
        assert starling.reported("client_disconnected", code=3008, user="sleeper")


def test_a_reader_that_is_gone_is_counted_no_more(starling: Starling) -> None:
    served = Served(starling.port)
    bearer = f"Authorization: Bearer {issue_connection_token(SECRET, 'gone', 60)}"
    served.open("/sse/kept:gone", bearer, token=False).socket.close()
    (end,) = starling.reported("client_disconnected", transport="event_stream", user="gone")
    assert (end["code"], end["reason"]) == (3000, "connection closed")


def test_the_end_of_the_process_is_the_last_event_of_every_stream(starling: Starling) -> None:
    served = Served(starling.port)
    with ExitStack() as stack:
        streams = [stack.enter_context(served.open(address)) for address in (*ADDRESSES.values(), "/sse/news")]
        starling.process.terminate()
        for stream in streams:
            event = stream.event()
            assert event.type == "disconnect"
            assert json.loads(event.data) == {"code": 3001, "reason": "shutdown", "reconnect": True}
            with pytest.raises(EOFError):
                stream.event()
            assert stream.ended, "with the last chunk"
