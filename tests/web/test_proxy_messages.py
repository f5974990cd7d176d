"""The JSON of proxies: every reply is a decision, or a fault that names its field."""

import msgspec
import pytest
from msgspec import Raw

from starling.protocol.codes import CommandRefused, Disconnect, Error
from starling.web.proxy_messages import (
    BadReply,
    CallVerdict,
    ConnectVerdict,
    ProxyRequest,
    RefreshVerdict,
    ReplyDecoder,
    SubscribeVerdict,
    put_data,
    transport_and_protocol,
)

CONNECT = ReplyDecoder(ConnectVerdict)
SUBSCRIBE = ReplyDecoder(SubscribeVerdict)
REFRESH = ReplyDecoder(RefreshVerdict)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("json", ("websocket", "json")),
        ("protobuf", ("websocket", "protobuf")),
        ("http_stream", ("http_stream", "json")),
        ("http_stream_protobuf", ("http_stream", "protobuf")),
        ("sse", ("sse", "json")),
        ("uni_http_stream", ("uni_http_stream", "json")),
        ("event_stream", ("event_stream", "json")),
    ],
)
def test_requests_name_the_transport_and_the_format_of_a_client(kind: str, named: tuple[str, str]) -> None:
    assert transport_and_protocol(kind) == named


def test_a_connect_result_names_user_channels_info_data_meta_and_end() -> None:
    result = CONNECT.decode(
        b'{"result":{"user":"56","expire_at":1893456000,"info":{"name":"A"},"data":{"hello":1},"channels":["news"],'
        b'"subs":{"chat:1":{"info":[1],"override":{"presence":{"value":false}}}},"meta":{"role":"x"},"unknown":1}}'
    )

    assert (result.user, result.end, result.channels) == ("56", 1893456000, ["news"])
    assert (bytes(result.shown()), bytes(result.payload())) == (b'{"name":"A"}', b'{"hello":1}')
    assert bytes(result.meta or b"") == b'{"role":"x"}'
    assert bytes(result.subs["chat:1"].shown()) == b"[1]"
    assert result.subs["chat:1"].overridden().presence is False


@pytest.mark.parametrize("absent", [b"{}", b'{"info":null,"data":null,"expire_at":0}', b'{"b64data":""}'])
def test_what_a_result_leaves_out_or_sets_to_null_is_nothing(absent: bytes) -> None:
    result = SUBSCRIBE.decode(b'{"result":' + absent + b"}")

    assert (bytes(result.shown()), bytes(result.payload()), result.end, result.filter()) == (b"", b"", None, None)


def test_base64_carries_bytes_that_are_no_json() -> None:
    result = ReplyDecoder(CallVerdict).decode(b'{"result":{"b64data":"AP8="}}')

    assert bytes(result.payload()) == b"\x00\xff"


def test_an_error_refuses_with_its_code_message_and_whether_it_is_temporary() -> None:
    with pytest.raises(CommandRefused) as refused:
        SUBSCRIBE.decode(b'{"error":{"code":403,"message":"no ticket","temporary":true}}')

    assert refused.value.reason == Error(403, "no ticket", temporary=True)


def test_a_disconnect_ends_the_connection_with_as_much_of_the_reason_as_a_close_frame_holds() -> None:
    with pytest.raises(CommandRefused) as refused:
        CONNECT.decode(msgspec.json.encode({"disconnect": {"code": 4500, "reason": "ä" * 100}}))

    assert refused.value.reason == Disconnect(4500, "ä" * 61)


def test_a_disconnect_counts_more_than_an_error_and_an_error_more_than_a_result() -> None:
    with pytest.raises(CommandRefused) as refused:
        REFRESH.decode(b'{"result":{},"error":{"code":400},"disconnect":{"code":4000}}')
    assert isinstance(refused.value.reason, Disconnect)

    with pytest.raises(CommandRefused) as refused:
        REFRESH.decode(b'{"result":{},"error":{"code":400}}')
    assert isinstance(refused.value.reason, Error)


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        (b"", "Input data was truncated"),
        (b"<html>", "JSON is malformed"),
        (b"\xff", "JSON is malformed"),
        (b"[]", "Expected `object`"),
        (b"{}", "no result, error or disconnect"),
        (b'{"result":null}', "no result, error or disconnect"),
        (b'{"result":{"user":56}}', "$.result.user"),
        (b'{"result":{"channels":"news"}}', "$.result.channels"),
        (b'{"error":{"code":12}}', "error.code"),
        (b'{"error":{"message":"no"}}', "code"),
        (b'{"disconnect":{"code":100}}', "disconnect.code"),
    ],
)
def test_a_reply_that_decides_nothing_names_what_is_wrong(reply: bytes, named: str) -> None:
    with pytest.raises(BadReply) as bad:
        CONNECT.decode(reply)

    assert named in str(bad.value)


@pytest.mark.parametrize(
    ("result", "named"),
    [
        (b'{"b64data":"%"}', "b64data"),
        (b'{"b64info":"%"}', "b64info"),
        (b'{"b64info":"/w=="}', "b64info"),
        (b'{"info":' + b"1" * 1001 + b"}", "info"),
        (b'{"tags_filter":{"cmp":"eq"}}', "tags_filter"),
    ],
)
def test_a_result_with_a_field_that_cannot_be_read_names_it(result: bytes, named: str) -> None:
    decoded = SUBSCRIBE.decode(b'{"result":' + result + b"}")

    with pytest.raises(BadReply) as bad:
        decoded.payload(), decoded.shown(), decoded.filter()

    assert named in str(bad.value)


def test_a_filter_with_a_field_that_nobody_knows_is_refused_where_it_could_be_wider_than_was_meant() -> None:
    reply = b'{"result":{"tags_filter":{"key":"team","cmp":"ex","vall":"red"}}}'

    with pytest.raises(BadReply) as bad:
        SUBSCRIBE.decode(reply)

    assert "vall" in str(bad.value)


def test_a_request_carries_json_as_it_is_and_anything_else_in_base64() -> None:
    json, binary, empty = (ProxyRequest("c1", "websocket", "json", "json", user="") for _ in range(3))
    put_data(json, Raw(b'{"a": 1}'))
    put_data(binary, Raw(b"\x00\xff"))
    put_data(empty, Raw(b""))
    client = b'{"client":"c1","transport":"websocket","protocol":"json","encoding":"json","user":""'

    assert msgspec.json.encode(json) == client + b',"data":{"a": 1}}'
    assert msgspec.json.encode(binary) == client + b',"b64data":"AP8="}'
    assert msgspec.json.encode(empty) == client + b"}"
