"""Sends a message to the echo door and waits for its echo; without a secret to make a token with, expects a 403."""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.auth.issue import issue_connection_token

TIMEOUT = 20


async def round_trip(url: str, headers: dict[str, str]) -> None:
    """Raise where the echo is not what the door promises."""
    async with asyncio.timeout(TIMEOUT), connect(url, additional_headers=headers) as websocket:
        await websocket.send("helm test")
        answer = await websocket.recv()
    if answer != "Message text was: helm test":
        sys.exit(f"{url} answered {answer!r}")
    print(f"{url} answered as it should")


def headers() -> dict[str, str]:
    """The token's header, where there is a secret to sign one with."""
    secret = os.environ.get("STARLING_TOKEN_HMAC_SECRET")
    if not secret:
        return {}
    claims = {"aud": "STARLING_TOKEN_AUDIENCE", "iss": "STARLING_TOKEN_ISSUER"}
    known = {claim: os.environ[name] for claim, name in claims.items() if os.environ.get(name)}
    return {"Authorization": "Bearer " + issue_connection_token(secret, "helm-test", 60, **known)}


try:
    asyncio.run(round_trip(sys.argv[1], headers()))
except InvalidStatus as refused:
    if headers() or refused.response.status_code != 403:
        raise
    print(f"{sys.argv[1]} refused a client without a token, as it should; this chart holds no secret to make one with")
