"""What bad input gets from the running service: a clear refusal, counted, and the service serves on."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from starling.auth.issue import issue_connection_token
from tests.support.running import SECRET, Starling
from tests.support.services import free_port
from tests.support.waiting import DEADLINE

STARLING = str(Path(sys.executable).with_name("starling"))


@pytest.fixture(scope="module")
def starling() -> Iterator[Starling]:
    """One worker on memory outside developer mode, with a short handshake deadline."""
    environment = {"STARLING_TOKEN_HMAC_SECRET": SECRET, "STARLING_HANDSHAKE_SECONDS": "3"}
    with Starling(environment) as running:
        yield running


@pytest.fixture
def token() -> str:
    return issue_connection_token(SECRET, "alice", 300)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [STARLING, *arguments],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


async def refused(starling: Starling, reason: str, before: float, *, at_least: int = 1) -> None:
    """Wait until the metric for `reason` has grown; it is carried over once a second."""
    deadline = time.monotonic() + DEADLINE
    while (counted := refusals(starling, reason)) < before + at_least:
        assert time.monotonic() < deadline, f"{reason} was not counted: {counted} after {before}"
        await asyncio.sleep(0.1)


def refusals(starling: Starling, reason: str) -> float:
    return starling.metrics().get(f'starling_connections_refused_total{{reason="{reason}"}}', 0.0)


async def serves_on(starling: Starling, token: str) -> None:
    async with connect(f"{starling.url}/ws", additional_headers=bearer(token)) as echo:
        await echo.send("still here")
        assert await echo.recv() == "Message text was: still here"


def test_unknown_and_wrong_settings_are_named_all_at_once_and_nothing_starts() -> None:
    ended = run({"STARLING_WORKERS": "2", "STARLING_LOG_LEVEL": "loud", "STARLING_POTR": "1"}, "serve")

    assert ended.returncode == 2
    assert "STARLING_POTR is not a setting: did you mean STARLING_PORT?" in ended.stderr
    assert "STARLING_LOG_LEVEL: " in ended.stderr
    assert "STARLING_WORKERS is 2, but memory://" in ended.stderr
    assert "STARLING_TOKEN_HMAC_SECRET" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("setting", ["STARLING_PORT", "STARLING_INTERNAL_PORT"])
def test_a_port_that_is_taken_is_named(setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"STARLING_PORT": str(free_port()), "STARLING_INTERNAL_PORT": str(free_port())}
        ports[setting] = str(taken.getsockname()[1])
        hosts = {"STARLING_HOST": "127.0.0.1", "STARLING_INTERNAL_HOST": "127.0.0.1", "STARLING_DEV": "true"}
        ended = run({**hosts, **ports, "STARLING_LOG_FORMAT": "json"}, "serve")

    output = ended.stdout + ended.stderr
    assert ended.returncode == 1
    assert "port_not_available" in output
    assert f"set {setting} to a free port" in output
    assert "Traceback" not in output


async def test_a_malformed_token_is_401_and_counted(starling: Starling, token: str) -> None:
    before = refusals(starling, "invalid_token")

    with pytest.raises(InvalidStatus) as refusal:
        await connect(f"{starling.url}/ws", additional_headers=bearer("a.b.c"))

    assert refusal.value.response.status_code == 401
    await refused(starling, "invalid_token", before)
    await serves_on(starling, token)


async def test_a_missing_token_is_403_and_counted(starling: Starling, token: str) -> None:
    before = refusals(starling, "no_token")

    with pytest.raises(InvalidStatus) as refusal:
        await connect(f"{starling.url}/ws/1")

    assert refusal.value.response.status_code == 403
    await refused(starling, "no_token", before)
    await serves_on(starling, token)


async def test_parameters_that_do_not_fit_are_422_and_counted(starling: Starling, token: str) -> None:
    before = refusals(starling, "parameters")

    for path in ("/ws/abc", "/items/foo/ws?q=abc"):
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"{starling.url}{path}", additional_headers=bearer(token))
        assert refusal.value.response.status_code == 422

    await refused(starling, "parameters", before, at_least=2)
    await serves_on(starling, token)


async def test_a_message_over_the_limit_is_1009_and_counted(starling: Starling, token: str) -> None:
    before = refusals(starling, "message_too_large")

    async with connect(f"{starling.url}/ws", additional_headers=bearer(token)) as client:
        await client.send("x" * 65536)
        assert len(await client.recv()) == 65536 + len("Message text was: ")
        await client.send("x" * 65537)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    await refused(starling, "message_too_large", before)
    await serves_on(starling, token)


async def test_invalid_utf8_is_1007_and_counted(starling: Starling, token: str) -> None:
    before = refusals(starling, "invalid_utf8")

    async with connect(f"{starling.url}/ws", additional_headers=bearer(token)) as client:
        await client.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007
    await refused(starling, "invalid_utf8", before)
    await serves_on(starling, token)


async def test_headers_over_the_limit_are_431_and_counted(starling: Starling, token: str) -> None:
    before = refusals(starling, "head_too_large")

    for headers in ({"X-Large": "x" * 100_000}, {f"X-{number}": "x" for number in range(300)}):
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"{starling.url}/ws", additional_headers=headers)
        assert refusal.value.response.status_code == 431

    await refused(starling, "head_too_large", before, at_least=2)
    await serves_on(starling, token)


async def test_ten_thousand_half_open_connects_are_cut_and_counted_while_others_are_served(
    starling: Starling, token: str
) -> None:
    before = refusals(starling, "handshake_timeout")
    halves = []
    for number in range(10_000):
        half = socket.create_connection(("127.0.0.1", starling.port))
        if number % 2:
            half.send(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
        halves.append(half)
        if number % 1000 == 0:
            await serves_on(starling, token)

    deadline = time.monotonic() + DEADLINE
    while refusals(starling, "handshake_timeout") < before + 10_000:
        assert time.monotonic() < deadline, refusals(starling, "handshake_timeout")
        await asyncio.sleep(0.2)

    for half in halves:
        half.close()
    await serves_on(starling, token)


# The lowest level writes every line; those of the others are some of them.
@pytest.mark.parametrize(
    "level", ["debug", *(pytest.param(level, marks=pytest.mark.long) for level in ("info", "warning", "error"))]
)
async def test_no_secret_reaches_a_line_at_any_level(level: str, token: str) -> None:
    canary = "canary-that-must-not-be-seen"
    environment = {
        "STARLING_TOKEN_HMAC_SECRET": SECRET,
        "STARLING_TOKEN_IN_QUERY": "true",
        "STARLING_LOG_LEVEL": level,
    }
    with Starling(environment) as starling:
        url = f"{starling.url}/ws"
        good: list[tuple[str, dict[str, str]]] = [
            (f"{url}?token={token}&other={canary}", {}),
            (url, bearer(token)),
            (url, {"Cookie": f"session={token}; other={canary}"}),
        ]
        for address, headers in good:
            async with connect(address, additional_headers=headers) as client:
                await client.send(canary)
                await client.recv()
        offered = [Subprotocol("starling.v1"), Subprotocol(f"bearer.{token}")]
        async with connect(url, subprotocols=offered) as client:
            await client.send(canary)
            await client.recv()
        bad: list[tuple[str, dict[str, str]]] = [
            (f"{url}?token={canary}", {}),
            (url, bearer(canary)),
            (url, {"Cookie": f"session={canary}"}),
            (url, {"Sec-WebSocket-Protocol": f"starling.v1, bearer.{canary}"}),
            (f"{starling.url}/ws/abc?token={canary}", {}),
            (f"{starling.url}/nowhere?token={canary}", {}),
        ]
        for address, headers in bad:
            with pytest.raises(InvalidStatus):
                await connect(address, additional_headers=headers)
        output = starling.output
        starling.stop()
        output += starling.log_path.read_text()

    signature = token.rsplit(".", 1)[1]
    assert signature not in output
    assert canary not in output
    assert SECRET not in output
    if level in {"debug", "info"}:
        assert output.count("client_connected") >= 4
