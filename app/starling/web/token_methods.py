"""The methods of the server API that end tokens and give tickets."""

import time

from starling.auth.tickets import Tickets
from starling.engine.revocation import Revocation, Revocations
from starling.protocol.codes import CommandRefused
from starling.web import api_results as results
from starling.web import api_token_models as token_models
from starling.web.api_errors import bad_request, not_available
from starling.web.api_request import RequestChannels, shown


class TokenMethods:
    """Each method raises CommandRefused and BrokerUnavailable."""

    def __init__(
        self,
        revocations: Revocations,
        channels: RequestChannels,
        tickets: Tickets,
        *,
        revocation_seconds: float,
    ) -> None:
        """`revocation_seconds` is how long a revocation is kept that names no end."""
        self._revocations = revocations
        self._channels = channels
        self._tickets = tickets
        self._revocation_seconds = revocation_seconds

    async def revoke_token(self, request: token_models.RevokeTokenBody) -> results.RevocationResponse:
        """Refuse a token from now on."""
        stored = await self._revoke(Revocation("token", request.uid, self._end(request.expire_at)))
        return results.RevocationResponse(stored)

    async def revoke_session(self, request: token_models.RevokeSessionBody) -> results.RevocationResponse:
        """Refuse the tokens of a session from now on."""
        stored = await self._revoke(Revocation("session", request.session, self._end(request.expire_at)))
        return results.RevocationResponse(stored)

    async def invalidate_user_tokens(
        self, request: token_models.InvalidateUserTokensBody
    ) -> results.InvalidateUserTokensResponse:
        """Refuse a user's tokens that were issued before a time."""
        # Whole seconds, as in tokens: one that is issued right after this must pass.
        before = float(int(time.time())) if request.issued_before is None else request.issued_before
        if request.channel:
            self._channels.options(request.channel)
        revocation = Revocation("user", request.user, self._end(request.expire_at), before, request.channel)
        stored = await self._revoke(revocation)
        return results.InvalidateUserTokensResponse(before, stored)

    async def ticket(self, request: token_models.TicketBody) -> results.TicketResponse:
        """Issue a one-time ticket."""
        if not self._tickets.available:
            raise not_available("this broker keeps no tickets: use redis://")
        for channel in request.channels:
            self._channels.options(channel)
        if request.expire_at is not None and request.expire_at <= time.time():
            raise CommandRefused(bad_request("expire_at: it is past, so there is no session to open"))
        info = bytes(shown(request.info, field="info", needed=False))
        issued = await self._tickets.issue(
            request.user, request.channels, info, seconds=request.ttl, expires_at=request.expire_at
        )
        return results.TicketResponse(issued.ticket, issued.session)

    async def _revoke(self, revocation: Revocation) -> bool:
        if not self._revocations.available:
            raise not_available("this broker keeps no revocations: use redis://")
        return await self._revocations.revoke(revocation)

    def _end(self, expire_at: float | None) -> float:
        if expire_at is None:
            return time.time() + self._revocation_seconds
        if expire_at <= time.time():
            raise CommandRefused(bad_request("expire_at: it is past, so there is nothing left to revoke"))
        return expire_at
