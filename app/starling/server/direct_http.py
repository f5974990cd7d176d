"""Requests of one HTTP connection that an endpoint answers without ASGI, in the protocol of uvicorn.

starling.server.http lists the members of uvicorn's HttpToolsProtocol that this module uses too.
"""

import asyncio
from abc import ABC, abstractmethod
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from starling.engine.direct_request import DirectRequest, RequestEndpoint, StreamResponse, Work
from starling.server.bounded_responses import BoundedResponses
from starling.server.client_address import client_address
from starling.server.client_socket import Flusher
from starling.server.direct_request import DirectCycle
from starling.server.known_heads import KnownHeads


class DirectHttp(BoundedResponses, ABC):
    """Lets `requests` answer what it accepts; the ASGI application answers the rest, in the order of the requests."""

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
        flusher: Flusher,
        requests: RequestEndpoint | None,
    ) -> None:
        super().__init__(config, server_state, app_state, loop, flusher)
        self._requests = requests
        self._running: RequestResponseCycle | None = None
        self._known_heads: KnownHeads | None = None
        self._idle_since = 0.0

    @property
    def _busy(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _answer_known(self, data: bytes) -> bool:
        """Answer `data` without parsing its head, if it is one request whose head came before on this connection.

        Only between two requests. Returns False where it must be parsed.
        """
        if self._known_heads is None or (known := self._known_heads.find(data)) is None:
            return False
        work, body = known
        cycle = self._direct_cycle(work, keep_alive=True)
        self._running = self.cycle = cast("RequestResponseCycle", cycle)
        self._run_directly(cycle, body)
        return True

    def _remember_head(self, data: bytes) -> None:
        """Remember the head of `data`, if it is one whole request that was answered without ASGI."""
        cycle: object = self.cycle
        if self._requests is None or not isinstance(cycle, DirectCycle) or cycle.more_body or not cycle.keep_alive:
            return
        if self._known_heads is None:
            self._known_heads = KnownHeads(self._requests)
        self._known_heads.remember(data, len(cycle.body), cycle.work)

    def _begin_directly(self, endpoint: RequestEndpoint) -> bool:
        """Begin a request that `endpoint` answers without ASGI; False where the ASGI application must."""
        if self.parser.should_upgrade():
            return False
        path, _, query = self.url.partition(b"?")
        if self._busy or self.flow.write_paused or self.expect_100_continue or self.root_path:
            return False
        method, address = self.parser.get_method().decode(), client_address(self.app, self.client, self.headers)
        # Decoded as uvicorn does it for an ASGI application.
        request = DirectRequest(method, unquote(path.decode("latin-1")), self.headers, address, query)
        work = endpoint.accept(request)
        if work is None:
            return False
        current = self.parser.get_http_version() != "1.0"
        keep_alive = current and self.parser.should_keep_alive()
        self.cycle = cast("RequestResponseCycle", self._direct_cycle(work, keep_alive=keep_alive, chunked=current))
        return True

    @abstractmethod
    def _open_stream(self, chunked: bool, response: StreamResponse, head: bytes) -> None:
        """Hand the connection over to a streamed response, whose `head` lacks the fields of its body."""

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; what is answered without ASGI has a length that the endpoint has checked."""
        if not isinstance(cycle := cast("object", self.cycle), DirectCycle):
            super().on_body(body)
            return
        cycle.body += body

    def on_message_complete(self) -> None:
        """Answer a request that is whole."""
        super().on_message_complete()
        cycle: object = self.cycle
        if isinstance(cycle, DirectCycle) and not cycle.disconnected:
            self._run_directly(cycle, bytes(cycle.body))

    def _direct_cycle(self, work: Work, *, keep_alive: bool, chunked: bool = True) -> DirectCycle:
        return DirectCycle(
            work,
            self.transport,
            self.server_state.default_headers,
            keep_alive=keep_alive,
            on_response=self._end_directly,
            open_stream=partial(self._open_stream, chunked),
        )

    def _run_directly(self, cycle: DirectCycle, body: bytes) -> None:
        cycle.more_body = False
        if (waiting := cycle.run(body)) is not None:
            task = self.loop.create_task(waiting)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _end_directly(self) -> None:
        """Wait for the next request; where a keep-alive timer runs already, it is that of this wait too."""
        self._idle_since = self.loop.time()
        if self.pipeline or self.timeout_keep_alive_task is None:
            self.on_response_complete()
        else:
            self._running = None
            self.server_state.total_requests += 1

    def on_response_complete(self) -> None:
        """Go on with the next request of a pipeline."""
        self._idle_since = self.loop.time()
        self._running = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle for the whole time; the timer may be that of an earlier request."""
        self.timeout_keep_alive_task = None
        if self._busy:
            return
        idle_until = self._idle_since + self.timeout_keep_alive
        if self.loop.time() < idle_until:
            self.timeout_keep_alive_task = self.loop.call_at(idle_until, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()
