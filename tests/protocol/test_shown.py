"""Messages as people may see them: whatever the message, no token, and no payload that was not asked for."""

import json
import re
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import fields

from starling.protocol.codec_protobuf import STRUCTS
from starling.protocol.commands import Command, ConnectRequest, RefreshRequest, SubRefreshRequest, SubscribeRequest
from starling.protocol.messages import Publication, Push, Reply
from starling.protocol.shown import PAYLOAD_BYTES, shown
from tests.protocol.vectors import COMMANDS, REPLIES

SECRET = "the-secret-token"


def reported(message: msgspec.Struct, *, payload: bool) -> Any:
    line = msgspec.json.encode(shown(message, payload=payload))
    assert b"\n" not in line
    return json.loads(line)


@pytest.mark.parametrize("payload", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        Command(1, connect=ConnectRequest(token=SECRET, headers={"Authorization": SECRET})),
        Command(1, connect=ConnectRequest(subs={"a": SubscribeRequest("a", token=SECRET)})),
        Command(1, subscribe=SubscribeRequest("a", token=SECRET)),
        Command(1, refresh=RefreshRequest(SECRET)),
        Command(1, sub_refresh=SubRefreshRequest("a", SECRET)),
    ],
)
def test_no_token_is_shown(command: Command, payload: bool) -> None:
    assert SECRET not in json.dumps(reported(command, payload=payload))
    assert "[redacted]" in json.dumps(reported(command, payload=payload))


def test_every_field_that_may_hold_a_secret_is_among_those_above() -> None:
    """A message that gets another one must be added there."""
    kinds = STRUCTS.values()
    suspicious = re.compile("token|secret|password|header|cookie|auth|key")
    found = {(kind.__name__, field.name) for kind in kinds for field in fields(kind) if suspicious.search(field.name)}
    # The name of a tag.
    found.discard(("FilterNode", "key"))

    assert found == {
        ("ConnectRequest", "token"),
        ("ConnectRequest", "headers"),
        ("SubscribeRequest", "token"),
        ("RefreshRequest", "token"),
        ("SubRefreshRequest", "token"),
    }


@pytest.mark.parametrize("message", [vector.command for vector in COMMANDS] + [vector.reply for vector in REPLIES])
def test_every_message_can_be_shown(message: Command | Reply) -> None:
    reported(message, payload=False)
    reported(message, payload=True)


@pytest.mark.parametrize(
    ("data", "without", "with_payload"),
    [
        (b'{"a": 1}', {"bytes": 8}, {"a": 1}),
        (b'{"a":\n 1}', {"bytes": 9}, {"a": 1}),
        (b"\xff\x00", {"bytes": 2}, {"base64": "/wA="}),
        (
            b'"' + b"x" * PAYLOAD_BYTES + b'"',
            {"bytes": PAYLOAD_BYTES + 2},
            {"bytes": PAYLOAD_BYTES + 2, "begins": '"' + "x" * (PAYLOAD_BYTES - 1)},
        ),
    ],
)
def test_payloads_are_shown_on_request_only(data: bytes, without: Any, with_payload: Any) -> None:
    push = Reply(push=Push("a", pub=Publication(Raw(data), tags={"topic": "hidden"})))

    hidden = reported(push, payload=False)["push"]["pub"]
    open_ = reported(push, payload=True)["push"]["pub"]

    assert hidden == {"data": without, "tags": ["topic"]}
    assert open_ == {"data": with_payload, "tags": {"topic": "hidden"}}
