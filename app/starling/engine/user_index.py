"""The index of this process's connections by their users."""

from collections.abc import Collection

from starling.engine.receiver import Receiver


class UserIndex:
    """The connections of each user; those without a user are the empty name's.

    Most users have one connection, which stands in the dictionary by itself: a set costs 216 bytes.
    """

    __slots__ = ("_alone", "_several")

    def __init__(self) -> None:
        self._alone: dict[str, Receiver] = {}
        self._several: dict[str, set[Receiver]] = {}

    def __len__(self) -> int:
        return len(self._alone) + len(self._several)

    def of(self, user: str) -> Collection[Receiver]:
        """All connections of a user."""
        if (several := self._several.get(user)) is not None:
            return several
        alone = self._alone.get(user)
        return () if alone is None else (alone,)

    def add(self, receiver: Receiver) -> None:
        """Add a connection under its user; twice is once."""
        user = receiver.user
        if (several := self._several.get(user)) is not None:
            several.add(receiver)
            return
        alone = self._alone.setdefault(user, receiver)
        if alone is not receiver:
            del self._alone[user]
            self._several[user] = {alone, receiver}

    def remove(self, receiver: Receiver) -> None:
        """Remove a connection from its user; unknown is no error."""
        user = receiver.user
        if self._alone.get(user) is receiver:
            del self._alone[user]
        elif (several := self._several.get(user)) is not None:
            several.discard(receiver)
            if not several:
                del self._several[user]
