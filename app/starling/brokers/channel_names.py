"""Channel names as brokers store them: without the characters that a broker gives a meaning to.

Only names that hold a user id may have such characters: personal channels (`#USER`, `NAMESPACE:#USER`) and the
service's own channels, which begin with a colon. All other names are stored as they are.
"""

import re
from urllib.parse import unquote

from starling.engine.channels import USERS_MARK

# Braces mark what Redis Cluster hashes; the percent sign keeps two names from becoming one.
_ENCODED = re.compile(r"[%{}\x00-\x1f\x7f]")


def stored_name(channel: str) -> str:
    """`channel`, percent-encoded (RFC 3986 section 2.1) where it may hold a user id; no two are stored alike."""
    if USERS_MARK not in channel and not channel.startswith(":"):
        return channel
    return _ENCODED.sub(lambda found: f"%{ord(found[0]):02X}", channel)


def original_name(stored: str) -> str:
    """The channel that is stored as `stored`."""
    if USERS_MARK not in stored and not stored.startswith(":"):
        return stored
    return unquote(stored, errors="strict")
