"""A model on loopback that speaks the event formats of OpenAI's chat completions and of Anthropic's messages."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support.services import free_port


class FakeModel:
    """Answers every question with `tokens`; with `fails` an error is its last event, with `hangs` it never ends."""

    def __init__(self, tokens: list[str], *, fails: bool = False, hangs: bool = False) -> None:
        self.tokens = tokens
        self.fails = fails
        self.port = free_port()
        self._go = threading.Event()
        if not hangs:
            self._go.set()
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                events = model.messages() if self.path == "/v1/messages" else model.completions()
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for event in events:
                        self.wfile.write(event.encode())
                        self.wfile.flush()
                except OSError:
                    return

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def completions(self) -> Iterator[str]:
        """The events of a chat completion."""
        yield _data({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for token in self.tokens:
            yield _data({"choices": [{"index": 0, "delta": {"content": token}}]})
        self._go.wait(30)
        yield _data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield "data: [DONE]\n\n"

    def messages(self) -> Iterator[str]:
        """The events of a message."""
        yield _event("message_start", message={"role": "assistant", "content": []})
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for token in self.tokens:
            yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": token})
            yield _event("ping")
        self._go.wait(30)
        if self.fails:
            yield _event("error", error={"type": "overloaded_error", "message": "Overloaded"})
            return
        yield _event("content_block_stop", index=0)
        yield _event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": len(self.tokens)})
        yield _event("message_stop")

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._go.set()
        self._server.shutdown()
        self._server.server_close()


def _data(content: Any) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _event(kind: str, **content: Any) -> str:
    return f"event: {kind}\n" + _data({"type": kind, **content})
