"""Responses over HTTP that wait for a client which reads slowly: one at a time, within the budget of the worker.

starling.server.http lists the members of uvicorn's HttpToolsProtocol that this module uses too.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from starling.server.client_socket import Flusher

# What may wait for each client without being counted; so much is joined into one write. Bytes.
UNCOUNTED_BYTES = 16384


class BoundedResponses(HttpToolsProtocol):
    """Implements starling.server.waiting.SlowClient: what the kernel has not taken of a response counts.

    A response has no code that would say why it ends, so beyond the budget the connection is cut.
    """

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
        flusher: Flusher,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._flusher = flusher
        self._completes_later = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Have the transport report what waits."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(UNCOUNTED_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the client no more."""
        self._completes_later = False
        self._flusher.waiting.discard(self)
        super().connection_lost(exc)

    def give_up_connection(self) -> None:
        """Another protocol has taken the connection over."""
        self.connections.discard(self)
        self._flusher.waiting.discard(self)

    def pause_writing(self) -> None:
        """A response waits, and what comes after it has to wait, too."""
        super().pause_writing()
        self._flusher.waiting.add(self)
        self._flusher.budget.add(self.waiting_bytes)

    def resume_writing(self) -> None:
        """The client has taken what waited."""
        self._flusher.waiting.discard(self)
        super().resume_writing()
        if self._completes_later:
            self._completes_later = False
            self.on_response_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, once the client takes the response to this one: it would wait in memory, too."""
        if self.flow.write_paused and not self.transport.is_closing():
            self._completes_later = True
            self.flow.pause_reading()
        else:
            super().on_response_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin a request, or queue it behind the response that waits, which uvicorn takes for complete."""
        if self._completes_later:
            self.pipeline.appendleft((cycle, app))
        else:
            super()._start_asgi_task(cycle, app)

    # What the budget asks

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self.transport.get_write_buffer_size()

    @property
    def own_waiting_bytes(self) -> int:
        """All of them: no other client has the same response."""
        return self.waiting_bytes

    @property
    def closing(self) -> bool:
        """Whether the connection ends after this response."""
        return self.transport.is_closing()

    def overflow(self) -> None:
        """Cut the connection."""
        self.transport.abort()

    abort = overflow
