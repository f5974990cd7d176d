"""Recoveries that many clients share: each gets the same bytes as if they were encoded for it alone."""

from collections.abc import Callable

import pytest
from msgspec import Raw

from starling.client.shared_recoveries import MOST_SHARED, SharedRecoveries
from starling.protocol.codec import Codec
from starling.protocol.codec_json import JsonCodec
from starling.protocol.codec_protobuf import ProtobufCodec
from starling.protocol.codes import CommandRefused
from starling.protocol.messages import ClientInfo, ConnectResult, Publication, Reply, SubscribeResult


def missed(*payloads: bytes) -> list[Publication]:
    info = ClientInfo("alice", "c1", Raw(b'{"name":"A"}'))
    return [
        Publication(Raw(payload), info if number % 2 else None, number + 1, {"kind": "x"})
        for number, payload in enumerate(payloads)
    ]


def subscribed(publications: list[Publication]) -> Reply:
    return Reply(2, subscribe=SubscribeResult(publications=publications, recovered=True, epoch="e", offset=3))


def connected(publications: list[Publication]) -> Reply:
    subs = {"news": SubscribeResult(publications=publications), "empty": SubscribeResult()}
    return Reply(1, connect=ConnectResult(client="c1", version="1", subs=subs))


@pytest.mark.parametrize("reply", [subscribed, connected])
@pytest.mark.parametrize("codec", [JsonCodec(), ProtobufCodec()], ids=["json", "protobuf"])
def test_every_client_gets_what_it_would_get_alone(codec: Codec, reply: Callable[[list[Publication]], Reply]) -> None:
    publications = missed(b'{"a": 1}', b"2", b'[\n"three"]')
    alone = codec.encode(reply(publications))
    recoveries = SharedRecoveries()
    for _ in range(3):
        shared = recoveries.share("news", [*publications])
        message = reply(shared)
        assert codec.encode(message) == alone
        result = message.subscribe or message.connect.subs["news"]  # type: ignore[union-attr]
        assert result.publications is shared, "the reply is as it was, for captures"
    assert shared == publications
    assert recoveries.share("news", [*publications]) is shared


def test_a_client_at_another_position_gets_its_own() -> None:
    recoveries, publications = SharedRecoveries(), missed(b"1", b"2", b"3")
    whole = recoveries.share("news", publications)
    assert recoveries.share("news", publications[1:]) == publications[1:]
    assert recoveries.share("other", publications) is not whole
    # The same offsets, in a stream that began anew.
    again = missed(b"4", b"5", b"6")
    assert [bytes(each.data) for each in recoveries.share("news", again)] == [b"4", b"5", b"6"]
    assert recoveries.share("news", []) == []


def test_what_no_json_client_can_read_is_refused_and_left_out_for_each() -> None:
    codec, recoveries, publications = JsonCodec(), SharedRecoveries(), missed(b"1", b"{", b"3")
    for _ in range(2):
        message = subscribed(recoveries.share("news", publications))
        with pytest.raises(CommandRefused):
            codec.encode(message)
        assert codec.leave_out_unreadable(message) == 1
        assert b'"data":1' in codec.encode(message)
        assert b'"data":3' in codec.encode(message)
    assert b"{" in ProtobufCodec().encode(subscribed(recoveries.share("news", publications)))


def test_few_recoveries_are_kept() -> None:
    recoveries = SharedRecoveries()
    for number in range(MOST_SHARED + 3):
        recoveries.share(f"news:{number}", missed(b"1"))
    assert len(recoveries) == MOST_SHARED
