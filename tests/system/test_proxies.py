"""wss through the example configurations of nginx, HAProxy and Envoy, with a private CA of the test's own."""

import asyncio
import json
import random
import ssl
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.front_proxies import (
    DEPLOY,
    LOWERED,
    PROXIES,
    PROXY_TIMEOUT,
    Front,
    make_certificates,
    running_proxy,
)
from tests.support.running import Starling
from tests.support.services import free_port
from tests.support.waiting import DEADLINE

# Starling pings every 2 s here.
PING = {"STARLING_DEV": "true", "STARLING_PING_SECONDS": "2", "STARLING_PONG_SECONDS": "1"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def starling() -> Iterator[Starling]:
    """One service for both proxies' two servers."""
    with Starling(PING) as running:
        yield running


@pytest.fixture(scope="module", params=PROXIES)
def front_proxy(
    request: pytest.FixtureRequest,
    starling: Starling,
    certificates: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The wss address of a proxy with the example's configuration."""
    name, port = request.param, free_port()
    directory = tmp_path_factory.mktemp(name)
    front = Front(starling=starling, certificates=certificates, directory=directory, port=port, changes=LOWERED[name])
    with running_proxy(name, front):
        yield f"wss://localhost:{port}"


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
    ["nginx", *(pytest.param(name, marks=pytest.mark.long) for name in ("haproxy", "envoy"))],
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
    with Starling({**PING, "STARLING_PING_SECONDS": "60"}) as silent:
        port = free_port()
        front = Front(
            starling=silent, certificates=certificates, directory=tmp_path, port=port, changes=LOWERED["nginx"]
        )
        with running_proxy("nginx", front):
            async with connect(f"wss://localhost:{port}/ws", ssl=trust, ping_interval=None) as echo:
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(echo.recv(), 3 * PROXY_TIMEOUT)


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
