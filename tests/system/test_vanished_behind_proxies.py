"""A client that vanishes behind nginx, HAProxy or Envoy, with the configurations of `deploy/`, is gone in bounded time.

The proxy is in a network namespace with a cable to its clients and one to the service; that of the clients is cut.
"""

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cable import Cable, laid_cable, second_cable
from tests.support.front_proxies import DEPLOY, PROXIES, Front, make_certificates, running_proxy
from tests.support.running import Starling
from tests.support.services import free_port
from tests.support.streams import get, post
from tests.support.waiting import DEADLINE

# What docs/ingress-timeouts.md has for the configurations as they are, and for the sockets of other tests. Seconds.
GONE_WITHIN = {"nginx": 30, "haproxy": 40, "envoy": 30}
BUSY_MACHINE = 5
# The same with a tenth of the times, for which a test need not wait half a minute.
SHORT: Mapping[str, Mapping[str, str]] = {
    "nginx": {"so_keepalive=10s:2s:3": "so_keepalive=1s:1s:1"},
    "haproxy": {"clitcpka-idle  10s": "clitcpka-idle 1s", "clitcpka-intvl 2s": "clitcpka-intvl 1s", "12s": "1s"},
    "envoy": {
        "int_value: 10,": "int_value: 1,",
        "int_value: 2,": "int_value: 1,",
        "int_value: 12000": "int_value: 1200",
    },
}
# tcp_retries2 of the namespace: as deploy/compose.yaml has it for nginx, and what ends a connection within a second.
RETRIES, SHORT_RETRIES = 5, 1
REQUESTS = (
    get("/sse/quiet"),
    get("/connection/uni_sse?cf_connect=%7B%7D"),
    post("/connection/uni_http_stream", b"{}"),
    post("/connection/http_stream", b'{"id":1,"connect":{}}'),
    get("/connection/sse?cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%7D%7D"),
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("project"))


@pytest.fixture
def clients() -> Iterator[Cable]:
    with laid_cable() as cable:
        yield cable


@pytest.fixture
def service(clients: Cable) -> Cable:
    return second_cable(clients)


def opened(host: str, port: int, request: bytes) -> ssl.SSLSocket:
    """A stream that has begun. Its certificate is for another name."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    deadline = time.monotonic() + DEADLINE
    while True:
        stream = context.wrap_socket(socket.create_connection((host, port), 10), server_hostname="localhost")
        stream.sendall(request)
        if stream.recv(65536).startswith(b"HTTP/1.1 200"):
            return stream
        # The proxy has not found its server healthy yet.
        stream.close()
        assert time.monotonic() < deadline, "no stream opens"
        time.sleep(0.05)


def over_http2(cable: Cable, port: int) -> subprocess.Popen[bytes]:
    """The same over HTTP/2."""
    address = f"https://{cable.far}:{port}/sse/quiet"
    return subprocess.Popen(["curl", "-skN", "--http2", address], stdout=subprocess.PIPE)


def gone_after(starling: Starling, vanish: Callable[[], None], longest: float) -> None:
    """Return once no client is left; fail `longest` seconds after they have begun to vanish."""

    def left() -> float:
        return sum(value for name, value in starling.metrics().items() if name.startswith("starling_connections{"))

    deadline = time.monotonic() + DEADLINE
    while left() != len(REQUESTS) + 1:
        assert time.monotonic() < deadline, f"{left()} clients are in"
        time.sleep(0.1)
    vanish()
    deadline = time.monotonic() + longest
    while left():
        assert time.monotonic() < deadline, f"{left()} clients are held after {longest:g} s"
        time.sleep(0.1)


@pytest.mark.parametrize(
    "name", ["nginx", *(pytest.param(name, marks=pytest.mark.long) for name in PROXIES if name != "nginx")]
)
@pytest.mark.parametrize(
    "short", [pytest.param(True, id="short"), pytest.param(False, id="full", marks=pytest.mark.long)]
)
def test_idle_clients_that_vanish_behind_a_proxy_are_gone_in_bounded_time(
    name: str, short: bool, clients: Cable, service: Cable, certificates: Path, tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    environment = {
        "STARLING_DEV": "true",
        "STARLING_HOST": "0.0.0.0",
        "STARLING_INTERNAL_HOST": "0.0.0.0",
        "STARLING_PING_SECONDS": "2" if short else "25",
        "STARLING_PONG_SECONDS": "1" if short else "8",
    }
    retries = SHORT_RETRIES if short else RETRIES
    inside = ("ip", "netns", "exec", clients.namespace, "sh", "-c")
    setting = f'echo {retries if name == "nginx" else 15} > /proc/sys/net/ipv4/tcp_retries2; exec "$@"'
    with ExitStack() as stack:
        starling = stack.enter_context(Starling(environment))
        front = Front(
            starling=starling,
            certificates=certificates,
            directory=tmp_path,
            port=free_port(),
            host=clients.far,
            upstream=service.near,
            changes=SHORT[name] if short else {},
        )
        stack.enter_context(running_proxy(name, front, before=(*inside, setting, "proxy")))
        for request in REQUESTS:
            stack.enter_context(opened(clients.far, front.port, request))
        curl = stack.enter_context(over_http2(clients, front.port))
        stack.callback(curl.kill)
        gone_after(starling, clients.cut, DEADLINE if short else GONE_WITHIN[name] + BUSY_MACHINE)


def test_the_compose_file_sets_for_nginx_what_its_own_configuration_cannot() -> None:
    assert f"net.ipv4.tcp_retries2: {RETRIES}\n" in (DEPLOY / "compose.yaml").read_text()
