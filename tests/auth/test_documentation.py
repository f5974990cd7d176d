"""The page on tokens: its examples run and are accepted, its tables name what there is."""

import re
from pathlib import Path
from typing import Any

import pytest

from starling.auth.claims import TokenRules
from starling.auth.jwt import JwtVerifier
from starling.auth.keys import VerificationKey
from starling.auth.tokens import RefusalReason
from starling.engine.override import ChannelOverride
from tests.auth.forge import SECRET

PAGE = (Path(__file__).parents[2] / "docs" / "tokens.md").read_text()


def test_the_examples_make_tokens_that_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLING_TOKEN_HMAC_SECRET", SECRET)
    verifier = JwtVerifier([VerificationKey.from_secret(SECRET)], TokenRules())
    connection, subscription = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(connection, names)
    granted = verifier.connection_now(names["token"])
    assert (granted.user, granted.info) == ("alice", b'{"name":"Alice"}')
    exec(subscription, names)
    grant = verifier.subscription_now(names["token"])
    assert (grant.user, grant.channel) == ("alice", "$chat:42")


def test_every_reason_for_a_refusal_is_explained() -> None:
    table = PAGE.partition("## Why a token is refused")[2]
    first_cells = re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`([a-z_]+)`", cell)} == set(RefusalReason)


def test_every_override_is_named() -> None:
    assert all(f"`{name}`" in PAGE for name in ChannelOverride.__struct_fields__)
