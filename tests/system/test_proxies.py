"""wss through the example configurations of nginx, HAProxy and Envoy, with a private CA of the test's own."""

import asyncio
import json
import random
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.running import Starling
from tests.support.services import free_port
from tests.support.waiting import DEADLINE

DEPLOY = Path(__file__).parents[2] / "deploy"
# Starling pings every 2 s here, and the proxies cut what is silent for 4 s.
PING = {"STARLING_DEV": "true", "STARLING_PING_SECONDS": "2", "STARLING_PONG_SECONDS": "1"}
PROXY_TIMEOUT = 4


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script for trying out makes, made in a directory of the test's own."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "deploy").mkdir()
    (directory / "tools" / "setup").mkdir(parents=True)
    script = shutil.copy(DEPLOY.parent / "tools" / "setup" / "compose-secrets.sh", directory / "tools" / "setup")
    subprocess.run([script], check=True, capture_output=True)
    secrets = directory / "deploy" / "secrets"
    (secrets / "tls.pem").write_text((secrets / "tls.crt").read_text() + (secrets / "tls.key").read_text())
    return secrets


@pytest.fixture(scope="module")
def starling() -> Iterator[Starling]:
    """One service for both proxies' two servers."""
    with Starling(PING) as running:
        yield running


def changed(text: str, changes: dict[str, str]) -> str:
    """The example with this machine's addresses, each of which must stand in it."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the example"
        text = text.replace(old, new)
    return text


def start_nginx(starling: Starling, certificates: Path, directory: Path, port: int) -> list[str]:
    server = changed(
        (DEPLOY / "nginx" / "starling.conf").read_text(),
        {
            "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
            "server starling-1:8000 ": f"server 127.0.0.1:{starling.port} ",
            "server starling-2:8000 ": f"server 127.0.0.2:{starling.port} down ",
            "/etc/nginx/certs": str(certificates),
            "timeout 60s": f"timeout {PROXY_TIMEOUT}s",
            "timeout 30s": f"timeout {PROXY_TIMEOUT}s",
        },
    )
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{ access_log off; {temporary} {server} }}\n"
    )
    return ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")]


def start_haproxy(starling: Starling, certificates: Path, directory: Path, port: int) -> list[str]:
    text = changed(
        (DEPLOY / "haproxy" / "haproxy.cfg").read_text(),
        {
            "bind :443": f"bind 127.0.0.1:{port}",
            "/etc/haproxy/certs": str(certificates),
            "starling-1:8000 check port 9090": f"127.0.0.1:{starling.port} check port {starling.internal_port}",
            "server starling-2 starling-2:8000 check port 9090 inter 2s fall 2 rise 1\n": "",
            "60s": f"{PROXY_TIMEOUT}s",
            "30s": f"{PROXY_TIMEOUT}s",
            "inter 2s": "inter 200ms",
            "maxconn 20000": "maxconn 1000",
        },
    )
    (directory / "haproxy.cfg").write_text(text + "\n")
    return ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]


def start_envoy(starling: Starling, certificates: Path, directory: Path, port: int) -> list[str]:
    text = changed(
        (DEPLOY / "envoy" / "envoy.yaml").read_text(),
        {
            "{address: 0.0.0.0, port_value: 443}": f"{{address: 127.0.0.1, port_value: {port}}}",
            "/etc/envoy/certs": str(certificates),
            "{address: starling-1, port_value: 8000}": f"{{address: 127.0.0.1, port_value: {starling.port}}}",
            "{address: starling-2, port_value: 8000}": f"{{address: 127.0.0.1, port_value: {starling.port}}}",
            "port_value: 9090": f"port_value: {starling.internal_port}",
            "30s": f"{PROXY_TIMEOUT}s",
            "interval: 2s": "interval: 0.2s",
        },
    )
    (directory / "envoy.yaml").write_text(text)
    envoy = str(Path(sys.executable).with_name("envoy"))
    return [envoy, "-c", str(directory / "envoy.yaml"), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"]


Proxy = Callable[[Starling, Path, Path, int], list[str]]


@pytest.fixture(scope="module", params=[start_nginx, start_haproxy, start_envoy], ids=["nginx", "haproxy", "envoy"])
def front_proxy(
    request: pytest.FixtureRequest,
    starling: Starling,
    certificates: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The wss address of a proxy with the example's configuration."""
    proxy: Proxy = request.param
    name = proxy.__name__.removeprefix("start_")
    if name != "envoy" and shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    directory = tmp_path_factory.mktemp(name)
    port = free_port()
    log = (directory / "output").open("wb")
    process = subprocess.Popen(
        proxy(starling, certificates, directory, port), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        wait_for(port, process, directory / "output")
        yield f"wss://localhost:{port}"
    finally:
        process.terminate()
        process.wait(DEADLINE)
        log.close()


def wait_for(port: int, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)


@pytest.fixture(scope="module")
def trust(certificates: Path) -> ssl.SSLContext:
    """What trusts the test's CA and nobody else."""
    return ssl.create_default_context(cafile=str(certificates / "ca.crt"))


async def until_open(front_proxy: str, trust: ssl.SSLContext) -> None:
    """Until the proxy has found its server healthy."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            async with connect(f"{front_proxy}/ws", ssl=trust):
                return
        except InvalidStatus:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_every_endpoint_opens_over_wss(front_proxy: str, trust: ssl.SSLContext) -> None:
    await until_open(front_proxy, trust)
    async with connect(f"{front_proxy}/ws", ssl=trust) as echo:
        await echo.send("hello")
        assert await echo.recv() == "Message text was: hello"
    async with connect(f"{front_proxy}/items/foo/ws?token=t&q=1", ssl=trust) as items:
        await items.send("hi")
        assert await items.recv() == "Session cookie or query token value is: t"
    async with connect(f"{front_proxy}/ws/7", ssl=trust) as chat:
        await chat.send("hi")
        assert [await chat.recv(), await chat.recv()] == ["You wrote: hi", "Client #7 says: hi"]


async def test_an_unknown_ca_is_not_trusted(front_proxy: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect(f"{front_proxy}/ws", ssl=ssl.create_default_context())


# Envoy and HAProxy too: `make soak`.
@pytest.mark.parametrize(
    "front_proxy",
    [start_nginx, *(pytest.param(start, marks=pytest.mark.long) for start in (start_haproxy, start_envoy))],
    ids=["nginx", "haproxy", "envoy"],
    indirect=True,
)
async def test_idle_for_longer_than_the_proxys_timeout_stays_up_by_heartbeat(
    front_proxy: str, trust: ssl.SSLContext
) -> None:
    await until_open(front_proxy, trust)
    async with connect(f"{front_proxy}/ws", ssl=trust, ping_interval=None) as echo:
        await asyncio.sleep(PROXY_TIMEOUT + 2)
        await echo.send("still here")
        assert await echo.recv() == "Message text was: still here"


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("keep_alives", [0, pytest.param(PROXY_TIMEOUT, marks=pytest.mark.long)])
async def test_an_event_comes_while_its_stream_is_open(
    front_proxy: str, trust: ssl.SSLContext, certificates: Path, starling: Starling, version: str, keep_alives: int
) -> None:
    await until_open(front_proxy, trust)
    address = f"{front_proxy.replace('wss', 'https')}/sse/demo:{random.getrandbits(32)}"
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sNi", version, "--cacert", str(certificates / "ca.crt"), address), stdout=asyncio.subprocess.PIPE
    )
    assert curl.stdout is not None
    try:
        assert (await curl.stdout.readline()).startswith(b"HTTP/2 200" if version == "--http2" else b"HTTP/1.1 200")
        await curl.stdout.readuntil(b"\nid: ")
        publication = json.dumps({"channel": address.rpartition("/")[2], "data": version}).encode()
        request = urllib.request.Request(f"{starling.http}/api/publish", publication, {"X-API-Key": "dev"})
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=10).close())
        await curl.stdout.readuntil(b'\ndata: "%b"\n' % version.encode())
        # They come every 2 s, so it is open for longer than the proxy lets a silent response be.
        for _ in range(keep_alives):
            await curl.stdout.readuntil(b"\n:\n")
        assert curl.returncode is None
    finally:
        curl.kill()
        await curl.communicate()


@pytest.mark.long
async def test_without_heartbeat_the_proxy_would_have_cut_it(
    certificates: Path, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    with Starling({**PING, "STARLING_PING_SECONDS": "60"}) as silent:
        port = free_port()
        process = subprocess.Popen(start_nginx(silent, certificates, tmp_path, port), start_new_session=True)
        try:
            wait_for(port, process, tmp_path / "error.log")
            async with connect(f"wss://localhost:{port}/ws", ssl=trust, ping_interval=None) as echo:
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(echo.recv(), 3 * PROXY_TIMEOUT)
        finally:
            process.terminate()
            process.wait(DEADLINE)


@pytest.fixture
def address() -> str:
    """A client's own, which no line of the log names yet: the proxies share one service."""
    return f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}"


async def test_the_clients_own_address_arrives(
    front_proxy: str, trust: ssl.SSLContext, starling: Starling, address: str
) -> None:
    await until_open(front_proxy, trust)
    async with connect(f"{front_proxy}/ws", ssl=trust, local_addr=(address, 0)):
        assert await asyncio.to_thread(starling.reported, "client_connected", address=address)


async def test_what_a_client_claims_of_its_address_goes_no_further(
    front_proxy: str, trust: ssl.SSLContext, starling: Starling, address: str
) -> None:
    await until_open(front_proxy, trust)
    claimed = {"X-Forwarded-For": "203.0.113.7"}
    async with connect(f"{front_proxy}/ws", ssl=trust, additional_headers=claimed, local_addr=(address, 0)):
        assert await asyncio.to_thread(starling.reported, "client_connected", address=address)


async def test_a_hop_that_is_not_trusted_is_not_believed() -> None:
    with Starling({**PING, "STARLING_TRUSTED_PROXIES": "10.9.8.7"}) as starling:
        async with connect(f"{starling.url}/ws", additional_headers={"X-Forwarded-For": "203.0.113.7"}):
            (line,) = await asyncio.to_thread(starling.reported, "client_connected")
        assert line["address"] == "127.0.0.1"


def test_the_compose_file_uses_the_charts_own_dashboards_and_rules() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())

    assert "../helm/starling/dashboards:/var/lib/grafana/dashboards:ro" in compose["services"]["grafana"]["volumes"]
    assert "../helm/starling/rules:/etc/prometheus/rules:ro" in compose["services"]["prometheus"]["volumes"]
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith(".") and "secrets" not in source:
                assert (DEPLOY / source).exists(), source


def test_the_compose_file_sets_settings_that_exist() -> None:
    from starling.settings import Settings

    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    names = compose["services"]["starling-1"]["environment"]
    fields = {name.removeprefix("STARLING_").removesuffix("_FILE").lower() for name in names}

    assert fields - set(Settings.model_fields) == set()
