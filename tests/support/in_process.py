"""A worker's server in a thread of this process, for tests that start no process: its protocols, limits and drain."""

import asyncio
import gc
import os
import socket
import threading
from types import TracebackType
from typing import Self

import uvicorn
import uvloop

from starling.server.client_socket import Flusher
from starling.server.drain import DrainServer
from starling.server.options import ServerOptions
from starling.server.service import Service
from starling.server.worker import set_socket_options, uvicorn_settings
from tests.support.waiting import DEADLINE


class InProcessServer:
    """A context manager that serves on a free port of `options.host` (127.0.0.1), and drains at its end."""

    def __init__(self, options: ServerOptions, service: Service) -> None:
        self._options = options
        self._service = service
        host = options.host or "127.0.0.1"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
        set_socket_options(self._listener, options)
        self.port: int = self._listener.getsockname()[1]
        settings = uvicorn_settings(options, service, Flusher(options.waiting_budget_bytes))
        config = uvicorn.Config(service.asgi, log_config=None, **settings)
        self._server = DrainServer(config, options=options, service=service, master=os.getppid())
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thresholds = gc.get_threshold()
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
        # The server has set these for a process of its own.
        gc.unfreeze()
        gc.set_threshold(*self._thresholds)

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
