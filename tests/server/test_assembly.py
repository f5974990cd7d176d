"""What a peer's frames become, and what they may cost, without any socket."""

import pytest
from websockets.frames import Frame, Opcode

from app.server.assembly import CONTROL_BURST, CONTROL_PER_SECOND, MessageAssembler, PeerError


def test_fragments_become_one_message_of_the_first_ones_kind() -> None:
    assembler = MessageAssembler(max_fragments=8)
    assert assembler.take_data(Frame(Opcode.TEXT, b"\xc3", fin=False), now=0) is None
    assert assembler.take_data(Frame(Opcode.CONT, b"", fin=False), now=0) is None
    assert assembler.take_data(Frame(Opcode.CONT, b"\xbc"), now=0) == "ü"
    assert assembler.take_data(Frame(Opcode.BINARY, b"\xc3", fin=False), now=0) is None
    assert assembler.take_data(Frame(Opcode.CONT, b"\xbc"), now=0) == b"\xc3\xbc"


def test_empty_messages_are_messages() -> None:
    assembler = MessageAssembler(max_fragments=8)
    assert assembler.take_data(Frame(Opcode.TEXT, b""), now=0) == ""
    assert assembler.take_data(Frame(Opcode.BINARY, b""), now=0) == b""


def test_control_frames_in_time_cost_nothing_and_a_burst_is_refused_until_time_has_passed() -> None:
    assembler = MessageAssembler(max_fragments=8)
    for number in range(10_000):
        assembler.spend_control(number / CONTROL_PER_SECOND)
    now = 10_000 / CONTROL_PER_SECOND
    for _ in range(int(CONTROL_BURST)):
        assembler.spend_control(now)
    with pytest.raises(PeerError) as refused:
        assembler.spend_control(now)
    assert refused.value.code == 1008
    assembler.spend_control(now + 1)
