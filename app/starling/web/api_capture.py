"""`POST /api/capture`: a stream of frames, one line of JSON each, until the time is over or the client disconnects."""

import asyncio
import time
from contextlib import aclosing

import structlog
from starlette.types import Receive, Send

from starling.engine.broker import BrokerUnavailable
from starling.engine.capture import CaptureRefused, Captures, Watching
from starling.engine.control import NodeCommandRefused
from starling.engine.engine import Engine
from starling.protocol import codes
from starling.protocol.codes import CommandRefused, Error
from starling.web.api_errors import unavailable
from starling.web.api_models import CaptureBody

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.capture")

# How long after the end the last lines may take to be read.
_GRACE_SECONDS = 10.0
_HEADERS = [
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-store"),
    # nginx would gather the lines.
    (b"x-accel-buffering", b"no"),
]


class CaptureEndpoint:
    """Answers requests to capture, each noted in the log."""

    def __init__(self, engine: Engine, captures: Captures) -> None:
        self._engine = engine
        self._captures = captures

    async def answer(self, request: CaptureBody, address: str, key: int, receive: Receive, send: Send) -> Error | None:
        """Answer, and return when it is over; or return the error that is still to be answered.

        `key` is the number of the key that the request came with.
        """
        problem = self._problem(request)
        if problem is not None:
            return problem
        target = {"user": request.user} if request.user else {"channel": request.channel}
        asked = {**target, "asked_by": request.by, "address": address, "key": key, "payload": request.payload}
        started = time.monotonic()
        try:
            async with self._captures.watch(**target, payload=request.payload) as watching:
                # A capture shows the frames of others, so it is logged at a level that is always written.
                log.warning("capture_started", capture=watching.id, seconds=request.seconds, **asked)
                try:
                    await _stream(watching, request.seconds, receive, send)
                finally:
                    log.warning(
                        "capture_ended",
                        capture=watching.id,
                        seconds=round(time.monotonic() - started, 3),
                        frames=watching.frames,
                        dropped=watching.dropped,
                        reason=watching.ended or "broken off",
                        **asked,
                    )
        except CaptureRefused as refused:
            return _refused(codes.ERROR_LIMIT_EXCEEDED, str(refused))
        except NodeCommandRefused as refused:
            return _refused(codes.ERROR_NOT_AVAILABLE, str(refused))
        except BrokerUnavailable as failure:
            return unavailable(failure, reads=True)
        return None

    def _problem(self, request: CaptureBody) -> Error | None:
        if bool(request.user) == bool(request.channel):
            return _refused(codes.ERROR_BAD_REQUEST, "user, channel: name one of the two")
        try:
            if request.channel:
                self._engine.channels.options(request.channel)
        except CommandRefused as refusal:
            known = codes.ERROR_UNKNOWN_CHANNEL if refusal.reason == codes.ERROR_UNKNOWN_CHANNEL else None
            return _refused(known or codes.ERROR_BAD_REQUEST, f"channel: there can be no {request.channel!r}")
        return None


async def _stream(watching: Watching, seconds: float, receive: Receive, send: Send) -> None:
    async def until_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        watching.stop("the client disconnected")

    waiting = asyncio.get_running_loop().create_task(until_disconnect())
    try:
        async with asyncio.timeout(seconds + _GRACE_SECONDS):
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async with aclosing(watching.lines(seconds)) as lines:
                async for line in lines:
                    await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    except TimeoutError:
        watching.stop("the client does not read")
    finally:
        waiting.cancel()


def _refused(error: Error, remedy: str) -> Error:
    return Error(error.code, f"{error.message}: {remedy}")
