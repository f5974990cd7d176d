"""The refusal of revoked tokens, at every endpoint."""

from starling.auth.tokens import (
    Credentials,
    KeyNotLoaded,
    RefusalReason,
    SubscriptionGrant,
    TokenRefused,
    TokenVerifier,
)
from starling.engine.revocation import Revocations
from starling.engine.token_facts import TokenFacts


class RevocableVerifier:
    """Implements starling.auth.tokens.TokenVerifier: what another one verifies, unless it is revoked."""

    def __init__(self, verifier: TokenVerifier, revocations: Revocations) -> None:
        self._verifier = verifier
        self._revocations = revocations

    def connection_now(self, token: str) -> Credentials:
        """Verify a connection token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""
        credentials = self._verifier.connection_now(token)
        self._check(credentials.token)
        return credentials

    def subscription_now(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""
        grant = self._verifier.subscription_now(token)
        self._check(grant.token)
        return grant

    async def connection(self, token: str) -> Credentials:
        """Verify a connection token. Raises TokenRefused."""
        credentials = await self._verifier.connection(token)
        self._check(credentials.token)
        return credentials

    async def subscription(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token. Raises TokenRefused."""
        grant = await self._verifier.subscription(token)
        self._check(grant.token)
        return grant

    def still_valid(self, token: TokenFacts | None) -> bool:
        """As Revocations.still_valid."""
        return self._revocations.still_valid(token)

    def _check(self, token: TokenFacts) -> None:
        if not self._revocations.loaded:
            raise KeyNotLoaded(
                RefusalReason.REVOCATIONS_NOT_LOADED,
                "This process has not yet been able to read which tokens are revoked.",
            )
        if not self.still_valid(token):
            raise TokenRefused(RefusalReason.REVOKED, "The token was revoked.")
