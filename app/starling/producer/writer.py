"""The writer of an append-only stream: collects, sends in windows, retries, and learns that it was cancelled."""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import msgspec

from starling.producer.content import Content
from starling.producer.errors import (
    Cancelled,
    ProducerReplaced,
    ServiceAway,
    StreamClosed,
    StreamError,
    StreamFull,
    StreamUnavailable,
)

# (method of the server API, its request) -> {"result": …} or {"error": …}; raises ServiceAway.
Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
REQUEST_SIZE = 256 * 1024
BUFFER_SIZE = 1024 * 1024
RETRY_SECONDS = 60.0
# The longest that one request waits for the end of the stream, and how often a silent writer shows that it lives.
WATCH_SECONDS = 10.0
CLOSE_SECONDS = 10.0
REASON_LENGTH = 1024


class WriterOptions(msgspec.Struct, frozen=True):
    """How a stream is written. `type` None is what its namespace says; `window` in seconds, None for the namespace's.

    `producer` names the writer: another one of the same name replaces it. `replace`: delete a stream that is in the
    channel already. `buffer_size` bounds what waits to be sent, in characters or bytes, and `retry_seconds` how long
    the service may be away.
    """

    type: str | None = None
    producer: str = "writer"
    window: float | None = None
    replace: bool = False
    retry_seconds: float = RETRY_SECONDS
    buffer_size: int = BUFFER_SIZE


class StreamWriter:
    """One process that writes one stream: `async with open_stream(channel) as answer: await answer.write("…")`.

    It is opened at the beginning of the block. At its end it is closed as `complete`, with an exception as `failed`,
    and as `cancelled` where a reader cancelled it: then what the block awaits is interrupted, and Cancelled is raised.
    """

    def __init__(
        self,
        call: Call,
        channel: str,
        options: WriterOptions,
        *,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`close` ends what `call` uses."""
        self.channel = channel
        self.status = ""
        """The status of the stream as this writer knows it."""
        self.length = 0
        """What the stream holds, in UTF-8 bytes, items or bytes."""
        self._call = call
        self._kind = options.type
        self._producer = options.producer
        self._window = options.window
        self._replace = options.replace
        self._retry_seconds = options.retry_seconds
        self._buffer_size = options.buffer_size
        self._close_connection = close
        self._epoch = 0
        self._sequence = 0
        self._content = Content("text")
        self._written = asyncio.Event()
        self._sent = asyncio.Event()
        self._failure: StreamError | None = None
        self._sender: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._keep_alive = WATCH_SECONDS
        self._owner: asyncio.Task[Any] | None = None
        self._in_call = False
        self._interrupted = False
        self._sending = False

    async def write(self, chunk: Any) -> None:
        """Add a chunk: text, bytes or any JSON value, by the type of the stream. It is sent within the window.

        Waits where the buffer is full. Raises Cancelled, another StreamError, or TypeError.
        """
        self._check()
        self._content.add(chunk)
        self._written.set()
        self._in_call = True
        try:
            while self._content.size > self._buffer_size:
                self._sent.clear()
                await self._wait_for(self._sent)
                self._check()
        finally:
            self._in_call = False

    async def flush(self) -> None:
        """Return when everything that was written is stored. Raises as `write` does."""
        self._in_call = True
        try:
            while self._content or self._sending:
                self._check()
                self._sent.clear()
                self._written.set()
                await self._wait_for(self._sent)
            self._check()
        finally:
            self._in_call = False

    async def close(self, status: str = "complete", reason: str = "", final: Any = None) -> None:
        """Send what is left and close the stream; `final` is any JSON that belongs to its end. Raises as `write`."""
        await self._stop(self._sender)
        # It would report this end as one that another has caused.
        await self._stop(self._watcher)
        self._check()
        while self._content.size > REQUEST_SIZE:
            await self._append()
        await self._close(status, reason, final)

    async def __aenter__(self) -> Self:
        """Open the stream. Raises StreamError."""
        self._owner = asyncio.current_task()
        try:
            await self._open()
        except BaseException:
            await self._finish()
            raise
        self._sender = asyncio.create_task(self._send())
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream as the block ended. Raises StreamError."""
        owner = self._owner
        self._owner = None
        try:
            if self._interrupted and owner is not None and self._failure is not None:
                # This writer asked for it; a task that others cancel too stays so.
                others = owner.uncancel()
                if error is None or (isinstance(error, asyncio.CancelledError) and not others):
                    raise self._failure from None
                return
            if error is not None and error is self._failure:
                return
            if error is None:
                if not self.status or self.status in ("open", "interrupted"):
                    await self.close()
                return
            await self._close_failed(error)
        finally:
            await self._finish()

    # Opening and closing

    async def _open(self) -> None:
        if self._replace:
            await self._delete()
        # One that was delayed and sent again would replace this very process.
        body: dict[str, Any] = {"producer": self._producer, "idempotency_key": secrets.token_urlsafe(12)}
        if self._kind is not None:
            body["type"] = self._kind
        opened = await self._ask("stream_open", body)
        self._note(opened)
        self._raise_if_closed(opened)
        self._content = Content(opened["type"])
        self._epoch = opened["producer_epoch"]
        if self._window is None:
            self._window = opened.get("append_window", 0.0)
        timeout = opened.get("producer_timeout", 0.0)
        self._keep_alive = min(WATCH_SECONDS, timeout / 3) if timeout else WATCH_SECONDS

    async def _delete(self) -> None:
        """Delete the stream that is there now: a request that was delayed and sent again must not delete the next."""
        try:
            found = await self._ask("stream_info", {})
        except StreamUnavailable:
            raise
        except StreamError:
            # There is none, or it cannot be opened either, which says why.
            return
        await self._ask("stream_delete", {"epoch": found["epoch"]})

    async def _close(self, status: str, reason: str, final: Any) -> None:
        body = {**self._content.take(2 * REQUEST_SIZE), "status": status, "reason": reason[:REASON_LENGTH]}
        if final is not None:
            body["final"] = msgspec.Raw(msgspec.json.encode(final))
        self._note(await self._ask("stream_close", {**body, **self._as_producer()}))

    async def _close_failed(self, error: BaseException) -> None:
        """Close the stream as failed, within bounded time; the error goes on whatever becomes of this."""
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.close("failed", text)
        except (StreamError, TimeoutError):
            return

    async def _finish(self) -> None:
        await self._stop(self._sender)
        await self._stop(self._watcher)
        if self._close_connection is not None:
            await self._close_connection()

    @staticmethod
    async def _stop(task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    # Sending

    async def _send(self) -> None:
        """Send what was written, in windows, until a failure."""
        try:
            while True:
                await self._written.wait()
                self._written.clear()
                if self._window:
                    await asyncio.sleep(self._window)
                # What is written meanwhile waits for a window of its own.
                while await self._append() and self._content.size >= REQUEST_SIZE:
                    pass
                self._sent.set()
        except StreamError as failure:
            self._fail(failure)

    async def _append(self) -> bool:
        """Send one request; False where nothing whole is there to send."""
        fields = self._content.take(REQUEST_SIZE)
        if not fields:
            return False
        self._sending = True
        appending = asyncio.ensure_future(self._ask("stream_append", {**fields, **self._as_producer()}))
        try:
            # Closing ends the sender, but not a request whose sequence is given out.
            self._note(await asyncio.shield(appending))
        except asyncio.CancelledError:
            self._note(await appending)
            raise
        finally:
            self._sending = False
            self._sequence += 1
            self._sent.set()
        return True

    def _as_producer(self) -> dict[str, Any]:
        return {"producer": self._producer, "producer_epoch": self._epoch, "sequence": self._sequence}

    async def _ask(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """Call a method, again and again while the service is away. Raises StreamError."""
        end, pause = time.monotonic() + self._retry_seconds, FIRST_PAUSE
        while True:
            try:
                answer = await self._call(method, {"channel": self.channel, **body})
            except ServiceAway as away:
                if time.monotonic() + pause > end:
                    raise StreamUnavailable(f"{method}: {away}") from away
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            if "error" not in answer:
                found: dict[str, Any] = answer["result"]
                return found
            raise _failure(answer["error"])

    # Watching

    async def _watch(self) -> None:
        """Learn of the end of the stream when it comes, and show meanwhile that this writer lives."""
        body = {"producer": self._producer, "producer_epoch": self._epoch, "wait": self._keep_alive}
        try:
            while True:
                info = await self._ask("stream_info", body)
                self.status = info["status"]
                self._raise_if_closed(info)
        except StreamUnavailable:
            # What is written next finds out.
            return
        except StreamError as failure:
            self._fail(failure)

    def _raise_if_closed(self, info: dict[str, Any]) -> None:
        status = info["status"]
        if status == "cancelled":
            raise Cancelled(info.get("reason", ""))
        if status in ("complete", "failed"):
            raise StreamClosed(f"the stream is closed ({status}): use another channel, or replace=True")

    def _note(self, info: dict[str, Any]) -> None:
        self.status, self.length = info["status"], info["length"]

    def _fail(self, failure: StreamError) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        if isinstance(failure, Cancelled):
            self.status = "cancelled"
        self._sent.set()
        if self._owner is not None and not self._in_call and not self._owner.done():
            self._interrupted = True
            self._owner.cancel()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _wait_for(self, event: asyncio.Event) -> None:
        """Wait for an event, which a failure sets too."""
        if self._failure is None:
            await event.wait()


def _failure(error: dict[str, Any]) -> StreamError:
    """The exception for an error of the server API."""
    problem = error.get("stream") or {}
    reason, message = problem.get("reason", ""), error["message"]
    if reason == "closed" and problem.get("status") == "cancelled":
        return Cancelled(problem.get("detail", ""))
    if reason in ("closed", "no_stream"):
        return StreamClosed(message)
    if reason == "zombie":
        return ProducerReplaced(message)
    return StreamFull(message) if reason == "full" else StreamError(message)
