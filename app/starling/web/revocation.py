"""Takes tokens and tickets, whatever the endpoint, and refuses those that were revoked."""

from starling.auth.tickets import Tickets, is_ticket
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
    """Implements starling.auth.tokens.TokenVerifier: what another one verifies, or a ticket, unless it is revoked.

    A ticket counts as a connection token whose key is not at hand, because the broker must be asked.
    """

    def __init__(self, verifier: TokenVerifier, revocations: Revocations, tickets: Tickets) -> None:
        self._verifier = verifier
        self._revocations = revocations
        self._tickets = tickets

    def connection_now(self, token: str) -> Credentials:
        """Verify a connection token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""
        if is_ticket(token):
            raise KeyNotLoaded(RefusalReason.TICKETS_UNAVAILABLE, "The broker has not been asked for the ticket.")
        credentials = self._verifier.connection_now(token)
        self._check(credentials.token)
        return credentials

    def subscription_now(self, token: str) -> SubscriptionGrant:
        """Verify a subscription token with the keys at hand. Raises TokenRefused, and of that KeyNotLoaded."""
        grant = self._verifier.subscription_now(token)
        self._check(grant.token)
        return grant

    async def connection(self, token: str) -> Credentials:
        """Verify a connection token, or spend a ticket. Raises TokenRefused."""
        if is_ticket(token):
            # Before it is spent.
            self._check_loaded()
            credentials = await self._tickets.take(token)
        else:
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
        self._check_loaded()
        if not self.still_valid(token):
            raise TokenRefused(RefusalReason.REVOKED, "The token was revoked.")

    def _check_loaded(self) -> None:
        if not self._revocations.loaded:
            raise KeyNotLoaded(
                RefusalReason.REVOCATIONS_NOT_LOADED,
                "This process has not yet been able to read which tokens are revoked.",
            )
