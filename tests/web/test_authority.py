"""Clients that come to a worker before it knows which tokens are revoked."""

import asyncio
from typing import Any

import pytest

from starling.auth.build import build_verifier
from starling.auth.issue import issue_connection_token
from starling.auth.options import TokenOptions
from starling.auth.tokens import KeyNotLoaded, TokenRefused
from starling.engine.revocation import Revocation
from starling.web import authority
from starling.web.authority import RevocableVerifier
from tests.engine.test_revocation import LATER, Member, members
from tests.support.local_server import LocalServer
from tests.support.running import SECRET
from tests.support.waiting import DEADLINE

ALICE = issue_connection_token(SECRET, "alice", 86_400, jti="t1")
BOB = issue_connection_token(SECRET, "bob", 86_400, jti="t2")


def verifier(member: Member) -> RevocableVerifier:
    unrevoked, _ = build_verifier(TokenOptions.model_validate({"token_hmac_secret": SECRET}))
    no_tickets: Any = None
    return RevocableVerifier(unrevoked, member.revocations, no_tickets)


async def test_a_client_waits_until_the_worker_knows_which_tokens_are_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "LOAD_SECONDS", DEADLINE)
    server = LocalServer()
    async with members(server, 1) as (one,):
        await one.revocations.revoke(Revocation("token", "t1", LATER))
        server.stop()
        async with members(server, 1, up=False) as (late,):
            clients = verifier(late)
            with pytest.raises(KeyNotLoaded):
                clients.connection_now(ALICE)
            waiting = [asyncio.create_task(clients.connection(token)) for token in (ALICE, BOB)]
            server.start()
            revoked, valid = await asyncio.gather(*waiting, return_exceptions=True)

            assert isinstance(revoked, TokenRefused)
            assert not isinstance(revoked, KeyNotLoaded)
            assert not isinstance(valid, BaseException), valid
            assert valid.user == "bob"


async def test_a_client_waits_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "LOAD_SECONDS", 0.01)
    server = LocalServer()
    server.stop()
    async with members(server, 1, up=False) as (late,):
        with pytest.raises(KeyNotLoaded):
            await verifier(late).connection(BOB)
