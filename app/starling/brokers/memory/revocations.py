"""Revocations of a single process; they last as long as it does."""

import time
from collections.abc import Collection

from starling.engine.revocation import Revocation, StoredRevocations


class MemoryRevocations:
    """Implements starling.engine.revocation.RevocationStore."""

    def __init__(self) -> None:
        self._revocations: dict[tuple[str, str, str, float], Revocation] = {}
        self._version = 0

    async def add(self, revocations: Collection[Revocation]) -> int:
        """Keep them; returns the version."""
        now = time.time()
        self._revocations = {name: kept for name, kept in self._revocations.items() if kept.expires_at > now}
        for revocation in revocations:
            name = (revocation.kind, revocation.id, revocation.channel, revocation.issued_before)
            if name not in self._revocations or self._revocations[name].expires_at < revocation.expires_at:
                self._revocations[name] = revocation
                self._version += 1
        return self._version

    async def version(self) -> int:
        """How many were ever added."""
        return self._version

    async def writable(self) -> bool:
        """True."""
        return True

    async def load(self) -> StoredRevocations:
        """All that are kept."""
        return StoredRevocations(self._version, list(self._revocations.values()))
