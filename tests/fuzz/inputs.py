"""Random and mutated input of each kind: frames of a WebSocket, heads of HTTP requests, bodies of the server API."""

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

FRAME, HEAD, BODY = "frame", "head", "body"
KINDS = (FRAME, HEAD, BODY)

COMMANDS: Sequence[dict[str, Any]] = (
    {"subscribe": {"channel": "room"}},
    {"subscribe": {"channel": "room", "recover": True, "epoch": "x", "offset": 7}},
    {"unsubscribe": {"channel": "room"}},
    {"publish": {"channel": "room", "data": {"text": "é", "n": [1, 2.5e3, None]}}},
    {"presence": {"channel": "room"}},
    {"presence_stats": {"channel": "room"}},
    {"history": {"channel": "room", "limit": 10, "since": {"offset": 1, "epoch": "x"}}},
    {"refresh": {"token": "a.b.c"}},
    {"sub_refresh": {"channel": "room", "token": "a.b.c"}},
    {"rpc": {"method": "nothing", "data": {}}},
    {"send": {"data": 1}},
    {"ping": {}},
)
BODIES: Sequence[tuple[str, dict[str, Any]]] = (
    ("publish", {"channel": "room", "data": {"text": "é"}, "skip_history": True, "tags": {"a": "b"}}),
    ("publish", {"channel": "room", "b64data": "aGVsbG8=", "idempotency_key": "k"}),
    ("broadcast", {"channels": ["room", "hall"], "data": 1}),
    ("subscribe", {"user": "u", "channel": "room", "expire_at": 1, "info": {}}),
    ("unsubscribe", {"user": "u", "channel": "room"}),
    ("disconnect", {"user": "u", "disconnect": {"code": 4000, "reason": "r"}}),
    ("refresh", {"user": "u", "expired": False, "expire_at": 1}),
    ("presence", {"channel": "room"}),
    ("presence_stats", {"channel": "room"}),
    ("history", {"channel": "room", "limit": 5, "reverse": True}),
    ("history_remove", {"channel": "room"}),
    ("connections", {"user": "ann", "limit": 5, "cursor": ""}),
    ("can", {"user": "u", "verb": "publish", "channel": "room"}),
    ("batch", {"commands": [{"publish": {"channel": "room", "data": 1}}, {"presence": {"channel": "room"}}]}),
)
HEADS: Sequence[bytes] = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n",
    b"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /api/info HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    (
        b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nOrigin: http://localhost\r\n\r\n"
    ),
    (
        b"GET /ws/7?token=a.b.c HTTP/1.1\r\nHost: localhost\r\nCookie: session=a; session=b\r\nX-Request-ID: x\r\n"
        b"X-Forwarded-For: 192.0.2.1, 192.0.2.2\r\nAuthorization: Bearer a.b.c\r\n\r\n"
    ),
)
# What parsers trip over: ends of ranges, halves of pairs, separators, and what looks like something else.
MORSELS: Sequence[bytes] = (
    b"\x00",
    b"\xff",
    b"\x80",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"{",
    b"}",
    b"[" * 300,
    b'"',
    b"\\",
    b"\\ud800",
    b"null",
    b"-0",
    b"1e999",
    b"9" * 5000,
    b"18446744073709551616",
    b"-9223372036854775809",
    b"../",
    b"%00",
    b"%",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x80\xae",
    b"#u",
    b"$",
    b"a" * 300,
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: x\r\n",
    b"HTTP/2.0",
)


class Inputs:
    """Draws inputs; with the same seed the same ones, so that a failure can be repeated."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def connect(self) -> bytes:
        """A good frame that connects the client; now and then nothing, for what comes before it."""
        if self._random.random() < 0.05:
            return b""
        text = b'{"id":1,"connect":{}}'
        return _frame_head(0x81, 0x80, len(text)) + bytes(4) + text

    def frame(self) -> bytes:
        """Bytes of a frame as a client sends it, most of them masked and of the length that they state."""
        draw = self._random
        opcode = draw.choice((1, 1, 1, 1, 1, 9, 10)) if draw.random() < 0.97 else draw.randrange(16)
        payload = self._payload(opcode)
        if opcode >= 8:
            payload = payload[:125]
        first = opcode | (0x80 if draw.random() < 0.97 else 0)
        masked = 0x80
        if draw.random() < 0.02:
            first |= draw.choice((0x10, 0x20, 0x40, 0x70))
        if draw.random() < 0.01:
            masked = 0
        length = (
            len(payload) if draw.random() < 0.99 else draw.choice((0, 125, 126, 65535, 65536, 2**31, 2**63, 2**64 - 1))
        )
        key = draw.randbytes(4)
        body = _masked(payload, key) if masked else payload
        whole = _frame_head(first, masked, length) + (key if masked else b"") + body
        return self._mutated(whole) if draw.random() < 0.02 else whole

    def _payload(self, opcode: int) -> bytes:
        draw = self._random
        if draw.random() < 0.03:
            return draw.randbytes(draw.randrange(200))
        if opcode == 8:
            return struct.pack("!H", draw.randrange(65536)) + draw.randbytes(draw.randrange(10))
        commands = [{"id": draw.randrange(1, 2**16), **draw.choice(COMMANDS)} for _ in range(draw.choice((1, 1, 1, 3)))]
        text = b"\n".join(json.dumps(command, ensure_ascii=draw.random() < 0.5).encode() for command in commands)
        return self._mutated(text) if draw.random() < 0.15 else text

    def head(self) -> bytes:
        """Bytes of a request's head, with a body where the head has one."""
        draw = self._random
        if draw.random() < 0.03:
            return draw.randbytes(draw.randrange(1, 400))
        head = draw.choice(HEADS)
        return self._mutated(head) if draw.random() < 0.9 else head

    def body(self) -> tuple[str, bytes]:
        """A method of the server API and the body for it."""
        draw = self._random
        method, fields = draw.choice(BODIES)
        if draw.random() < 0.2:
            fields = dict(draw.choice(BODIES)[1])
        text = json.dumps(fields).encode()
        if draw.random() < 0.03:
            return method, draw.randbytes(draw.randrange(200))
        return method, self._mutated(text) if draw.random() < 0.9 else text

    def _mutated(self, data: bytes) -> bytes:
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 8))):
            data = self._random.choice(self._ways)(data)
        return data

    @property
    def _ways(self) -> Sequence[Callable[[bytes], bytes]]:
        return (self._flip, self._insert, self._insert, self._cut, self._double, self._truncate)

    def _place(self, data: bytes) -> int:
        return self._random.randrange(len(data) + 1)

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self._random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << self._random.randrange(8)]) + data[at + 1 :]

    def _insert(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._random.choice(MORSELS) + data[at:]

    def _cut(self, data: bytes) -> bytes:
        start, end = sorted((self._place(data), self._place(data)))
        return data[:start] + data[min(end, start + 20) :]

    def _double(self, data: bytes) -> bytes:
        start, end = sorted((self._place(data), self._place(data)))
        return data[:end] + data[start:end] + data[end:]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._place(data)]


def _masked(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)


def _frame_head(first: int, masked: int, length: int) -> bytes:
    if length < 126:
        return struct.pack("!BB", first, masked | length)
    if length < 65536:
        return struct.pack("!BBH", first, masked | 126, length)
    return struct.pack("!BBQ", first, masked | 127, length)
