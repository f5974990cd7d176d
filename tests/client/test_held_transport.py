"""What is held back for a client that is not connected yet, and its bound."""

from starling.client.held_transport import HELD_BYTES, HeldTransport
from starling.protocol.messages import Batch, Frame
from tests.support.fake_receivers import RecordingTransport


def test_what_was_held_is_sent_in_its_order_at_the_release() -> None:
    transport, overflows = RecordingTransport(), list[None]()
    held = HeldTransport(transport, lambda: overflows.append(None))
    held.send_frame(Frame(b"1", text=True))
    held.send_batch(Batch([Frame(b"2", text=True), Frame(b"3", text=True)]))
    assert transport.payloads == []

    held.release()

    assert (transport.payloads, overflows) == ([b"1", b"2", b"3"], [])


def test_a_client_that_is_not_connected_while_much_is_published_is_too_slow_once() -> None:
    transport, overflows = RecordingTransport(), list[None]()
    held = HeldTransport(transport, lambda: overflows.append(None))
    quarter = Frame(b"x" * (HELD_BYTES // 4), text=True)
    held.queue_batch(Batch([quarter] * 4))
    assert overflows == []
    for _ in range(3):
        held.send_frame(quarter)

    assert len(overflows) == 1
    held.close(3008, "slow")
    held.release()
    assert (transport.payloads, transport.closed_with) == ([], (3008, "slow"))
