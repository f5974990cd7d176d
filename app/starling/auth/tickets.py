"""One-time tickets: made for a user, spent once anywhere; and the right to resume the session that one has opened."""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from starling.auth.tokens import Credentials, KeyNotLoaded, RefusalReason, SubscriptionOptions, TokenRefused
from starling.engine.broker import BrokerUnavailable
from starling.engine.receiver import TokenFacts
from starling.engine.small_stores import TicketStore

TICKET_MARK = "tkt_"
RIGHT_MARK = "tkr_"
TICKET_BYTES = 16
# How long a session without an end of its own may be resumed after its ticket was made.
RESUME_SECONDS = 86400.0

_SPENT = "The ticket is unknown, has been spent, or is over."
_AWAY = "The broker, which knows the tickets, does not answer."


class SessionTerms(Struct, frozen=True, omit_defaults=True):
    """What a ticket grants, and the right to resume its session after it.

    `expires_at` is the end of the session, `resumable_until` that of the right, `issued_at` when the ticket was made;
    all in seconds since 1970, None is never.
    """

    user: str
    session: str
    issued_at: float
    resumable_until: float
    channels: tuple[str, ...] = ()
    info: bytes = b""
    expires_at: float | None = None


class IssuedTicket(Struct, frozen=True):
    """A new ticket, and the id of the session that it opens. Its `repr` does not show the ticket."""

    ticket: str
    session: str

    def __repr__(self) -> str:
        return f"IssuedTicket(session={self.session!r})"


def is_ticket(text: str) -> bool:
    """Whether `text` is a ticket or a right to resume by its form, be it valid or not; no signed token is."""
    return text.startswith((TICKET_MARK, RIGHT_MARK))


class Tickets:
    """Makes tickets and takes them. `store` None: this broker keeps none."""

    def __init__(self, store: TicketStore | None) -> None:
        self._store = store
        self._key: bytes | None = None
        self._decode = msgspec.json.Decoder(SessionTerms).decode

    @property
    def available(self) -> bool:
        """Whether there are tickets."""
        return self._store is not None

    async def issue(
        self, user: str, channels: Sequence[str], info: bytes, *, seconds: float, expires_at: float | None
    ) -> IssuedTicket:
        """Make a ticket that may be spent within `seconds`. Raises BrokerUnavailable, ValueError without a store."""
        if self._store is None:
            raise ValueError("this broker keeps no tickets")
        # What spending the ticket needs is there before the ticket is, whatever the store refuses later.
        await self._signing_key(self._store)
        ticket = TICKET_MARK + secrets.token_urlsafe(TICKET_BYTES)
        now = time.time()
        terms = SessionTerms(
            user=user,
            session=secrets.token_hex(TICKET_BYTES),
            issued_at=now,
            resumable_until=now + RESUME_SECONDS if expires_at is None else expires_at,
            channels=tuple(channels),
            info=info,
            expires_at=expires_at,
        )
        await self._store.keep(_digest(ticket), msgspec.json.encode(terms), seconds)
        return IssuedTicket(ticket, terms.session)

    async def take(self, text: str) -> Credentials:
        """Spend a ticket, or check a right to resume. Raises TokenRefused, and of that KeyNotLoaded."""
        if self._store is None:
            raise TokenRefused(RefusalReason.TICKET_SPENT, _SPENT)
        try:
            key = await self._signing_key(self._store)
            if text.startswith(RIGHT_MARK):
                return self._resumed(text, key)
            content = await self._store.spend(_digest(text))
        except BrokerUnavailable as away:
            raise KeyNotLoaded(RefusalReason.TICKETS_UNAVAILABLE, _AWAY) from away
        if content is None:
            raise TokenRefused(RefusalReason.TICKET_SPENT, _SPENT)
        signature = hmac.digest(key, content, "sha256")
        right = f"{RIGHT_MARK}{_encode(content)}.{_encode(signature)}"
        return _credentials(self._decode(content), right)

    async def _signing_key(self, store: TicketStore) -> bytes:
        """What rights to resume are signed with. Raises BrokerUnavailable."""
        if self._key is None:
            self._key = await store.signing_key()
        return self._key

    def _resumed(self, right: str, key: bytes) -> Credentials:
        content, signature = _parts(right)
        if not hmac.compare_digest(hmac.digest(key, content, "sha256"), signature):
            raise TokenRefused(RefusalReason.BAD_SIGNATURE, "The right to resume a session was not signed here.")
        terms = self._decode(content)
        if terms.resumable_until <= time.time():
            raise TokenRefused(RefusalReason.EXPIRED, "The session of this right to resume is over.")
        return _credentials(terms, right)


def _credentials(terms: SessionTerms, right: str) -> Credentials:
    return Credentials(
        token=TokenFacts(terms.user, session=terms.session, issued_at=terms.issued_at),
        expires_at=terms.expires_at,
        info=terms.info,
        subs={channel: SubscriptionOptions() for channel in terms.channels},
        resume=right,
    )


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _parts(right: str) -> tuple[bytes, bytes]:
    content, _, signature = right.removeprefix(RIGHT_MARK).partition(".")
    try:
        return base64.urlsafe_b64decode(content + "==="), base64.urlsafe_b64decode(signature + "===")
    except (binascii.Error, ValueError):
        raise TokenRefused(RefusalReason.MALFORMED, "This is no right to resume a session.") from None
