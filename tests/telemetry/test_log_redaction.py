"""What may be secret does not get into a log line."""

from typing import Any

import pytest

from starling.telemetry.log_redaction import redact

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "event",
    [
        {"token": SECRET},
        {"Sec-WebSocket-Protocol": f"starling.v1, bearer.{SECRET}"},
        {"headers": {"x": SECRET}},
        {"path": f"/ws?token={SECRET}&x=1"},
        {"error": f"no such address redis://user:{SECRET}@host:6379/0"},
        {"error": ValueError(f"Authorization: Bearer {SECRET}")},
        {"error": f"[(b'host', b'x'), (b'cookie', b'session={SECRET}')]"},
        {"inner": [{"cookie": SECRET}, (f"session={SECRET}",)]},
        {"error": f"access_token={SECRET} in the address"},
        {"error": f"offered bearer.{SECRET}.{SECRET}"},
        {"payload": SECRET.encode()},
    ],
    ids=lambda event: next(iter(event)),
)
def test_secrets_are_redacted_wherever_they_stand(event: dict[str, Any]) -> None:
    assert SECRET not in str(redact(event))


def test_what_is_not_secret_stays() -> None:
    event = {
        "event": "x",
        "user": "7",
        "code": 1012,
        "hint": "is it running? set STARLING_PORT",
        "path": "/ws",
        "none": None,
    }
    assert redact(event) == event


def test_numbers_that_no_reader_of_json_takes_and_half_a_letter_are_texts_that_it_takes() -> None:
    assert redact({"huge": 2**64, "least": -(2**63), "text": "half \ud800", "share": 0.5}) == {
        "huge": str(2**64),
        "least": -(2**63),
        "text": "half \\ud800",
        "share": 0.5,
    }
