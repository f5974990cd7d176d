"""A raw ASGI application on the server layer alone, run as a process of its own: `application.py OPTIONS_AS_JSON`.

Endpoints: `/ws` hands off to Speaker, `/echo` to Echo; `/plain` echoes by plain ASGI; `/slow` accepts after a minute;
`/late` after half a second; `/return` accepts and returns; `/crash` accepts and fails; `/exit` accepts and exits;
`/refuse` refuses; `/twice` hands off twice.
HTTP answers `ok`, to a POST once its body has come, and to one at `/early` at once; at `/later` and `/later-stream`
after a moment; at `/scope` what the request says; at `/large` 1 MiB; at `/stream` only headers, until its client
leaves. What is below `/direct/` is answered without ASGI.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Counter

from starling.engine.direct_request import DirectRequest, DirectResponse, Respond, Work
from starling.engine.readiness import Readiness, Unready
from starling.protocol.messages import Frame
from starling.server.options import ServerOptions
from starling.server.service import ReloadError, Service
from starling.telemetry.logging import configure_logging
from starling.telemetry.metric_files import allocate_metric_files

log = structlog.get_logger("test.application")

WRITE_LIMIT = 262_144
ECHO_WRITE_LIMIT = 2**26

WHOLE_BYTES = 2**20
WHOLE_LENGTH = (b"content-length", b"%d" % WHOLE_BYTES)


class Speaker:
    """A handler that does as its client says: `VERB ARGUMENT`; everything else is echoed."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport

    def say(self, text: str) -> None:
        self.transport.send_frame(Frame(text.encode(), text=True))

    def on_message(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.transport.send_frame(Frame(message, text=False))
            return
        verb, _, argument = message.partition(" ")
        loop = asyncio.get_running_loop()
        match verb:
            case "pid":
                self.say(str(os.getpid()))
            case "burst":
                for number in range(int(argument)):
                    self.say(str(number))
            case "flood":  # a frame of 16 KiB each 5 ms
                self.flood(int(argument))
            case "ping":
                self.transport.ping()
            case "pause":
                self.transport.pause_reading()
                loop.call_later(float(argument), self.transport.resume_reading)
                self.say("paused")
            case "close":
                code, _, reason = argument.partition(" ")
                self.say("last words")
                self.transport.close(int(code), reason)
                self.say("never sent")
            case "stick":
                time.sleep(float(argument))
            case "log":
                log.info("reported", padding="x" * 1000)
            case "fail":
                raise ValueError("as its client said")
            case _:
                self.say(message)

    def flood(self, left: int) -> None:
        self.transport.send_frame(Frame(bytes(16384), text=False))
        if left:
            asyncio.get_running_loop().call_later(0.005, self.flood, left - 1)

    def on_pong(self) -> None:
        self.say("pong")

    def on_drained(self) -> None:
        """Nothing."""

    def on_overflow(self) -> None:
        log.info("overflow")
        self.transport.close(3008, "slow")

    def on_shutdown(self) -> None:
        self.transport.close(1012, "restart")

    def on_close(self, code: int, reason: str) -> None:
        log.info("closed", code=code, reason=reason)


class Echo:
    """A handler that sends every message back as it came, however much waits."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport

    def on_message(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.transport.send_frame(Frame(message.encode(), text=True))
        else:
            self.transport.send_frame(Frame(message, text=False))

    def on_pong(self) -> None:
        """Nothing."""

    def on_drained(self) -> None:
        """Nothing."""

    def on_overflow(self) -> None:
        """Nothing."""

    def on_shutdown(self) -> None:
        self.transport.close(1012, "restart")

    def on_close(self, code: int, reason: str) -> None:
        log.info("closed", code=code, reason=reason)


class DirectEndpoint:
    """Answers under `/direct/` without ASGI with the size of the body: at once, later, in a task, or by failing."""

    max_body_bytes = 1_000_000
    version = 0

    def accept(self, request: DirectRequest) -> Work | None:
        """Take a request below `/direct/`."""
        beginning, _, how = request.path.partition("/direct/")
        return partial(self.answer, how) if how and not beginning else None

    def answer(self, how: str, body: bytes, respond: Respond) -> Coroutine[Any, Any, None] | None:
        """Answer as `how` says."""
        response = DirectResponse(200, ((b"x-how", how.encode()),), b"direct %d" % len(body))
        if how == "fail":
            raise ValueError("as its client said")
        if how == "now":
            respond(response)
        elif how == "later":
            asyncio.get_running_loop().call_later(0.05, respond, response)
        else:
            return self.wait(how, response, respond)
        return None

    async def wait(self, how: str, response: DirectResponse, respond: Respond) -> None:
        await asyncio.sleep(0.05)
        if how == "fail-in-a-task":
            raise ValueError("as its client said")
        respond(response)


class Application:
    """The endpoints above, and a lifespan that takes `start_seconds`; it fails where `away` is, or not `starts`."""

    def __init__(self, readiness: Readiness, *, starts: bool, start_seconds: float, away: Path) -> None:
        self.readiness = readiness
        self.away = away
        self.starts = starts
        self.start_seconds = start_seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
        elif scope["type"] == "http":
            if scope["method"] == "POST" and scope["path"] != "/early":
                await self.read_body(receive)
            await self.answer(scope, receive, send)
        else:
            await self.open(scope, receive, send)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        body = b"ok"
        match scope["path"]:
            case "/later" | "/later-stream":
                await asyncio.sleep(0.05)
            case "/scope":
                hosts = [value.decode() for name, value in scope["headers"] if name == b"host"]
                reported = {"path": scope["path"], "query": scope["query_string"].decode(), "host": hosts}
                body = json.dumps({**reported, "client": scope["client"][0], "scheme": scope["scheme"]}).encode()
            case "/large":
                body = bytes(2**20)
            case "/whole":
                log.info("whole_begun")
                await send({"type": "http.response.start", "status": 200, "headers": [WHOLE_LENGTH]})
                await send({"type": "http.response.body", "body": bytes(WHOLE_BYTES)})
                return
            case "/stream":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                while (await receive())["type"] != "http.disconnect":
                    pass
                log.info("stream_ended")
                return
        headers = [] if scope["path"] == "/later-stream" else [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, len(body), 65536):
            part = body[start : start + 65536]
            await send({"type": "http.response.body", "body": part, "more_body": start + 65536 < len(body)})
            await asyncio.sleep(0)
        if scope["path"] == "/large":
            log.info("large_sent")

    async def read_body(self, receive: Any) -> None:
        message = {"type": "http.request", "more_body": True}
        while message["type"] == "http.request" and message.get("more_body"):
            message = await receive()
        log.info("body_read", ended_by=message["type"])

    async def live(self, receive: Any, send: Any) -> None:
        await receive()
        if not self.starts or self.away.exists():
            raise RuntimeError("asked not to start")
        await asyncio.sleep(self.start_seconds)
        self.readiness.release(Unready.STARTING)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        log.info("application_ended")
        await send({"type": "lifespan.shutdown.complete"})

    async def open(self, scope: Any, receive: Any, send: Any) -> None:
        extension = scope["extensions"]["starling.websocket"]
        await receive()
        match scope["path"]:
            case "/refuse":
                await send({"type": "websocket.close", "code": 1008})
                return
            case "/slow":
                log.info("handshake_held")
                await asyncio.sleep(60)
            case "/late":
                await asyncio.sleep(0.5)
        await send({"type": "websocket.accept"})
        match scope["path"]:
            case "/ws" | "/late":
                extension.detach(Speaker(extension), write_limit=WRITE_LIMIT)
            case "/echo":
                extension.detach(Echo(extension), write_limit=ECHO_WRITE_LIMIT)
            case "/twice":
                extension.detach(Speaker(extension), write_limit=WRITE_LIMIT)
                extension.detach(Speaker(extension), write_limit=WRITE_LIMIT)
            case "/plain":
                await self.echo(receive, send)
            case "/crash":
                raise ValueError("as its path said")
            case "/exit":
                raise SystemExit(3)

    async def echo(self, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        log.info("closed", code=message["code"])


def service_of(
    application: Application,
    count_refusal: Callable[[str], None],
    reload: Callable[[], bytes] = lambda: b"",
) -> Service:
    """What the server layer needs to serve `application`."""
    return Service(
        application,
        application.readiness,
        requests=DirectEndpoint(),
        on_refused=lambda reason, **seen: count_refusal(reason),
        reload=reload,
        apply=lambda found: log.info("applied", configuration=found.decode()),
    )


def main() -> None:
    given = json.loads(sys.argv[1])
    application = Application(
        Readiness(),
        starts=given.pop("starts", True),
        start_seconds=given.pop("start_seconds", 0),
        away=Path(given.get("runtime_dir", ".")) / ".." / "away",
    )
    configure_logging(given.pop("log_level", "debug"), given.pop("log_format", "json"))
    given["trusted_proxies"] = tuple(given.pop("trusted_proxies", ()))
    options = ServerOptions(**given | {"runtime_dir": Path(given["runtime_dir"])})
    options.metrics_dir.mkdir(parents=True, exist_ok=True)
    allocate_metric_files()
    from starling.server.application import serve

    refused = Counter("test_refused", "Refusals.", ["reason"])
    configuration = Path(given.get("runtime_dir", ".")) / ".." / "configuration"

    def reload() -> bytes:
        text = configuration.read_bytes()
        if b"mistake" in text:
            raise ReloadError(["the first mistake", "the second"])
        return text

    try:
        serve(options, service_of(application, lambda reason: refused.labels(reason).inc(), reload))
    finally:
        # As a command does that made its directory: it must not run in workers.
        log.info("command_ended", own=os.getpid() == os.getpgid(0))


if __name__ == "__main__":
    main()
