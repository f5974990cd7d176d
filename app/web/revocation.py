"""Refuses tokens that were revoked, whatever door they are brought to."""

from typing import NoReturn

from app.auth.tokens import Credentials, KeyNotLoaded, RefusalReason, SubscriptionGrant, TokenRefused, TokenVerifier
from app.core.revocation import Revocations
from app.core.token_facts import TokenFacts


def connection_facts(credentials: Credentials) -> TokenFacts:
    """What a connection token is known by."""
    return TokenFacts(credentials.user, credentials.token_id, credentials.session, credentials.issued_at)


def subscription_facts(grant: SubscriptionGrant) -> TokenFacts:
    """What a subscription token is known by."""
    return TokenFacts(grant.user, grant.token_id, grant.session, grant.issued_at, grant.channel)


class RevocableVerifier:
    """Implements app.auth.tokens.TokenVerifier: what another one verifies, unless it is revoked."""

    def __init__(self, verifier: TokenVerifier, revocations: Revocations) -> None:
        self._verifier = verifier
        self._revocations = revocations

    async def connection(self, token: str) -> Credentials:
        """Verify a connection token. Raises TokenRefused."""
        return self._connection(await self._verifier.connection(token))

    async def subscription(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token. Raises TokenRefused."""
        return self._subscription(await self._verifier.subscription(token))

    def connection_now(self, token: str) -> Credentials:
        """Verify a connection token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""
        return self._connection(self._verifier.connection_now(token))

    def subscription_now(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""
        return self._subscription(self._verifier.subscription_now(token))

    def revoked(self, token: TokenFacts) -> bool:
        """Whether a token that was good has been revoked since."""
        return self._revocations.refuses(token)

    def _connection(self, credentials: Credentials) -> Credentials:
        if not self._revocations.loaded or self.revoked(connection_facts(credentials)):
            self._refuse()
        return credentials

    def _subscription(self, grant: SubscriptionGrant) -> SubscriptionGrant:
        if not self._revocations.loaded or self.revoked(subscription_facts(grant)):
            self._refuse()
        return grant

    def _refuse(self) -> NoReturn:
        if not self._revocations.loaded:
            raise KeyNotLoaded(
                RefusalReason.REVOCATIONS_NOT_LOADED,
                "This process has not yet been able to read which tokens are revoked.",
            )
        raise TokenRefused(RefusalReason.REVOKED, "The token was revoked.")
