"""Batches of the server API: several commands in one request, each with a reply of its own, in their order."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec

from starling.protocol import codes
from starling.protocol.codes import Error
from starling.web.api_batch_models import BatchCommand
from starling.web.api_batch_publishing import Published
from starling.web.api_errors import invalid
from starling.web.api_members import read_request
from starling.web.api_methods import ApiMethods
from starling.web.api_publishing import PublishBody, PublishResponse
from starling.web.api_results import Answer

Reply = Mapping[str, Any]

_NOT_ONE_METHOD = Error(
    codes.ERROR_BAD_REQUEST.code, "bad request: a command holds exactly one method with its request"
)
_decode_command = msgspec.json.Decoder(BatchCommand).decode
_NAMES = BatchCommand.__struct_fields__
_requests_of = attrgetter(*_NAMES)


def read_command(content: msgspec.Raw) -> BatchCommand | Error:
    """Decode one command of a batch; an error stands for one that is malformed."""
    try:
        return read_request(bytes(content), _decode_command, BatchCommand)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return invalid(error)


def named_result(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """A reply of a batch, with its result under `result` and not under its method's name."""
    return reply if "error" in reply else {"result": next(iter(reply.values()))}


async def run_batch(methods: ApiMethods, commands: Sequence[BatchCommand | Error], *, parallel: bool) -> list[Reply]:
    """Do every command, and return a reply to each. An Error stands for a command that was malformed.

    One after the other, publications that follow each other go out together all the same: the broker takes them in
    their order.
    """
    batch = _Batch(methods, len(commands))
    for number, command in enumerate(commands):
        if isinstance(command, Error):
            batch.replies[number] = {"error": command}
            continue
        requests = _requests_of(command)
        if requests.count(None) != len(requests) - 1:
            batch.replies[number] = {"error": _NOT_ONE_METHOD}
        elif command.publish is not None:
            batch.publish(number, command.publish)
        else:
            name, request = next((name, each) for name, each in zip(_NAMES, requests, strict=True) if each is not None)
            if name == "broadcast" or parallel:
                batch.call_later(number, name, request)
            else:
                await batch.settle()
                await batch.call(number, name, request)
    await batch.settle()
    return batch.replies


class _Batch:
    """The replies so far, and the commands under way."""

    def __init__(self, methods: ApiMethods, size: int) -> None:
        self.replies: list[Reply] = [{}] * size
        self._methods = methods
        self._to_publish: list[tuple[int, PublishBody]] = []
        self._calls: list[Coroutine[Any, Any, None]] = []
        self._under_way = 0
        self._published: asyncio.Future[None] | None = None

    def publish(self, number: int, request: PublishBody) -> None:
        """Publish after everything that came before, together with the publications that follow."""
        if self._calls:
            # What was not begun so far must come first.
            self.call_later(number, "publish", request)
        else:
            self._to_publish.append((number, request))

    def call_later(self, number: int, name: str, request: Any) -> None:
        """Do it together with others, when `settle` is called."""
        self._begin_publishing()
        self._calls.append(self.call(number, name, request))

    async def call(self, number: int, name: str, request: Any) -> None:
        """Do it now."""
        self._reply(number, name, await self._methods.call(name, request))

    async def settle(self) -> None:
        """Return when everything so far has its reply."""
        self._begin_publishing()
        calls, self._calls = self._calls, []
        if calls:
            await asyncio.gather(*calls)
        if self._under_way:
            self._published = asyncio.get_running_loop().create_future()
            await self._published

    def _begin_publishing(self) -> None:
        """Begin the publications that wait for others to follow, before anything else is begun."""
        group, self._to_publish = self._to_publish, []
        if not group:
            return
        self._under_way += 1
        if not self._methods.batches.begin([request for _, request in group], partial(self._on_published, group)):
            self._under_way -= 1
            self._calls += [self.call(number, "publish", request) for number, request in group]

    def _on_published(self, group: Sequence[tuple[int, PublishBody]], found: Published) -> None:
        for (number, _), each in zip(group, found, strict=True):
            outcome = each if isinstance(each, Error) else PublishResponse(each.offset, each.epoch)
            self._reply(number, "publish", outcome)
        self._under_way -= 1
        if self._under_way == 0 and self._published is not None and not self._published.done():
            self._published.set_result(None)

    def _reply(self, number: int, name: str, outcome: Answer | Error) -> None:
        self.replies[number] = {"error": outcome} if isinstance(outcome, Error) else {name: outcome}
