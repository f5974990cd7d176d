"""Measure the JSON libraries at what the protocol does with JSON: commands in, pushes out, payloads passed through.

    uv run --no-project --with msgspec==0.22.0 --with orjson==3.13.0 python -m tests.bench.json_library

orjson cannot keep a part of what it parses as it came, so its payload is parsed and written again; the way out is
equal for both (orjson.Fragment, msgspec.Raw).
"""

import json
import sys
import timeit
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import msgspec
import orjson

from starling.protocol.commands import Command
from starling.protocol.messages import ClientInfo, Publication, Push, Reply, SubscribeResult

REPEATS = 7

TEXT = msgspec.json.encode({"text": "x" * 180})
RECORDS = msgspec.json.encode([{"id": n, "name": f"name {n}", "values": [n, n + 0.5, None]} for n in range(400)])
INFO = b'{"name":"Ann"}'

decode_command = msgspec.json.Decoder(Command).decode
encode = msgspec.json.Encoder().encode


def publish_command(data: bytes) -> bytes:
    """A publish command as a client sends it."""
    return b'{"id":5,"publish":{"channel":"news:1","data":' + data + b"}}"


def in_with_msgspec(line: bytes) -> tuple[str, bytes]:
    """The channel and the payload as it came."""
    publish = decode_command(line).publish
    assert publish is not None
    return publish.channel, bytes(publish.data)


def in_with_orjson(line: bytes) -> tuple[str, bytes]:
    """The channel and the payload, parsed and written again."""
    publish = orjson.loads(line)["publish"]
    return publish["channel"], orjson.dumps(publish["data"])


def in_with_the_standard_library(line: bytes) -> tuple[str, bytes]:
    """The channel and the payload, parsed and written again."""
    publish = json.loads(line)["publish"]
    return publish["channel"], json.dumps(publish["data"], separators=(",", ":")).encode()


def out_with_msgspec(data: bytes) -> bytes:
    """A publication with its publisher."""
    info = ClientInfo("42", "c1", msgspec.Raw(INFO))
    publication = Publication(msgspec.Raw(data), info, offset=12345, time=1700000000000)
    return encode(Reply(push=Push("news:1", pub=publication)))


def out_with_orjson(data: bytes) -> bytes:
    """The same, as the dictionaries orjson writes fastest."""
    info = {"user": "42", "client": "c1", "conn_info": orjson.Fragment(INFO)}
    publication = {"data": orjson.Fragment(data), "info": info, "offset": 12345, "time": 1700000000000}
    line: bytes = orjson.dumps({"push": {"channel": "news:1", "pub": publication}})
    return line


def recovery_with_msgspec(data: bytes) -> bytes:
    """A subscribe reply with 300 publications, the recovery limit."""
    publications = [Publication(msgspec.Raw(data), offset=n, time=1700000000000) for n in range(1, 301)]
    return encode(Reply(7, subscribe=SubscribeResult(recoverable=True, epoch="e", publications=publications)))


def recovery_with_orjson(data: bytes) -> bytes:
    """The same."""
    publications = [{"data": orjson.Fragment(data), "offset": n, "time": 1700000000000} for n in range(1, 301)]
    line: bytes = orjson.dumps(
        {"id": 7, "subscribe": {"recoverable": True, "epoch": "e", "publications": publications}}
    )
    return line


def microseconds(call: Callable[[], Any]) -> float:
    """The best of several runs, each of about 0.2 s."""
    timer = timeit.Timer(call)
    number, _ = timer.autorange()
    return min(timer.repeat(REPEATS, number)) / number * 1e6


def main() -> None:
    """Print a table for Markdown."""
    small, large = publish_command(TEXT), publish_command(RECORDS)
    assert in_with_msgspec(large) == in_with_orjson(large) == in_with_the_standard_library(large)
    assert json.loads(out_with_msgspec(TEXT)) == json.loads(out_with_orjson(TEXT))
    assert json.loads(recovery_with_msgspec(TEXT)) == json.loads(recovery_with_orjson(TEXT))
    rows: list[tuple[str, Callable[[], Any], Callable[[], Any], Callable[[], Any] | None]] = [
        (
            f"publish command in, {len(TEXT)} bytes of text",
            lambda: in_with_msgspec(small),
            lambda: in_with_orjson(small),
            lambda: in_with_the_standard_library(small),
        ),
        (
            f"publish command in, {len(RECORDS)} bytes of records",
            lambda: in_with_msgspec(large),
            lambda: in_with_orjson(large),
            lambda: in_with_the_standard_library(large),
        ),
        ("publication out", lambda: out_with_msgspec(TEXT), lambda: out_with_orjson(TEXT), None),
        ("300 publications out", lambda: recovery_with_msgspec(TEXT), lambda: recovery_with_orjson(TEXT), None),
    ]
    print(f"Python {sys.version.split()[0]}, microseconds\n")
    print(f"| | msgspec {version('msgspec')} | orjson {version('orjson')} | json |\n|---|---|---|---|")
    for name, *calls in rows:
        stats = ["" if call is None else f"{microseconds(call):.1f}" for call in calls]
        print(f"| {name} | {' | '.join(stats)} |")


if __name__ == "__main__":
    main()
