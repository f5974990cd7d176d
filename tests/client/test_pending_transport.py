"""What stands in the place of a socket until a request is answered: accepted, refused, or left by its client."""

import asyncio

import pytest

from starling.client import pending_transport
from starling.client.pending_transport import PendingTransport
from starling.protocol.codes import DISCONNECT_CONNECTION_CLOSED, DISCONNECT_SHUTDOWN, Disconnect, Error
from starling.protocol.messages import Batch, Frame
from tests.support.fake_receivers import RecordingTransport
from tests.support.waiting import until


class Answers:
    """Records how the request is answered, and how the connection ends."""

    def __init__(self) -> None:
        self.given: list[str | Error | Disconnect] = []
        self.closed: list[tuple[int, str]] = []

    def accept(self) -> None:
        self.given.append("accepted")

    def refuse(self, reason: Error | Disconnect) -> None:
        self.given.append(reason)

    def on_close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


class Socket(RecordingTransport):
    """A socket that counts its pings, and has replies waiting."""

    pings = 0
    replies_wait = True

    def ping(self) -> None:
        self.pings += 1


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def pending(answers: Answers) -> PendingTransport:
    return PendingTransport(answers, answers.on_close)


def frame(number: int) -> Frame:
    return Frame(b"%d" % number, text=True)


async def test_what_is_sent_before_there_is_a_socket_is_sent_first_once_there_is(
    pending: PendingTransport, answers: Answers
) -> None:
    pending.send_frame(frame(1))
    pending.send_batch(Batch([frame(2)]))
    pending.ping()
    pending.pause_reading()
    pending.resume_reading()
    assert (pending.replies_wait, pending.takes_replies()) == (False, True)
    pending.accept()
    pending.accept()
    socket = Socket()
    pending.take_over(socket)
    pending.queue_batch(Batch([frame(3)]))

    assert socket.payloads == [b"1", b"2", b"3"]
    assert answers.given == ["accepted"]
    assert not pending.refuse(DISCONNECT_SHUTDOWN)


async def test_with_a_socket_everything_is_as_the_socket_does(pending: PendingTransport, answers: Answers) -> None:
    socket = Socket()
    pending.accept()
    pending.take_over(socket)
    pending.ping()
    pending.pause_reading()
    assert (socket.pings, socket.reading) == (1, False)
    pending.resume_reading()
    assert socket.reading
    assert (pending.replies_wait, pending.takes_replies()) == (True, False)
    pending.close(3001, "over")
    assert socket.closed_with == (3001, "over")
    assert answers.closed == []


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        (DISCONNECT_SHUTDOWN.code, Disconnect(DISCONNECT_SHUTDOWN.code, "why")),
        (1006, DISCONNECT_CONNECTION_CLOSED),
    ],
)
async def test_a_close_before_the_response_is_a_refusal(
    pending: PendingTransport, answers: Answers, code: int, refusal: Disconnect
) -> None:
    pending.send_frame(frame(1))
    pending.close(code, "why")
    await until(lambda: answers.closed == [(code, "why")], "the end is reported")
    assert answers.given == [refusal]


async def test_an_accepted_client_whose_socket_does_not_come_has_left(
    pending: PendingTransport, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_transport, "OPEN_SECONDS", 0.01)
    pending.accept()
    await until(lambda: answers.closed == [(1006, "")], "the end is reported")


async def test_one_that_is_closed_while_its_socket_is_awaited_ends_once(
    pending: PendingTransport, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_transport, "OPEN_SECONDS", 0.05)
    pending.accept()
    pending.close(DISCONNECT_SHUTDOWN.code, "stop")
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, over.set)
    await over.wait()
    assert answers.closed == [(DISCONNECT_SHUTDOWN.code, "stop")]
    assert answers.given == ["accepted"]
