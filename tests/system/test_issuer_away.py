"""A service whose issuer of tokens is away from the start: nobody is refused for good, and it heals by itself."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.auth.issuer import Issuer, SigningKey
from tests.support.history_clients import HistoryClient, Refused
from tests.support.running import Starling
from tests.support.waiting import DEADLINE

ENDPOINTS = ("/ws", "/items/plumbus/ws", "/ws/7")


@pytest.fixture
def key() -> SigningKey:
    return SigningKey("first")


@pytest.fixture
def issuer(key: SigningKey) -> Iterator[Issuer]:
    """It has its port, and does not listen there yet."""
    issuer = Issuer(key)
    issuer.start()
    issuer.stop()
    yield issuer
    issuer.stop()


async def test_until_the_keys_are_here_clients_get_a_temporary_error_and_then_they_get_in(
    issuer: Issuer, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    token = key.token(exp=int(time.time()) + 600, aud="starling")
    headers = {"Authorization": f"Bearer {token}"}
    settings = {"STARLING_TOKEN_JWKS_URL": issuer.url, "STARLING_TOKEN_AUDIENCE": "starling"}
    with Starling(settings) as starling:
        for path in ENDPOINTS:
            with pytest.raises(InvalidStatus) as refusal:
                await connect(starling.url + path, additional_headers=headers)
            assert refusal.value.response.status_code == 503
            assert int(refusal.value.response.headers["Retry-After"]) >= 1
        # By the command's token and by the handshake's: an error that is temporary, after which SDKs try again.
        requests: list[dict[str, object]] = [{"token": token}, {"headers": headers}]
        for given in requests:
            with pytest.raises(Refused) as refused:
                await connect_with(starling, given)
            assert refused.value.code == 100

        issuer.start()
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    async with connect(f"{starling.url}/ws", additional_headers=headers) as client:
                        await client.send("in")
                        assert await client.recv() == "Message text was: in"
                    break
                except InvalidStatus:
                    await asyncio.sleep(0.2)
        assert (await connect_with(starling, {"token": token}))["client"]
        refusals = starling.metrics()['starling_connections_refused_total{reason="issuer_unavailable"}']
        assert refusals >= len(ENDPOINTS)
        assert not [line for line in starling.lines if line["event"] == "client_failed"]


async def connect_with(starling: Starling, request: dict[str, object]) -> dict[str, object]:
    """The result of a connect command."""
    client = HistoryClient(starling.url, request)
    try:
        await client.__aenter__()
        return client.connected
    finally:
        await client.__aexit__(None, None, None)
