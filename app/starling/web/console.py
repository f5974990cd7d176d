"""What the console shows and does, in a worker: methods of the server API, and those of the console alone."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from starling.auth.explain import Explanation
from starling.engine.broker import BrokerUnavailable
from starling.engine.capture import CaptureRefused, Captures
from starling.engine.channels import ChannelOptions, namespace_of
from starling.engine.control import NodeCommandRefused
from starling.engine.engine import Engine
from starling.engine.rate_history import RateHistory
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error, Refused
from starling.web.api_errors import READS, invalid, unavailable
from starling.web.api_methods import ApiMethods
from starling.web.console_socket import SUFFIX, ConsoleRequest, console_socket

LIVE_SECONDS = 300.0

HIDDEN = "(secret)"

ExplainToken = Callable[[str], Awaitable[Explanation]]


class TokenBody(Struct):
    """A token to explain."""

    token: str


class ChannelBody(Struct):
    """A channel whose options are asked."""

    channel: str


class LiveBody(Struct):
    """Whose frames are asked: those of a user, or about a channel."""

    user: str = ""
    channel: str = ""
    payload: bool = False


class ShownSetting(Struct):
    """A setting with its effective value; `given`: it is not the default."""

    variable: str
    section: str
    value: str
    meaning: str
    given: bool


class ShownOption(Struct):
    """An option of a channel, and where its value comes from."""

    name: str
    value: Any
    origin: str


class Console:
    """Answers the requests of the console's users; starling.web.console_socket.ConsoleHandler."""

    def __init__(
        self,
        engine: Engine,
        methods: ApiMethods,
        captures: Captures,
        *,
        settings: list[ShownSetting],
        warnings: Callable[[], list[str]],
        explain_token: ExplainToken,
    ) -> None:
        """`settings` are the effective ones, without secrets; `warnings` is what `starling check` warns of."""
        self._engine = engine
        self._methods = methods
        self._captures = captures
        self._settings = settings
        self._warnings = warnings
        self._explain_token = explain_token
        self.rates = RateHistory(engine)
        self._own: dict[str, Callable[[bytes], Awaitable[Any]]] = {
            "overview": self._overview,
            "settings": self._show_settings,
            "channel_options": self._channel_options,
            "verify_token": self._verify_token,
        }

    @asynccontextmanager
    async def running(self, directory: Path) -> AsyncIterator[None]:
        """Take samples, and answer at a socket in `directory`, while the context lasts."""
        sampling = asyncio.create_task(self.rates.run())
        try:
            async with console_socket(directory / f"{os.getpid()}{SUFFIX}", self):
                yield
        finally:
            sampling.cancel()

    async def answer(self, request: ConsoleRequest) -> AsyncGenerator[bytes]:
        """The answers, a line of JSON each: `result` or `error`; `live` has one line a frame until it ends."""
        body = bytes(request.body)
        try:
            if request.method == "live":
                async for line in self._live(body):
                    yield line
            else:
                result = await self._call(request.method, body)
                yield msgspec.json.encode({"error": result} if isinstance(result, Error) else {"result": result})
        except CommandRefused as refused:
            yield _error(refused.reason.code, str(refused))
        except (CaptureRefused, NodeCommandRefused, Refused) as refused:
            yield _error(codes.ERROR_BAD_REQUEST.code, str(refused))
        except BrokerUnavailable as away:
            failure = unavailable(away, reads=request.method in READS)
            yield _error(failure.code, failure.message)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            yield msgspec.json.encode({"error": invalid(error)})

    async def _call(self, name: str, body: bytes) -> Any:
        own = self._own.get(name)
        if own is not None:
            return await own(body)
        method = self._methods.by_name.get(name)
        if method is None:
            return Error(codes.ERROR_METHOD_NOT_FOUND.code, "method not found")
        return await self._methods.call(name, method.decode(body))

    async def _overview(self, _: bytes) -> Mapping[str, Any]:
        # Together, since each waits for a node that does not answer.
        nodes, (steps, refusals) = await asyncio.gather(
            self._methods.call("top", self._methods.by_name["top"].decode(b'{"limit":10}')), self.rates.everywhere()
        )
        if isinstance(nodes, Error):
            raise CommandRefused(nodes)
        broker = self._engine.readiness.describe()
        return {
            "now": time.time(),
            "nodes": nodes,
            "rates": steps,
            "refusals": refusals,
            "broker": broker,
            "warnings": self._warnings(),
        }

    async def _show_settings(self, _: bytes) -> list[ShownSetting]:
        return self._settings

    async def _channel_options(self, body: bytes) -> Mapping[str, Any]:
        channel = msgspec.json.decode(body, type=ChannelBody).channel
        options = self._engine.channels.options(channel)
        return {"namespace": namespace_of(channel), "options": shown_options(options, namespace_of(channel))}

    async def _verify_token(self, body: bytes) -> Mapping[str, Any]:
        found = await self._explain_token(msgspec.json.decode(body, type=TokenBody).token)
        return {"accepted": found.accepted, "sentence": found.sentence, "details": found.details}

    async def _live(self, body: bytes) -> AsyncGenerator[bytes]:
        request = msgspec.json.decode(body, type=LiveBody)
        if bool(request.user) == bool(request.channel):
            yield _error(codes.ERROR_BAD_REQUEST.code, "give a user or a channel, and not both")
            return
        target = {"user": request.user} if request.user else {"channel": request.channel}
        async with self._captures.watch(**target, payload=request.payload) as watching:
            async for line in watching.lines(LIVE_SECONDS):
                yield line.rstrip(b"\n")


def shown_value(value: object) -> str:
    """A setting's value as the environment would hold it; empty where there is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def shown_options(options: ChannelOptions, namespace: str) -> list[ShownOption]:
    """Each option with its value, and whether the channels file or a default gives it."""
    given = options.model_fields_set
    values = options.model_dump(mode="json")
    origin = f"channels file, {namespace}"
    return [ShownOption(name, values[name], origin if name in given else "default") for name in values]


def _error(code: int, message: str) -> bytes:
    return msgspec.json.encode({"error": {"code": code, "message": message}})
