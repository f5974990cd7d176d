"""What a token is known by once it has been verified: enough to find whom its revocation concerns."""

from msgspec import Struct


class TokenFacts(Struct, frozen=True):
    """A verified token. `channel` is empty for a connection token, `issued_at` in seconds since 1970."""

    user: str
    token_id: str = ""
    session: str = ""
    issued_at: float | None = None
    channel: str = ""
