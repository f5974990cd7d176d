"""Tokens as the backend of an application would issue them to the clients of these tests."""

from typing import Any

from starling.auth.issue import issue_connection_token, issue_subscription_token
from tests.sdk.client import ClientOptions
from tests.support.running import SECRET


def connection_token(user: str = "alice", ttl: float | None = 3600, **claims: Any) -> str:
    """A connection token that ends in `ttl` seconds, which may be past."""
    return issue_connection_token(SECRET, user, ttl, **claims)


def subscription_token(channel: str, user: str = "alice", ttl: float | None = 3600, **claims: Any) -> str:
    """A subscription token that ends in `ttl` seconds."""
    return issue_subscription_token(SECRET, user, channel, ttl, **claims)


def user(name: str = "alice", **claims: Any) -> ClientOptions:
    """A client with a token of that user."""
    return ClientOptions(token=connection_token(name, **claims))
