"""Values that many replies hold, encoded once for each format; of what has changed, only the new parts."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from starling.protocol.messages import ClientInfo, Publication

Encoded = TypeVar("Encoded")


class SharedPublications(list[Publication]):
    """Publications that many clients get in their replies; they are encoded once for each format.

    Nothing changes it once it is made. `encoded` and `pieces` are the codecs' own, by the codec's name: what each made
    of it, and of each publication; None where the publications are of this object alone.
    """

    __slots__ = ("encoded", "pieces")

    def __init__(self, publications: Iterable[Publication], pieces: list[dict[str, Any]] | None = None) -> None:
        super().__init__(publications)
        self.encoded: dict[str, Any] = {}
        self.pieces = pieces

    def pieces_of(
        self, codec: str, encode: Callable[[Collection[Publication]], Iterable[Encoded]]
    ) -> list[Encoded] | None:
        """What `encode` made of each publication, which it does only for those that are new; None without pieces."""
        if self.pieces is None:
            return None
        new = [index for index, piece in enumerate(self.pieces) if codec not in piece]
        if new:
            for index, encoded in zip(new, encode([self[index] for index in new]), strict=True):
                self.pieces[index][codec] = encoded
        return [piece[codec] for piece in self.pieces]


class SharedMembers(dict[str, ClientInfo]):
    """The members of a channel, by client id, that many replies hold; encoded once, as SharedPublications are.

    `size` is the bytes of their ids and infos.
    """

    __slots__ = ("_pieces", "encoded", "size")

    def __init__(self, members: Iterable[tuple[str, ClientInfo]]) -> None:
        super().__init__(members)
        self.encoded: dict[str, Any] = {}
        self.size = _size(self.values())
        # None until members change, because a whole is encoded faster at once.
        self._pieces: dict[str, dict[str, Any]] | None = None

    def changed(self, gone: Collection[str], now: Mapping[str, ClientInfo]) -> "SharedMembers":
        """These members without those that are `gone` and with those of `now`; what was made of the others is kept.

        A member that changed is in both.
        """
        after = SharedMembers(())
        after.update(self)
        after.size = self.size - _size([after.pop(client) for client in gone]) + _size(now.values())
        after.update(now)
        after._pieces = {}
        for codec, pieces in (self._pieces or {}).items():
            after._pieces[codec] = kept = pieces.copy()
            for client in gone:
                kept.pop(client, None)
        return after

    def pieces_of(
        self, codec: str, encode: Callable[[Mapping[str, ClientInfo]], Iterable[Encoded]]
    ) -> Collection[Encoded] | None:
        """What `encode` made of each member, which it does only for those that are new; None where none has changed."""
        if self._pieces is None:
            return None
        pieces: dict[str, Encoded] = self._pieces.setdefault(codec, {})
        if new := {client: info for client, info in self.items() if client not in pieces}:
            pieces.update(zip(new, encode(new), strict=True))
        return pieces.values()


def _size(members: Iterable[ClientInfo]) -> int:
    return sum([len(info.user) + len(info.client) + len(info.conn_info) + len(info.chan_info) for info in members])
