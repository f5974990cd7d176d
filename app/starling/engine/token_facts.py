"""A verified token, the same object from its verification to its revocation."""

from msgspec import Struct


class TokenFacts(Struct, frozen=True):
    """What identifies a verified token.

    `user` is empty for an anonymous one, `session` is the login session that it belongs to, by its claim `sid` (OpenID
    Connect Front-Channel Logout 1.0, section 3). `issued_at` is in seconds since 1970. `channel` is empty for a
    connection token.
    """

    user: str = ""
    token_id: str = ""
    session: str = ""
    issued_at: float | None = None
    channel: str = ""
