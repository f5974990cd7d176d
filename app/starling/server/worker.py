"""One worker process: uvicorn inside gunicorn, with this service's protocols, limits and end.

Members of uvicorn-worker and gunicorn that this module uses, each held by a test in
tests/server/test_uvicorn_members.py: `CONFIG_KWARGS`, `config`, `init_process`, `init_signals`, `notify`, `ppid`,
`run`, `sockets`, `wsgi`, `_serve`.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import msgspec
import structlog
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from starling.engine.memory import FreedMemory
from starling.engine.peer_address import unmapped_network
from starling.engine.readiness import Readiness
from starling.server.board import Board, Slot
from starling.server.client_socket import Flusher
from starling.server.compression import Compression
from starling.server.drain import DrainServer
from starling.server.http import StarlingHttp
from starling.server.options import ServerOptions
from starling.server.pod import CHANNELS_SUFFIX, TOP_CHANNELS
from starling.server.service import ApplicationError, Service
from starling.server.websocket import StarlingWebSocket
from starling.telemetry.logging import quiet_libraries
from starling.telemetry.top_channels import ChannelTraffic

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling.server")

HEARTBEAT_SECONDS = 1.0
_REMEDY_FOR_EXITS = "find what calls sys.exit() in your application"


class WorkerApplication(Protocol):
    """What a worker needs of the gunicorn application that it is made with."""

    options: ServerOptions
    service: Service
    board: Board


class StarlingWorker(UvicornWorker):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn forks. Its options and service come with the application that gunicorn hands to it."""

    def __init__(
        self, age: int, ppid: int, sockets: list[Any], app: "WorkerApplication", timeout: float, cfg: Any, log: Any
    ) -> None:
        self.options = app.options
        self.service = app.service
        self.board = app.board
        self.slot = app.board.claim()
        self.forked_at = time.monotonic()
        self.flusher = Flusher(self.options.waiting_budget_bytes)
        self._freed = FreedMemory()
        self._served = False
        self.CONFIG_KWARGS = uvicorn_settings(self.options, self.service, self.flusher)
        super().__init__(age, ppid, sockets, app, timeout, cfg, log)
        # uvicorn-worker has just given uvicorn's loggers gunicorn's handlers.
        quiet_libraries()

    def init_process(self) -> None:
        """Begin the process, just after the fork, when its listeners have been made."""
        for listener in self.sockets:
            set_socket_options(listener, self.options)
        self.notify()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.slot.enter()
        self._apply_configuration()
        self._begin_service()
        publish_status(self.service.readiness, self.slot)
        log.info("worker_started")
        super().init_process()

    def _begin_service(self) -> None:
        try:
            self.service.begin()
        except ApplicationError as error:
            log.critical("application_not_loaded", problem=str(error), trace=error.trace)
            sys.exit(self._boot_error)

    def init_signals(self) -> None:
        """Leave the signals to uvicorn, but say where the loop stood still when the master gives this worker up."""
        super().init_signals()
        signal.signal(signal.SIGABRT, self.handle_abort)
        # Until the event loop runs; the master reads the configuration again.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """Log the stack, then die of the signal."""
        log.critical("worker_stuck", stack=traceback.format_stack(frame))
        leave_by(signal.SIGABRT)

    def run(self) -> None:
        """Serve until the end. A worker that served never ends with a code that stops the whole pod."""
        try:
            with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
                self._run_until_end(runner.get_loop())
        except SystemExit as end:
            if end.code not in {Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR}:
                raise
            if not self._served:
                # uvicorn's own exit, where the application has not started.
                raise SystemExit(self._boot_error) from end
            log.critical("worker_exited", code=end.code, remedy=_REMEDY_FOR_EXITS)
            raise SystemExit(1) from end

    def _run_until_end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the loop until serving has ended: an exit of another task is no reason to end this worker's clients.

        SystemExit and KeyboardInterrupt of any task go through asyncio's loop, which can then be run further.
        """
        serving = loop.create_task(self._serve())
        while not serving.done():
            try:
                loop.run_until_complete(serving)
            except (SystemExit, KeyboardInterrupt):
                if serving.done():
                    raise
                log.exception("exit_prevented", remedy=_REMEDY_FOR_EXITS)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = DrainServer(self.config, options=self.options, service=self.service, master=self.ppid)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGQUIT, None)
        loop.add_signal_handler(signal.SIGHUP, self._end_as_asked, server)
        heartbeat = asyncio.create_task(self._beat())
        try:
            await server.serve(sockets=self.sockets)
        finally:
            self._served = server.started
            heartbeat.cancel()
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _end_as_asked(self, server: DrainServer) -> None:
        """Drain, because somebody sent this worker SIGHUP."""
        self.slot.ask_to_end()
        server.handle_exit(signal.SIGHUP, None)

    def _apply_configuration(self) -> None:
        """Take what the master has read again, if it is new here."""
        if self.board.version == 1:
            self.slot.applied = 1
        elif self.slot.applied != self.board.version and (found := self.board.read_configuration()) is not None:
            version, configuration = found
            try:
                self.service.apply(configuration)
                log.info("configuration_applied", version=version)
            except Exception:
                log.exception("configuration_not_applied", version=version)
            self.slot.applied = version

    @property
    def _boot_error(self) -> int:
        """The exit code of a worker that could not start: it stops the pod, unless another worker serves."""
        for slot in self.board.workers():
            with suppress(msgspec.DecodeError):
                if slot.pid != os.getpid() and msgspec.json.decode(slot.report)["started"]:
                    return 1
        return int(Arbiter.WORKER_BOOT_ERROR)

    async def _beat(self) -> None:
        """Show the master that the event loop turns: from before the application starts until after it has ended."""
        written: list[ChannelTraffic] = []
        while True:
            self.notify()
            self.slot.heartbeat()
            self._apply_configuration()
            waiting_bytes = self.flusher.waiting_bytes
            self.service.on_waiting(len(self.flusher.waiting), waiting_bytes)
            self._freed.observe(waiting_bytes)
            busiest = self.service.top_channels(TOP_CHANNELS)
            if busiest or written:
                write_status(self.options.status_dir / f"{os.getpid()}{CHANNELS_SUFFIX}", busiest)
            written = busiest
            await asyncio.sleep(HEARTBEAT_SECONDS)


def set_socket_options(listener: socket.socket, options: ServerOptions) -> None:
    """Bound what the kernel keeps for a peer that does not read, and for how long it tries.

    What `listener` accepts inherits it, and so one call at the start saves three for each client.
    """
    if listener.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Linux has it and macOS does not, where a service is only developed with.
    if (user_timeout := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        listener.setsockopt(socket.IPPROTO_TCP, user_timeout, int(options.unacknowledged_seconds * 1000))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.send_buffer_bytes)


def uvicorn_settings(options: ServerOptions, service: Service, flusher: Flusher) -> dict[str, Any]:
    """The settings of uvicorn that uvicorn-worker does not take from gunicorn."""
    return {
        "loop": "uvloop",
        "http": partial(
            StarlingHttp,
            options=options,
            admit=service.admit,
            endpoints=service.endpoints,
            requests=service.requests,
            on_refused=service.on_refused,
            flusher=flusher,
            compression=Compression() if options.compression else None,
        ),
        "ws": StarlingWebSocket,  # StarlingHttp makes them; uvicorn only asks whether there is such a class
        "ws_max_size": options.max_message_bytes,
        "ws_per_message_deflate": False,
        "ws_ping_interval": None,  # the engine's timer wheel pings
        "ws_ping_timeout": None,
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "server_header": False,
        "proxy_headers": bool(options.trusted_proxies),
        "forwarded_allow_ips": [unmapped_network(proxy) for proxy in options.trusted_proxies],
        "backlog": options.backlog,
        "workers": 1,
        "callback_notify": None,  # the worker's own heartbeat goes on where uvicorn's does not
        "timeout_graceful_shutdown": options.shutdown_seconds,
    }


def publish_status(readiness: Readiness, slot: Slot) -> None:
    """Write what `readiness` reports to the worker's slot, now and at each change of it."""

    def publish() -> None:
        report = {"pid": os.getpid(), "started": readiness.started, **readiness.describe()}
        slot.write_report(msgspec.json.encode(report))

    readiness.observe(publish)
    publish()


def write_status(path: Path, status: object) -> None:
    """Leave `status` as JSON in `path`, whole at every moment."""
    try:
        unfinished = path.with_suffix(".new")
        unfinished.write_bytes(msgspec.json.encode(status))
        unfinished.replace(path)
    except OSError as error:
        log.error("status_not_written", path=str(path), error=str(error))  # noqa: TRY400 - a stack adds nothing to the error


def leave_by(sig: signal.Signals) -> None:
    """Die of `sig`, with every log line written that was said."""
    logging.shutdown()
    signal.signal(sig, signal.SIG_DFL)
    signal.raise_signal(sig)
