"""The server of a worker and of the internal port in threads of this process, for tests that start no process."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from starling.main import build_application, build_service, server_options
from starling.server.application import prepare_runtime_dir
from starling.server.board import Board, Slot
from starling.server.client_socket import Flusher
from starling.server.drain import DrainServer
from starling.server.internal import InternalServer
from starling.server.options import ServerOptions
from starling.server.pod import Pod
from starling.server.service import Service
from starling.server.worker import publish_status, set_socket_options, uvicorn_settings
from starling.settings import load_settings
from tests.support.services import free_port
from tests.support.waiting import DEADLINE


class InProcessServer:
    """A context manager that serves on a free port of `options.host` (127.0.0.1), and drains at its end.

    Everything that this process logs meanwhile is in `lines`, each with its `level`, and goes nowhere else.
    """

    def __init__(self, options: ServerOptions, service: Service) -> None:
        self.lines: list[dict[str, Any]] = []
        self._options = options
        self._service = service
        host = options.host or "127.0.0.1"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
        set_socket_options(self._listener, options)
        self.port: int = self._listener.getsockname()[1]
        settings = uvicorn_settings(options, service, Flusher(options.waiting_budget_bytes))
        config = uvicorn.Config(service.asgi, log_config=None, **settings)
        self._server = _Server(config, options=options, service=service, master=os.getppid())
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        processors = structlog.get_config()["processors"]
        # Several servers may run at a time: each gets all lines.
        processors.insert(0, self._record)
        if _drop not in processors:
            processors.insert(1, _drop)
        self._service.begin()
        self._thread.start()
        assert self._serving.wait(DEADLINE)
        assert self._server.started, "the server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the server did not stop"
        processors = structlog.get_config()["processors"]
        processors.remove(self._record)
        if processors[0] is _drop:
            processors.remove(_drop)

    def _record(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        self.lines.append({**event, "level": method})
        return event

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(self._serve())
            finally:
                self._serving.set()

    async def _serve(self) -> None:
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.01)
        self._serving.set()
        await serving


class _Server(DrainServer):
    """Leaves garbage collection as it is, which a worker sets for a process of its own."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await uvicorn.Server.startup(self, sockets)


def _drop(_logger: object, _method: str, _event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop a log line: it is in `lines` already."""
    raise structlog.DropEvent


class _InternalServer(InternalServer):
    """Reports the event loop of the worker in `slot` as turning, as the worker's own heartbeat would."""

    def __init__(self, options: ServerOptions, pod: Pod, slot: Slot) -> None:
        super().__init__(options, pod)
        self._slot = slot

    def service_actions(self) -> None:
        self._slot.heartbeat()
        super().service_actions()


class InProcessStarling:
    """A pod of one worker with its internal port, as `starling serve` would build it from these settings.

    Metrics of the worker are in `built`: only processes of their own have the files that the internal port reads.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        internal_port = free_port()
        self.environment = {
            "STARLING_RUNTIME_DIR": str(directory),
            "STARLING_INTERNAL_HOST": "127.0.0.1",
            "STARLING_INTERNAL_PORT": str(internal_port),
            "STARLING_DRAIN_DELAY_SECONDS": "0",
            "STARLING_DRAIN_SECONDS": "0",
            "STARLING_MAX_LAG_SECONDS": "0",
            "STARLING_MAX_MEMORY_SHARE": "0",
            **environment,
        }
        self.settings = load_settings(self.environment)
        self.internal = f"http://127.0.0.1:{internal_port}"
        self.built = build_application(self.settings, CollectorRegistry())
        self.board = Board()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        options = server_options(self.settings)
        service = build_service(self.settings, self.environment, self.built)
        prepare_runtime_dir(options)
        slot = self.board.claim()
        slot.enter()
        slot.heartbeat()
        publish_status(service.readiness, slot)
        internal = _InternalServer(options, Pod(self.board, options.status_dir, DEADLINE, top_channels=10), slot)
        # This process is its own master, and no worker has ended.
        internal.master = os.getppid()
        answering = threading.Thread(target=internal.serve_forever, kwargs={"poll_interval": 0.05})
        answering.start()
        self._stack.callback(internal.server_close)
        self._stack.callback(answering.join)
        self._stack.callback(internal.shutdown)
        self.server = self._stack.enter_context(InProcessServer(options, service))
        self.port = self.server.port
        self.http = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
