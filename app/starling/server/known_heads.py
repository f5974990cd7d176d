"""Heads of requests that an endpoint accepted on a connection: the same bytes again are not parsed again."""

import re
from typing import NamedTuple

from starling.engine.direct_request import RequestEndpoint, Work

# A client repeats few heads: one for each method that it calls. Larger ones are parsed each time.
MOST_HEADS = 4
MOST_HEAD_BYTES = 2048

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})(?=\r\n)", re.IGNORECASE)


class KnownHead(NamedTuple):
    """A head without the digits of its Content-Length, and what the endpoint answers such a request with."""

    before: bytes
    after: bytes
    work: Work


class KnownRequest(NamedTuple):
    """A whole request whose head is known."""

    work: Work
    body: bytes


class KnownHeads:
    """The last heads of one connection that differ in more than Content-Length, the newest last.

    The endpoint decides again about all of them when its `version` changes.
    """

    def __init__(self, endpoint: RequestEndpoint) -> None:
        self._endpoint = endpoint
        self._version = endpoint.version
        self._heads: list[KnownHead] = []

    def find(self, data: bytes) -> KnownRequest | None:
        """The request that `data` is, where it is exactly one request with a known head; otherwise None."""
        if self._version != self._endpoint.version:
            self._heads.clear()
            self._version = self._endpoint.version
        for before, after, work in self._heads:
            if data.startswith(before):
                digits_end = data.find(b"\r", len(before), len(before) + 10)
                digits = data[len(before) : digits_end]
                if digits_end < 0 or not digits.isdigit() or not data.startswith(after, digits_end):
                    continue
                length = int(digits)
                body = data[digits_end + len(after) :]
                return KnownRequest(work, body) if len(body) == length <= self._endpoint.max_body_bytes else None
        return None

    def remember(self, data: bytes, length: int, work: Work) -> None:
        """Remember the head of `data`, one whole request that was accepted, whose body has `length` bytes."""
        head = data[: len(data) - length]
        if len(head) > MOST_HEAD_BYTES or head.find(_END) != len(head) - len(_END):
            return
        lengths: list[re.Match[bytes]] = list(_LENGTH.finditer(head))
        if len(lengths) == 1 and int(lengths[0][1]) == length:
            begin, end = lengths[0].span(1)
            self._heads = [*self._heads[1 - MOST_HEADS :], KnownHead(head[:begin], head[end:], work)]
