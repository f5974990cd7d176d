"""The service under plain uvicorn in a thread of this process, as an application that others host."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import uvicorn
from prometheus_client import CollectorRegistry

from starling.main import build_application
from starling.settings import load_settings
from tests.support.services import free_port
from tests.support.waiting import DEADLINE


@contextmanager
def under_uvicorn(environment: Mapping[str, str]) -> Iterator[int]:
    """The port of a service with these settings, until the context ends."""
    port = free_port()
    application = build_application(load_settings(environment), CollectorRegistry()).asgi
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + DEADLINE
    try:
        while not server.started:
            assert time.monotonic() < deadline, "uvicorn did not start"
            time.sleep(0.02)
        yield port
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
